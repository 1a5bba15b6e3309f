"""Signing in while something else happens to the account."""

import pytest

from accounts import sign_in as signing_in
from accounts import users
from accounts.passwords import hash_password, verify_password
from accounts.rights import Role
from accounts.sign_in import SignedIn, SignInError, sign_in
from tests.worlds.breaking import breaks
from tests.worlds.people import PASSWORD


def attempt(people) -> SignedIn:
    return sign_in(
        people.engine,
        people.keys,
        email="ada@example.com",
        password=PASSWORD,
        code=None,
        known_device=None,
        device="a test",
        address="127.0.0.1",
    )


def reset(connection, user_id: int) -> None:
    users.set_password(connection, user_id, hash_password("seven lanterns under quartz"))


@breaks("accounts/sign_in.py", "if users.hold_user(connection, account.id) != account:", "if False:")
@pytest.mark.parametrize(
    "meanwhile",
    [
        reset,
        users.deactivate_user,
        lambda connection, user_id: users.set_email(connection, user_id, "ada@example.org"),
        lambda connection, user_id: users.set_staff_role(connection, user_id, Role.SUPPORT.value),
    ],
    ids=["password", "deactivated", "address", "staff"],
)
def test_what_ends_all_sessions_ends_the_one_too_that_is_about_to_begin(people, monkeypatch, meanwhile):
    """It would begin after they were ended, by what was right before."""
    ada = people.user("Ada")

    def slowly(password: str, stored: str | None) -> tuple[bool, str | None]:
        verified = verify_password(password, stored)
        with people.engine.begin() as connection:
            meanwhile(connection, ada)
        return verified

    with monkeypatch.context() as patched:
        patched.setattr(signing_in, "verify_password", slowly)
        with pytest.raises(SignInError):
            attempt(people)
    assert people.rows("select from sessions") == []


def test_nothing_happens_and_it_begins(people):
    people.user("Ada")
    assert attempt(people).session.token
