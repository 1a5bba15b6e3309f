"""Ways into somebody else's account or business, each of which was open once."""

import hashlib
import json

import pyotp
import pytest
from sqlalchemy import make_url, text

from accounts import users
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from db.engine import make_engine
from ops.processes import own_database
from tests.worlds.api import serving_api
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast
from tests.worlds.people import SECRET, People

NEW = "copper lantern meadow 2291 quartz"


def test_setting_up_a_second_factor_asks_for_a_proof_and_is_none(api, people):
    ada = people.user("Ada")
    stolen = api.signed_in(ada)
    offered = stolen.post("/me/second-factor").json()["secret"]
    people.run("update sessions set proven_at = now() - interval '1 hour'")
    code = {"code": pyotp.TOTP(offered).now()}
    assert stolen.post("/me/second-factor").status_code == 403
    assert stolen.post("/me/second-factor/confirmations", json=code).status_code == 403
    people.run("update sessions set proven_at = now() - interval '14 minutes 58 seconds'")
    assert stolen.post("/me/second-factor/confirmations", json=code).status_code == 201
    people.pass_time(3)
    assert stolen.post("/me/password", json={"password": NEW}).status_code == 403


@breaks("accounts/links.py", "account.secured_at < link.created_at", "True")
@pytest.mark.parametrize("secured", ["reset", "password", "deactivated"])
def test_a_new_address_that_was_asked_for_before_the_account_was_secured_is_none(api, people, secured):
    ada = people.user("Ada")
    thief, own = api.signed_in(ada), api.signed_in(ada)
    assert thief.post("/me/email", json={"email": "thief@example.org"}).status_code == 202
    secret = api.mail("thief@example.org")
    match secured:
        case "reset":
            browser = api.browser()
            browser.post("/password-resets", email="ada@example.com")
            browser.post("/links/accept", secret=api.mail("ada@example.com"), password=NEW)
        case "password":
            assert own.post("/me/password", json={"password": NEW}).status_code == 204
        case "deactivated":
            with people.engine.begin() as connection:
                users.deactivate_user(connection, ada)
                users.activate_user(connection, ada)
    api.browser().post("/links/look", secret=secret, status=410)
    api.browser().post("/links/accept", secret=secret, status=410)
    assert people.one("select email from users") == "ada@example.com"


def test_a_newer_wish_for_an_address_takes_the_place_of_each_before_it(api, people):
    client = api.signed_in(people.user("Ada"))
    client.post("/me/email", json={"email": "first@example.org"})
    first = api.mail("first@example.org")
    client.post("/me/email", json={"email": "second@example.org"})
    api.browser().post("/links/accept", secret=first, status=410)
    api.browser().post("/links/accept", secret=api.mail("second@example.org"))


@breaks("accounts/mail_sending.py", "link.email if account is None else account.email", "link.email")
def test_a_reset_is_mailed_to_the_address_that_is_known(api, people):
    people.user("Ada")
    api.browser().post("/password-resets", email="ADA@example.com")
    api.mail("ada@example.com")


def test_in_no_locale_another_letter_is_an_i(servers, administration):
    """Where the database's small letter of İ is i, a reset for one address changed the password of another."""
    with administration.connect() as connection:
        connection.execute(
            text(
                "create database other_locale template template0 locale_provider builtin"
                " builtin_locale 'C.UTF-8' locale 'C'"
            )
        )
        url = make_url(servers.database_url).set(database="other_locale").render_as_string(hide_password=False)
        try:
            own_database.prepare(url)
            engine = make_engine(url)
            people = People(engine, SecretKeys([SECRET]))
            people.user("Victim")
            assert people.one("select lower('\u0130') = 'i'"), "the test is about something"
            with serving_api(people) as api:
                api.browser().post("/password-resets", email="v\u0130ctim@example.com")
                secret = people.secret_of(people.one("select id from account_links"))
                api.browser().post("/links/accept", secret=secret, password=NEW, status=410)
            engine.dispose()
        finally:
            connection.execute(text("drop database other_locale with (force)"))


