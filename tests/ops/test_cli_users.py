"""`altiora user`, `altiora key` and the owners of businesses: links that work, and entries in the trail."""

from typing import Any

import pytest
from pydantic import SecretStr

from accounts.api_keys import make_key, program_of
from accounts.links import NewAccount, accept_link, open_link
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from accounts.sessions import living_sessions
from pipeline.shared import settings
from pipeline.shared.settings import ApiSettings, DashboardSettings, MailSettings, SecretKeySettings, SettingsError
from tests.worlds.people import People

NEW = NewAccount("Ada Byron", "seven lanterns under quartz")


@pytest.fixture
def people(engine) -> People:
    return People(engine, SecretKeys([SecretStr("k" * 40)]))


def secret_in(said: str) -> str:
    (link,) = [line.strip() for line in said.splitlines() if "/link#" in line]
    assert link.startswith("http://127.0.0.1:8001/link#")
    return link.partition("#")[2]


def entries(people) -> list[tuple[str, str, str | None]]:
    return list(people.rows("select what, subject, reason from audit_entries order by id"))


def test_the_first_administrator_comes_in_by_the_link_that_is_printed(altiora, people):
    assert "user add --staff administrator ADDRESS" in altiora("user", "list")
    said = altiora("user", "add", "ada@example.com", "--staff", "administrator")
    with people.engine.begin() as connection:
        done = accept_link(connection, secret_in(said), NEW)
    (listed,) = altiora.json("user", "list")
    assert (listed["id"], listed["staff_role"], listed["name"]) == (done.user_id, "administrator", "Ada Byron")
    assert people.rows("select kind, state from mails") == [("staff", "planned")], "it is mailed as well"
    assert entries(people) == [("user add", "users", None)]
    assert "Ada Byron" in altiora("user", "list", "BYRON")
    assert altiora.json("user", "list", "nobody") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("user", "add", "ada"), "no address"),
        (("user", "disable", "17"), "there is no user 17"),
        (("user", "disable", "zoe@example.com"), "there is no user zoe@example.com"),
        (("user", "enable", "ada@example.com"), "is not deactivated"),
        (("user", "reset-second-factor", "ada@example.com", "--reason", "called"), "has no second factor"),
        (("key", "revoke", "17"), "there is no key 17"),
    ],
)
def test_what_can_not_be_is_a_sentence(altiora, people, words, said):
    people.user("Ada")
    assert said in altiora(*words, status=1)
    assert entries(people) == []


def test_staff_is_one_of_three(altiora):
    assert "support, operator or administrator" in altiora("user", "add", "a@example.com", "--staff", "owner", status=2)


def test_somebody_is_shut_out_and_let_in_again(altiora, people):
    ada = people.user("Ada")
    people.session(ada)
    bakery = people.business("Bakery", owner=ada)
    assert f"they own {bakery}" in altiora("user", "disable", "Ada@Example.com", status=1)
    people.run("update businesses set owner_id = null")
    altiora("user", "disable", str(ada), "--reason", "left us")
    with people.engine.connect() as connection:
        assert living_sessions(connection, ada) == []
    assert "already" in altiora("user", "disable", str(ada), status=1)
    altiora("user", "enable", str(ada))
    assert entries(people) == [("user disable", f"user:{ada}", "left us"), ("user enable", f"user:{ada}", None)]


def test_a_password_is_reset_by_a_link_and_a_second_factor_with_a_reason(altiora, people):
    ada = people.user("Ada")
    people.enrol(ada)
    with people.engine.begin() as connection:
        secret = secret_in(altiora("user", "reset-password", "ada@example.com"))
        assert open_link(connection, secret)[0].email == "ada@example.com"
    altiora("user", "reset-second-factor", str(ada), status=2)
    altiora("user", "reset-second-factor", str(ada), "--reason", "she called from the number we know")
    assert people.one("select totp_secret is null from users")
    assert people.rows("select kind from mails order by id") == [("reset",), ("second-factor-off",)]
    assert entries(people)[1] == ("user reset-second-factor", f"user:{ada}", "she called from the number we know")


