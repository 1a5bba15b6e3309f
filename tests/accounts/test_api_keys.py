"""API keys: their form, and that one does no more than its scopes and its maker may."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts import api_keys, members
from accounts.api_keys import ApiKeyError, Program, is_well_formed, new_secret
from accounts.rights import ForbiddenError, Role
from pipeline.shared.clock import machine_now
from tests.worlds.breaking import breaks

SCOPES = ("businesses:read", "members:read")


@pytest.fixture
def bakery(people):
    return people.business("Bakery", owner=people.user("Ada"), admin=people.user("Bob"))


def make(people, business_id: int | None, maker: int | None, scopes=SCOPES, **about) -> tuple[int, str]:
    given_ = {"name": "till", "expires_at": None, "livemode": False} | about
    with people.engine.begin() as connection:
        return api_keys.make_key(connection, business_id=business_id, user_id=maker, scopes=scopes, **given_)


def program(people, secret: str) -> Program | None:
    with people.engine.connect() as connection:
        return api_keys.program_of(connection, secret)


def may(people, secret: str, right: str, business_id: int | None) -> bool:
    found = program(people, secret)
    if found is None:
        return False
    try:
        found.require(right, business_id)
    except ForbiddenError:
        return False
    return True


@given(st.booleans())
def test_a_key_is_known_by_its_form(livemode):
    secret = new_secret(livemode=livemode)
    assert secret.startswith("alt_live_" if livemode else "alt_test_")
    assert len(secret) == 9 + 32 + 6
    assert is_well_formed(secret)
    other = "a" if secret[20] != "a" else "b"
    for wrong in (secret[:-1], secret + "0", secret[:20] + other + secret[21:], "sk" + secret[3:], "", secret[9:]):
        assert not is_well_formed(wrong)


@given(st.text())
def test_what_is_no_key_is_none(text):
    assert not is_well_formed(text)
    assert not is_well_formed("alt_test_" + text)


def test_a_key_of_a_business_has_its_scopes_there_and_nothing_else(people, bakery):
    ada, florist = people.one("select owner_id from businesses"), people.business("Florist")
    key_id, secret = make(people, bakery, ada)
    assert program(people, secret) == Program(key_id, bakery, frozenset(SCOPES), Role.OWNER, note_use=True)
    assert may(people, secret, "members:read", bakery)
    for right, business_id in (
        ("businesses:write", bakery),
        ("members:write", bakery),
        ("keys:write", bakery),
        ("members:read", florist),
        ("members:read", None),
        ("users:read", None),
        ("users:read", bakery),
    ):
        assert not may(people, secret, right, business_id)
    assert people.rows("select prefix, name from api_keys") == [(secret[:13], "till")]


@breaks("accounts/api_keys.py", " and has_right(right, {self.maker_role})\n", "\n")
def test_it_can_do_no_more_than_its_maker_can_now(people, bakery):
    bob = people.one("select user_id from business_members")
    _, secret = make(people, bakery, bob, ("businesses:write", "businesses:read"))
    assert may(people, secret, "businesses:write", bakery)
    with people.engine.begin() as connection:
        assert members.set_member_role(connection, bakery, bob, Role.BILLING)
    assert not may(people, secret, "businesses:write", bakery)
    assert may(people, secret, "businesses:read", bakery)
    mails = people.rows("select kind, name from mails join users on users.id = user_id order by mails.id")
    assert mails == [("role-changed", "Bob"), ("keys-shrunk", "Ada")]
    people.pass_time(7 * 86_400 - 60)
    assert program(people, secret) is not None
    people.pass_time(61)
    assert program(people, secret) is None, "nobody has rotated it"
    people.run("update users set deactivated_at = now() where id = %s", bob)
    _, other = make(people, bakery, bob, SCOPES)
    assert not may(people, other, "businesses:read", bakery)


def test_who_leaves_takes_what_their_keys_may_do_until_somebody_rotates_them(people, bakery):
    ada, bob = people.one("select owner_id from businesses"), people.one("select user_id from business_members")
    key_id, secret = make(people, bakery, bob)
    with people.engine.begin() as connection:
        members.remove_member(connection, bakery, bob)
    assert not may(people, secret, "members:read", bakery)
    with people.engine.begin() as connection:
        other = api_keys.rotate_key(connection, key_id, ada, livemode=False)
    assert program(people, secret) is None
    assert may(people, other, "members:read", bakery)
    people.pass_time(8 * 86_400)
    assert may(people, other, "members:read", bakery)


def test_it_ends_at_once_when_revoked_and_in_time_when_it_expires(people, bakery):
    ada = people.one("select owner_id from businesses")
    key_id, secret = make(people, bakery, ada)
    _, short = make(people, bakery, ada, expires_at=machine_now() + timedelta(hours=1))
    people.pass_time(3_500)
    assert program(people, short) is not None
    people.pass_time(200)
    assert program(people, short) is None
    with people.engine.begin() as connection:
        assert api_keys.revoke_key(connection, key_id)
        assert not api_keys.revoke_key(connection, key_id)
        stored = api_keys.key_with_id(connection, key_id)
        assert stored is not None
        for change in (
            lambda: api_keys.change_key(connection, replace(stored, name="other")),
            lambda: api_keys.rotate_key(connection, key_id, ada, livemode=False),
        ):
            with pytest.raises(ApiKeyError, match="revoked"):
                change()
    assert program(people, secret) is None


@pytest.mark.parametrize(
    "scopes", [(), ("keys:write",), ("members:write",), ("users:read",), ("runtime:read",), ("x",)]
)
def test_what_no_key_may_have_is_no_scope(people, bakery, scopes):
    with pytest.raises(ApiKeyError, match="businesses:read"):
        make(people, bakery, people.one("select owner_id from businesses"), scopes)


def test_a_service_key_is_for_the_phone_platform_and_made_by_an_administrator(people, bakery):
    root = people.user("Root", staff=Role.ADMINISTRATOR)
    _, secret = make(people, None, root, ("runtime:read",))
    assert may(people, secret, "runtime:read", bakery)
    for right in ("admissions:write", "businesses:read", "users:read"):
        assert not may(people, secret, right, bakery)
    with pytest.raises(ApiKeyError, match="runtime:read"):
        make(people, None, root, ("businesses:read",))
    people.run("update users set staff_role = 'support' where id = %s", root)
    assert not may(people, secret, "runtime:read", bakery)


def test_its_use_is_noted_once_a_minute(people, bakery):
    key_id, secret = make(people, bakery, people.one("select owner_id from businesses"))
    with people.engine.begin() as connection:
        api_keys.note_use(connection, key_id)
    found = program(people, secret)
    assert found is not None
    assert not found.note_use
    people.pass_time(130)
    found = program(people, secret)
    assert found is not None
    assert found.note_use