def test_sessions_from_before_a_reset_of_the_second_factor_have_ended(api, people):
    cast = Cast(api, people)
    laptop, mine = cast.clients["operator"], cast.clients["owner"]
    path = f"/users/{cast.users['operator']}/second-factor-resets"
    assert cast.clients["administrator"].post(path, json={"reason": "lost"}).status_code == 200
    people.enrol(cast.users["operator"])
    assert laptop.get("/users").status_code == 401
    people.enrol(cast.users["owner"])
    other = api.signed_in(cast.users["owner"], second_factor=True)
    assert mine.delete("/me/second-factor").status_code == 204
    assert (mine.get("/me").status_code, other.get("/me").status_code) == (200, 401)


def test_a_request_that_may_be_sent_again_keeps_no_fast_digest_of_a_password(api, people):
    client = api.signed_in(people.user("Ada"))
    body = json.dumps({"password": NEW}).encode()
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    for _ in range(2):
        assert client.post("/me/password", content=body, headers=headers).status_code == 204
    assert people.rows("select body_sha256 from idempotency_keys") != [(hashlib.sha256(body).digest(),)]


def test_the_last_administrator_stays(api, people):
    ann = people.user("Ann", staff=Role.ADMINISTRATOR)
    people.enrol(ann)
    client = api.signed_in(ann, staff=True, second_factor=True)
    assert client.delete("/me").status_code == 409
    people.user("Ben", staff=Role.ADMINISTRATOR)
    assert client.delete("/me").status_code == 204


def test_an_administrator_changes_their_own_role_by_no_link(api, people):
    ann = people.user("Ann", staff=Role.ADMINISTRATOR)
    people.enrol(ann)
    client = api.signed_in(ann, staff=True, second_factor=True)
    people.user("Ben", staff=Role.ADMINISTRATOR)
    client.post("/users/staff", json={"email": "ann@example.com", "staff_role": "support"})
    api.browser().post("/links/accept", secret=api.mail("ann@example.com"), status=410)
    assert people.one("select staff_role from users where id = %s", ann) == "administrator"


def test_a_handing_over_is_taken_back_by_who_may_hand_over(api, people):
    cast = Cast(api, people)
    here = f"/businesses/{cast.place(1)['business_id']}"
    link_id = cast.clients["owner"].post(f"{here}/ownership", json={"email": "new@example.com"}).json()["id"]
    assert cast.clients["admin"].delete(f"{here}/invitations/{link_id}").status_code == 403
    assert cast.clients["owner"].delete(f"{here}/invitations/{link_id}").status_code == 204


def test_what_has_ended_gets_nobody_and_nothing_more(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    here, owner = f"/businesses/{place['business_id']}", cast.clients["owner"]
    invited = people.secret_of(place["invitation_id"])
    assert owner.delete(here).status_code == 200
    assert owner.post(f"{here}/invitations", json={"email": "x@example.com", "role": "member"}).status_code == 409
    assert owner.post(f"{here}/ownership", json={"email": "x@example.com"}).status_code == 409
    assert owner.post(f"{here}/api-keys", json={"name": "x", "scopes": ["members:read"]}).status_code == 409
    assert owner.post(f"{here}/api-keys/{place['key_id']}/rotations").status_code == 409
    api.browser().post("/links/accept", secret=invited, name="Zoe", password=NEW, status=409)
    assert owner.delete(f"{here}/api-keys/{place['key_id']}").status_code == 204, "it is tidied up all the same"


def test_mails_to_an_address_are_few_however_it_is_written_and_tell_no_other_tenant(api, people):
    cast = Cast(api, people)
    business_id = cast.place(1)["business_id"]

    def invite(actor: str, business_id: int, email: str) -> int:
        body = {"email": email, "role": "member"}
        return int(cast.clients[actor].post(f"/businesses/{business_id}/invitations", json=body).status_code)

    wide = "".join(chr(ord(letter) + 0xFEE0) for letter in "example")
    written = [f"bob@{wide[:at]}{'example'[at:]}.com" for at in range(8)]
    assert [invite("owner", business_id, email) for email in written] == [201] * 5 + [429] * 3
    assert invite("stranger", cast.strangers, "bob@example.com") == 201


@pytest.mark.parametrize("zone", ["localtime", "posixrules", "right/UTC", "posix/UTC", "Factory", "../UTC", "utc"])
def test_a_zone_that_postgresql_may_not_know_is_none(api, people, zone):
    client = api.signed_in(people.user("Ada"))
    assert client.post("/businesses", json={"name": "Bakery", "time_zone": zone}).status_code == 409