def test_a_business_gets_its_owner_by_a_link(altiora, people):
    said = altiora("business", "add", "Bakery", "--plan", "free", "--time-zone", "UTC", "--owner", "ada@example.com")
    with people.engine.begin() as connection:
        done = accept_link(connection, secret_in(said), NEW)
    assert people.one("select owner_id from businesses") == done.user_id
    zoe = people.user("Zoe")
    said = altiora("business", "invite-owner", "Bakery", "zoe@example.com", "--reason", "Ada sold it")
    with people.engine.begin() as connection:
        accept_link(connection, secret_in(said), None)
    assert people.one("select owner_id from businesses") == zoe
    assert people.rows("select user_id, role from business_members") == [(done.user_id, "admin")]
    assert entries(people)[-1] == ("business invite-owner", "business:1", "Ada sold it")


def test_an_owner_who_is_no_address_adds_no_business(altiora, people):
    options = ("--plan", "free", "--time-zone", "UTC", "--owner", "ada")
    assert "no address" in altiora("business", "add", "Bakery", *options, status=1)
    assert people.rows("select from businesses") == []


def test_a_key_is_listed_without_its_secret_and_revoked(altiora, people):
    bakery = people.business("Bakery", owner=people.user("Ada"))
    root = people.user("Root", staff=Role.ADMINISTRATOR)
    with people.engine.begin() as connection:
        about: dict[str, Any] = {"expires_at": None, "livemode": False}
        ada = people.one("select owner_id from businesses")
        key_id, secret = make_key(
            connection, business_id=bakery, user_id=ada, name="till", scopes=["members:read"], **about
        )
        make_key(connection, business_id=None, user_id=root, name="phones", scopes=["runtime:read"], **about)
    shown = altiora("key", "list", "Bakery")
    assert secret[:13] in shown
    assert secret not in shown
    assert [each["name"] for each in altiora.json("key", "list")] == ["phones"]
    altiora("key", "revoke", str(key_id), "--reason", "it leaked")
    assert "already" in altiora("key", "revoke", str(key_id), status=1)
    with people.engine.connect() as connection:
        assert program_of(connection, secret) is None
    assert entries(people) == [("key revoke", f"key:{key_id}", "it leaked")]


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        (SecretKeySettings, "SECRET_KEYS", "short", "shorter than 32"),
        (SecretKeySettings, "SECRET_KEYS", "k" * 40 + ",short", "shorter than 32"),
        (SecretKeySettings, "SECRET_KEYS", "", "is missing"),
        (DashboardSettings, "DASHBOARD_URL", "http://app.example.com", "plain http"),
        (DashboardSettings, "DASHBOARD_URL", "app.example.com", "https://"),
        (DashboardSettings, "DASHBOARD_URL", "https://app.example.com/here", "scheme, host and port"),
        (DashboardSettings, "DASHBOARD_URL", "https://u:p@app.example.com", "scheme, host and port"),
        (ApiSettings, "TRUSTED_PROXIES", "10.0.0.0/8,proxy", "proxy is no address"),
        (MailSettings, "SMTP_URL", "http://mail.example.com", "smtp://"),
        (MailSettings, "SMTP_URL", "smtp://a:b:c@h:x", "can't be read"),
    ],
)
def test_a_setting_that_is_wrong_is_a_sentence_without_its_value(kind, name, value, words):
    with pytest.raises(SettingsError, match=words) as refused:
        settings.load(kind, {f"ALTIORA_{name}": value})
    assert f"ALTIORA_{name}" in str(refused.value)
    assert "short" not in str(refused.value).replace("shorter", "")


def test_settings_that_are_right_are_read():
    chosen = {"ALTIORA_TRUSTED_PROXIES": "10.0.0.0/8, ::1", "ALTIORA_DASHBOARD_URL": "http://localhost:8001/"}
    assert settings.load(ApiSettings, chosen).trusted_proxies == ("10.0.0.0/8", "::1")
    assert settings.load(DashboardSettings, chosen).dashboard_url == "http://localhost:8001"
    assert settings.load(ApiSettings, {}).trusted_proxies == ()
