"""Users: people with an address that was proven. They come in by links, and are deactivated, never deleted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from email_validator import EmailNotValidError, validate_email
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from accounts.sessions import SessionEnd, end_sessions

# By our own alphabet: a database may have another idea of which small letter a large one is (İ and i).
_BY_EMAIL = """
select id, email, name, password_hash, staff_role, second_factor, deactivated_at, secured_at
from users where lower(email collate "C") = lower(%s collate "C")
"""
_BY_ID = """
select id, email, name, password_hash, staff_role, second_factor, deactivated_at, secured_at from users where id = %s
"""

_ADD = """
insert into users (email, name, password_hash) values (%(email)s, %(name)s, %(password_hash)s)
on conflict do nothing returning id
"""

_LIST = """
select u.id, u.email, u.name, u.staff_role, u.second_factor, u.created_at, u.deactivated_at,
       (select max(used_at) from sessions s where s.user_id = u.id),
       array(select id from businesses where owner_id = u.id
             union select business_id from business_members m where m.user_id = u.id order by 1)
from users u
where (%(q)s = '' or strpos(lower(u.email || ' ' || u.name), lower(%(q)s)) > 0) and u.id < %(before)s
order by u.id desc limit %(limit)s
"""

_SET_HASH = "update users set password_hash = %(password_hash)s where id = %(user_id)s"
_SECURED = "update users set secured_at = clock_timestamp() where id = %s"
_SET_EMAIL = "update users set email = %(email)s where id = %(user_id)s"
_SET_NAME = "update users set name = %(name)s where id = %(user_id)s and name <> %(name)s"
_SET_STAFF = """
update users set staff_role = %(role)s where id = %(user_id)s and staff_role is distinct from %(role)s
"""
_DEACTIVATE = "update users set deactivated_at = now() where id = %s and deactivated_at is null"
_ACTIVATE = "update users set deactivated_at = null where id = %s and deactivated_at is not null"

# One at a time, since each looks whether another administrator is left. Before any row is held: no circle of waiting.
_ONE_AT_A_TIME = "select pg_advisory_xact_lock(hashtextextended('altiora administrators', 0))"
_IS_LAST = """
select exists (select from users where id = %(user_id)s and staff_role = 'administrator' and deactivated_at is null)
   and not exists (
     select from users where id <> %(user_id)s and staff_role = 'administrator' and deactivated_at is null)
"""

#: The largest bigint: before it are all of them.
_NEWEST = 2**63 - 1


class UserError(Exception):
    """What was asked for a user can't be; the words say why."""


@dataclass(frozen=True, slots=True)
class Account:
    """What signing in needs to know of a user."""

    id: int
    email: str
    name: str
    password_hash: str | None
    staff_role: str | None
    second_factor: bool
    deactivated_at: datetime | None
    secured_at: datetime | None


@dataclass(frozen=True, slots=True)
class ListedUser:
    """A user as the staff sees them. ``businesses``: ids of those that they own or work in."""

    id: int
    email: str
    name: str
    staff_role: str | None
    second_factor: bool
    created_at: datetime
    deactivated_at: datetime | None
    last_seen_at: datetime | None
    businesses: Sequence[int]


def check_email(email: str) -> str:
    """The address as it is stored: one that mail can be sent to, as its form goes. Raises UserError."""
    try:
        return validate_email(email, check_deliverability=False).normalized
    except EmailNotValidError as error:
        raise UserError(f"this is no address that mail can be sent to: {error}") from error


def user_with_email(connection: Connection, email: str) -> Account | None:
    """The user with this address, whatever its letters' case."""
    row = connection.exec_driver_sql(_BY_EMAIL, (email,)).one_or_none()
    return None if row is None else Account(*row)


def hold_user(connection: Connection, user_id: int) -> Account | None:
    """The user with this id, whom nobody else holds or changes until this transaction ends."""
    connection.exec_driver_sql("select from users where id = %s for no key update", (user_id,))
    return user_with_id(connection, user_id)


def user_with_id(connection: Connection, user_id: int) -> Account | None:
    """The user with this id."""
    row = connection.exec_driver_sql(_BY_ID, (user_id,)).one_or_none()
    return None if row is None else Account(*row)


