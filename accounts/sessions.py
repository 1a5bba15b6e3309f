"""Sessions: who is signed in on which device, for how long, and the chain of refresh tokens that keeps one going.

The next token is an HMAC of the one before, so that two tabs which refresh at once get the same one, and an answer
that was lost is given again. The one before works until its successor was used, and ten seconds after; whoever shows
an older one shows that it was copied, and the session ends for both. All by the machine clock.
"""

import base64
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection, Engine

from accounts.mails import MailKind, plan_mail
from accounts.secret_keys import Purpose, SecretKeys, sha256

IDLE: Final = timedelta(days=14)
LONGEST: Final = timedelta(days=30)
STAFF_IDLE: Final = timedelta(hours=1)
STAFF_LONGEST: Final = timedelta(hours=12)
#: Seconds that a token works after its successor was first used: requests cross on the way.
GRACE: Final = timedelta(seconds=10)
_TOKEN_BYTES: Final = 32
_LONGEST_DEVICE: Final = 200

_BEGIN = """
insert into sessions (user_id, second_factor, idle_seconds, ends_at, device, address)
values (%(user_id)s, %(second_factor)s, %(idle)s, now() + %(longest)s, %(device)s, %(address)s)
returning id
"""

_ADD_TO_CHAIN = """
insert into refresh_tokens (token_sha256, session_id, number) values (%(token)s, %(session_id)s, %(number)s)
on conflict do nothing
"""

# The session is locked, so that of those who refresh at once one makes the successor, and the others find it.
_SHOWN = """
select s.id, s.user_id, s.ended_at is null and s.ends_at > clock_timestamp()
         and s.used_at > clock_timestamp() - make_interval(secs => s.idle_seconds) as alive,
       t.number
from refresh_tokens t
join sessions s on s.id = t.session_id
where t.token_sha256 = %(token)s
for update of s
"""

# After the lock, since who had it may have added the successor.
_REPLACED = """
select exists (
  select from refresh_tokens
  where session_id = %(session_id)s and number = %(number)s + 1 and used_at < clock_timestamp() - %(grace)s::interval)
"""

_USED = """
update refresh_tokens set used_at = coalesce(used_at, clock_timestamp())
where session_id = %(session_id)s and number = %(number)s
"""

_USED_SESSION = "update sessions set used_at = clock_timestamp() where id = %s"

_END = """
update sessions set ended_at = clock_timestamp(), ended_by = %(by)s
where ended_at is null and user_id = %(user_id)s and (%(session_id)s::bigint is null or id = %(session_id)s)
  and id is distinct from %(but)s
returning id
"""

_PROVEN = """
update sessions set proven_at = clock_timestamp(), second_factor = second_factor or %(second_factor)s
where id = %(id)s
"""

_WITH_SECOND_FACTOR = "update sessions set second_factor = true where id = %s"

_LIVING = """
select id, created_at, used_at, device, address, second_factor from sessions
where user_id = %s and ended_at is null and ends_at > now()
  and used_at > now() - make_interval(secs => idle_seconds)
order by id desc
"""

_KNOW_DEVICE = """
insert into known_devices (token_sha256, user_id) values (%(token)s, %(user_id)s) on conflict do nothing
"""

_KNOWS_DEVICE = "select exists (select from known_devices where token_sha256 = %(token)s and user_id = %(user_id)s)"


class SessionEnd(StrEnum):
    """Why a session has ended before its time."""

    SIGN_OUT = "sign-out"
    REUSE = "reuse"
    """An old refresh token was shown: it was copied."""
    PASSWORD = "password"  # noqa: S105 - a reason
    ADDRESS = "address"
    SECOND_FACTOR = "second-factor"
    DEACTIVATED = "deactivated"
    STAFF = "staff"
    """Somebody of the staff saw to it."""


class SessionError(Exception):
    """There is no such session any more: sign in."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A session that goes on, and its next refresh token."""

    session_id: int
    user_id: int
    token: str


@dataclass(frozen=True, slots=True)
class LivingSession:
    """A session as its person sees it."""

    id: int
    created_at: datetime
    used_at: datetime
    device: str
    address: str
    second_factor: bool


