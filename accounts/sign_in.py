"""Signing in: address and password, then a code where there is a second factor; how often, and what is told.

What goes wrong before the password was right is told in the same words and after the same work, whether there is such
an account or not. Strangers have few attempts at an account; who has signed in from this browser before has others of
their own, so that nobody locks anybody out.
"""

from dataclasses import dataclass

from sqlalchemy import Engine

from accounts import attempt_limits as limits
from accounts import second_factor, sessions, users
from accounts.passwords import verify_password
from accounts.secret_keys import SecretKeys
from accounts.sessions import Refreshed


class SignInError(Exception):
    """Address or password is not right; which of them is not said."""


class CodeNeededError(Exception):
    """The password is right, and a code of the second factor is needed beside it."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A session that has begun. ``device`` marks the browser, to be kept there."""

    session: Refreshed
    device: str


def sign_in(
    engine: Engine,
    keys: SecretKeys,
    *,
    email: str,
    password: str,
    code: str | None,
    known_device: str | None,
    device: str,
    address: str,
) -> SignedIn:
    """Begin a session. ``known_device``: the mark that a former one left; ``device``: what the browser calls itself.

    Raises SignInError, CodeNeededError, CodeError and LimitedError.
    """
    with engine.begin() as connection:
        account = users.user_with_email(connection, email)
        known = sessions.knows_device(connection, account.id if account else None, known_device)
        limits.take(connection, keys, limits.SIGN_IN_BY_ADDRESS, limits.network(address))
        # Of what is no account as of one: an answer that is limited tells nothing either.
        if known:
            limits.take(connection, keys, limits.SIGN_IN_BY_DEVICE, known_device or "")
        else:
            limits.take(connection, keys, limits.SIGN_IN_BY_ACCOUNT, email.lower())
    right, better = verify_password(password, account.password_hash if account else None)
    if account is None or not right or account.deactivated_at is not None:
        raise SignInError("address or password is not right")
    if account.second_factor:
        if not code:
            raise CodeNeededError("give the code of the second factor too, or a recovery code")
        take_code(engine, keys, account.id, code)
    elif code:
        raise second_factor.CodeError("there is no second factor: sign in without a code")
    with engine.begin() as connection:
        # Who has set another password, or shut somebody out, while this one was looked at, has ended all sessions but
        # this one, which begins only now.
        if users.hold_user(connection, account.id) != account:
            raise SignInError("address or password is not right")
        if better is not None:
            users.rehash_password(connection, account.id, better)
        mark = known_device if known and known_device else sessions.new_token()
        sessions.know_device(connection, account.id, mark)
        begun = sessions.begin_session(
            connection,
            account.id,
            staff=account.staff_role is not None,
            second_factor=account.second_factor,
            device=device,
            address=address,
        )
    return SignedIn(begun, mark)


def take_code(engine: Engine, keys: SecretKeys, user_id: int, code: str) -> None:
    """Use up a code of the second factor. Raises CodeError and LimitedError."""
    with engine.begin() as connection:
        limits.take(connection, keys, limits.CODES, str(user_id))
    with engine.begin() as connection:
        second_factor.take_code(connection, keys, user_id, code)


def prove(engine: Engine, keys: SecretKeys, session_id: int, user_id: int, password: str, code: str | None) -> None:
    """Show once more that one is who signed in, for what would hurt most.

    Raises SignInError, CodeNeededError, CodeError and LimitedError.
    """
    with engine.begin() as connection:
        limits.take(connection, keys, limits.SIGN_IN_BY_DEVICE, f"session:{session_id}")
        account = users.user_with_id(connection, user_id)
    right, _ = verify_password(password, account.password_hash if account else None)
    if account is None or not right:
        raise SignInError("the password is not right")
    if account.second_factor:
        if not code:
            raise CodeNeededError("give the code of the second factor too")
        take_code(engine, keys, user_id, code)
    with engine.begin() as connection:
        sessions.note_proof(connection, session_id, second_factor=account.second_factor)