def add_user(connection: Connection, email: str, name: str, password_hash: str) -> int:
    """A user whose address was proven; returns the id. Raises UserError where somebody has the address."""
    about = {"email": email, "name": check_name(name), "password_hash": password_hash}
    user_id = connection.exec_driver_sql(_ADD, about).scalar()
    if user_id is None:
        raise UserError("somebody with this address has an account already: sign in")
    return int(user_id)


def list_users(connection: Connection, q: str = "", before: int = _NEWEST, limit: int = 1_000) -> list[ListedUser]:
    """Users whose name or address has ``q`` in it, the newest first, those with ids below ``before``."""
    about = {"q": q, "before": before, "limit": limit}
    return [ListedUser(*row) for row in connection.exec_driver_sql(_LIST, about)]


def check_name(name: str) -> str:
    """A name as it is stored. Raises UserError."""
    stripped = " ".join(name.split())
    if not 1 <= len(stripped) <= 200 or not stripped.isprintable():
        raise UserError("a name has 1 to 200 characters, all of them visible")
    return stripped


def rename_user(connection: Connection, user_id: int, name: str) -> bool:
    """Whether the name is another now. Raises UserError."""
    return connection.exec_driver_sql(_SET_NAME, {"user_id": user_id, "name": check_name(name)}).rowcount > 0


def set_password(connection: Connection, user_id: int, password_hash: str, *, but: int | None = None) -> None:
    """A new password ends all sessions, ``but`` the one in which it was set."""
    connection.exec_driver_sql(_SET_HASH, {"user_id": user_id, "password_hash": password_hash})
    connection.exec_driver_sql(_SECURED, (user_id,))
    end_sessions(connection, user_id, SessionEnd.PASSWORD, but=but)


def rehash_password(connection: Connection, user_id: int, password_hash: str) -> None:
    """The same password, hashed as we do it today."""
    connection.exec_driver_sql(_SET_HASH, {"user_id": user_id, "password_hash": password_hash})


def set_email(connection: Connection, user_id: int, email: str) -> None:
    """An address that was proven; ends all sessions. Raises UserError where somebody else has it."""
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(_SET_EMAIL, {"user_id": user_id, "email": email})
    except IntegrityError as error:
        raise UserError("somebody with this address has an account already") from error
    connection.exec_driver_sql(_SECURED, (user_id,))
    end_sessions(connection, user_id, SessionEnd.ADDRESS)


def set_staff_role(connection: Connection, user_id: int, role: str | None) -> bool:
    """Make somebody staff, or nobody's any more: all sessions end. False where nothing changes.

    Raises UserError for the last administrator.
    """
    if role != "administrator":
        _see_another_administrator(connection, user_id)
    changed = connection.exec_driver_sql(_SET_STAFF, {"user_id": user_id, "role": role}).rowcount > 0
    if changed:
        end_sessions(connection, user_id, SessionEnd.STAFF)
    return changed


def deactivate_user(connection: Connection, user_id: int) -> bool:
    """End all sessions and let nobody sign in; False where that was so.

    Raises UserError for who owns a business, and for the last administrator.
    """
    _see_another_administrator(connection, user_id)
    hold_user(connection, user_id)  # or somebody hands them a business meanwhile
    owned = connection.exec_driver_sql(
        "select id from businesses where owner_id = %s and ended_at is null order by id", (user_id,)
    )
    if ids := ", ".join(str(each) for each in owned.scalars()):
        raise UserError(f"they own {ids}: hand that over, or end it, first")
    changed = connection.exec_driver_sql(_DEACTIVATE, (user_id,)).rowcount > 0
    if changed:
        connection.exec_driver_sql(_SECURED, (user_id,))
    end_sessions(connection, user_id, SessionEnd.DEACTIVATED)
    return changed


def activate_user(connection: Connection, user_id: int) -> bool:
    """Let somebody sign in again; False where they could."""
    return connection.exec_driver_sql(_ACTIVATE, (user_id,)).rowcount > 0


def _see_another_administrator(connection: Connection, user_id: int) -> None:
    connection.exec_driver_sql(_ONE_AT_A_TIME)
    if connection.exec_driver_sql(_IS_LAST, {"user_id": user_id}).scalar_one():
        raise UserError("they are the only administrator: make somebody else one first")