def begin_session(
    connection: Connection, user_id: int, *, staff: bool, second_factor: bool, device: str, address: str
) -> Refreshed:
    """A new session and its first refresh token; staff's are shorter."""
    idle, longest = (STAFF_IDLE, STAFF_LONGEST) if staff else (IDLE, LONGEST)
    about: dict[str, object] = {
        "user_id": user_id,
        "second_factor": second_factor,
        "idle": int(idle.total_seconds()),
        "longest": longest,
        "device": device[:_LONGEST_DEVICE],
        "address": address,
    }
    session_id = connection.exec_driver_sql(_BEGIN, about).scalar_one()
    token = new_token()
    connection.exec_driver_sql(_ADD_TO_CHAIN, {"token": sha256(token), "session_id": session_id, "number": 1})
    return Refreshed(session_id, user_id, token)


def refresh_session(engine: Engine, keys: SecretKeys, token: str) -> Refreshed:
    """The next refresh token of the session that this one belongs to. Raises SessionError.

    Its own transaction, since a session that ends by it has to have ended before anybody is told.
    """
    with engine.begin() as connection:
        refreshed = _refresh(connection, keys, token)
    if refreshed is None:
        raise SessionError("this session has ended: sign in again")
    return refreshed


def _refresh(connection: Connection, keys: SecretKeys, token: str) -> Refreshed | None:
    shown = connection.exec_driver_sql(_SHOWN, {"token": sha256(token)}).one_or_none()
    if shown is None or not shown.alive:
        return None
    about: dict[str, object] = {"session_id": shown.id, "number": shown.number, "grace": GRACE}
    if connection.exec_driver_sql(_REPLACED, about).scalar_one():
        end_sessions(connection, shown.user_id, SessionEnd.REUSE, session_id=shown.id)
        plan_mail(connection, MailKind.SESSION_COPIED, user_id=shown.user_id)
        return None
    connection.exec_driver_sql(_USED, about)
    # Of whichever key made it the first time: one that is being replaced goes on with what it has begun.
    successors = [_successor(key.secret, token) for key in keys.all_of(Purpose.REFRESH)]
    had = connection.exec_driver_sql(
        "select token_sha256 from refresh_tokens where session_id = %(session_id)s and number = %(number)s + 1", about
    ).scalar()
    successor = next((each for each in successors if sha256(each) == had), None)
    if successor is None:
        if had is not None:  # made with a key that is gone
            return None
        successor = successors[0]
        added = {"token": sha256(successor), "session_id": shown.id, "number": shown.number + 1}
        connection.exec_driver_sql(_ADD_TO_CHAIN, added)
    connection.exec_driver_sql(_USED_SESSION, (shown.id,))
    return Refreshed(shown.id, shown.user_id, successor)


def end_sessions(
    connection: Connection, user_id: int, by: SessionEnd, *, session_id: int | None = None, but: int | None = None
) -> list[int]:
    """End one session of a user, or all of them, or all ``but`` one; returns the ids of those that have ended."""
    about = {"user_id": user_id, "by": by.value, "session_id": session_id, "but": but}
    return list(connection.exec_driver_sql(_END, about).scalars())


def note_proof(connection: Connection, session_id: int, *, second_factor: bool) -> None:
    """The person has given password, or a code (``second_factor``), or both, just now."""
    connection.exec_driver_sql(_PROVEN, {"id": session_id, "second_factor": second_factor})


def note_second_factor(connection: Connection, session_id: int) -> None:
    """A code was given in this session. That shows no password, and so proves nobody."""
    connection.exec_driver_sql(_WITH_SECOND_FACTOR, (session_id,))


def living_sessions(connection: Connection, user_id: int) -> Sequence[LivingSession]:
    """Where somebody is signed in, the newest first."""
    return [LivingSession(*row) for row in connection.exec_driver_sql(_LIVING, (user_id,))]


def know_device(connection: Connection, user_id: int, token: str) -> None:
    """Somebody has signed in from this browser, which ``token`` marks."""
    connection.exec_driver_sql(_KNOW_DEVICE, {"token": sha256(token), "user_id": user_id})


def knows_device(connection: Connection, user_id: int | None, token: str | None) -> bool:
    """Whether this user has signed in from this browser before."""
    about = {"token": sha256(token or ""), "user_id": user_id}
    return bool(connection.exec_driver_sql(_KNOWS_DEVICE, about).scalar_one())


def new_token() -> str:
    """A secret of 256 random bits, as it may stand in a cookie or a link."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def _successor(key: bytes, token: str) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, token.encode(), "sha256")).decode().rstrip("=")
