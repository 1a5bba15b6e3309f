"""Who works in a business, and as what. It has one owner, who is handed the business by the one before."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from accounts import users
from accounts.api_keys import shrink_keys
from accounts.mails import MailKind, plan_mail
from accounts.rights import MEMBER_ROLES, Role
from pipeline.shared.business_locks import lock_businesses

_ROLE = """
select case when b.owner_id = %(user_id)s then 'owner' else m.role end
from businesses b left join business_members m on m.business_id = b.id and m.user_id = %(user_id)s
where b.id = %(business_id)s
"""

_LIST = """
select u.id, u.name, u.email, case when b.owner_id = u.id then 'owner' else m.role end as role,
       coalesce(m.joined_at, b.created_at), u.second_factor
from businesses b
join users u on u.id = b.owner_id or exists (
  select from business_members where business_id = b.id and user_id = u.id)
left join business_members m on m.business_id = b.id and m.user_id = u.id
where b.id = %s
order by role = 'owner' desc, lower(u.name), u.id
"""

_ADD = """
insert into business_members (business_id, user_id, role) values (%(business_id)s, %(user_id)s, %(role)s)
on conflict do nothing
"""
_SET_ROLE = """
update business_members set role = %(role)s
where business_id = %(business_id)s and user_id = %(user_id)s and role <> %(role)s
"""
_REMOVE = "delete from business_members where business_id = %(business_id)s and user_id = %(user_id)s"
_OWNER = "select owner_id, ended_at from businesses where id = %(business_id)s"
_HAS_ANOTHER_FREE = """
select exists (
  select from businesses b join subscription_plans p on p.id = b.plan_id
  where b.owner_id = %(user_id)s and b.id <> %(business_id)s and p.code = 'free' and b.ended_at is null)
and exists (
  select from businesses b join subscription_plans p on p.id = b.plan_id
  where b.id = %(business_id)s and p.code = 'free')
"""
_SET_OWNER = "update businesses set owner_id = %(user_id)s where id = %(business_id)s"


class MemberError(Exception):
    """What was asked about a member can't be; the words say why."""


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who works in a business."""

    user_id: int
    name: str
    email: str
    role: Role
    joined_at: datetime
    second_factor: bool


def role_in(connection: Connection, business_id: int, user_id: int) -> Role | None:
    """What this user is to this business, if anything; staff's roles are not meant."""
    role = connection.exec_driver_sql(_ROLE, {"business_id": business_id, "user_id": user_id}).scalar()
    return None if role is None else Role(role)


def members_of(connection: Connection, business_id: int) -> Sequence[Member]:
    """Its owner, and then the others by name."""
    return [
        Member(user_id, name, email, Role(role), joined_at, second_factor)
        for user_id, name, email, role, joined_at, second_factor in connection.exec_driver_sql(_LIST, (business_id,))
    ]


def add_member(connection: Connection, business_id: int, user_id: int, role: Role) -> None:
    """Raises MemberError where they work in it already, and for a business that has ended."""
    assert role in MEMBER_ROLES
    _hold(connection, business_id)
    if role_in(connection, business_id, user_id) is Role.OWNER or not _change(
        connection, _ADD, business_id, user_id, role
    ):
        raise MemberError("they work in this business already")


def set_member_role(connection: Connection, business_id: int, user_id: int, role: Role) -> bool:
    """False where nothing changes. Raises MemberError for who is no member; an owner's role is handed over."""
    lock_businesses(connection, [business_id])
    _see_member(connection, business_id, user_id)
    if not _change(connection, _SET_ROLE, business_id, user_id, role):
        return False
    plan_mail(connection, MailKind.ROLE_CHANGED, user_id=user_id, business_id=business_id)
    _shrink_keys(connection, business_id, user_id)
    return True


def remove_member(connection: Connection, business_id: int, user_id: int) -> None:
    """Raises MemberError for who is no member: an owner hands the business over first."""
    lock_businesses(connection, [business_id])
    _see_member(connection, business_id, user_id)
    _change(connection, _REMOVE, business_id, user_id)
    plan_mail(connection, MailKind.ROLE_CHANGED, user_id=user_id, business_id=business_id)
    _shrink_keys(connection, business_id, user_id)


def set_owner(connection: Connection, business_id: int, user_id: int) -> int | None:
    """Hand the business to this user; the owner before stays as an admin. Returns who that was.

    Raises MemberError for a business that has ended, for who was deactivated, and for a second one on Free: one each.
    """
    former = _hold(connection, business_id)
    owner = users.hold_user(connection, user_id)  # or two at once would each be the first
    if owner is None or owner.deactivated_at is not None:
        raise MemberError("this account was deactivated: a business needs an owner who can sign in")
    if former == user_id:
        raise MemberError("they own this business already")
    about = {"user_id": user_id, "business_id": business_id}
    if connection.exec_driver_sql(_HAS_ANOTHER_FREE, about).scalar_one():
        raise MemberError("whoever owns it has a business on the plan Free already: one a person")
    _change(connection, _REMOVE, business_id, user_id)
    _change(connection, _SET_OWNER, business_id, user_id)
    if former is not None:
        _change(connection, _ADD, business_id, former, Role.ADMIN)
        _shrink_keys(connection, business_id, former)
    return former


def _hold(connection: Connection, business_id: int) -> int | None:
    """Have nobody else change who works in it until this transaction ends; returns its owner. Raises MemberError."""
    lock_businesses(connection, [business_id])
    owner, ended_at = connection.exec_driver_sql(_OWNER, {"business_id": business_id}).one()
    if ended_at is not None:
        raise MemberError("this business has ended")
    return None if owner is None else int(owner)


def _shrink_keys(connection: Connection, business_id: int, user_id: int) -> None:
    """What programs may do has become less: the owner is told, and has seven days to rotate their keys."""
    shrunk = shrink_keys(connection, business_id, user_id, role_in(connection, business_id, user_id))
    owner, _ = connection.exec_driver_sql(_OWNER, {"business_id": business_id}).one()
    if shrunk and owner is not None:
        plan_mail(connection, MailKind.KEYS_SHRUNK, user_id=owner, business_id=business_id)


def _see_member(connection: Connection, business_id: int, user_id: int) -> None:
    role = role_in(connection, business_id, user_id)
    if role is None:
        raise MemberError("they are no member of this business")
    if role is Role.OWNER:
        raise MemberError("they own it: hand the business over to somebody else first")


def _change(connection: Connection, statement: str, business_id: int, user_id: int, role: Role | None = None) -> bool:
    about = {"business_id": business_id, "user_id": user_id, "role": role and role.value}
    return connection.exec_driver_sql(statement, about).rowcount > 0
