"""The one door: whoever comes in, or comes back without a password, does it by a link that was mailed to the address.

Signing up, an invitation, a reset, a new address, a new owner and `altiora user add` are rows here. Nobody sets a
password for an address that they have not shown to be theirs. A row is made without looking whether the address has
an account: what the mail says, and what the link does, is decided where nobody watches the clock.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection

from accounts import members, users
from accounts.mails import MailKind, plan_mail
from accounts.passwords import check_password, hash_password
from accounts.rights import Role, may_give
from accounts.secret_keys import sha256
from accounts.sessions import new_token
from pipeline.shared.business_locks import lock_businesses


class LinkKind(StrEnum):
    """What a link is for."""

    SIGN_UP = "sign-up"
    INVITATION = "invitation"
    """To work in a business."""
    STAFF = "staff"
    """To work for Altiora, or, without a role, to have an account."""
    RESET = "reset"
    ADDRESS = "address"
    """A new address of somebody who has an account."""
    OWNERSHIP = "ownership"
    """To be handed a business."""


_LONG: Final = timedelta(days=7)
_SHORT: Final = timedelta(minutes=30)
#: How long a link is good, from when its mail is sent.
LASTS: Final = {
    LinkKind.SIGN_UP: _SHORT,
    LinkKind.RESET: _SHORT,
    LinkKind.ADDRESS: _SHORT,
    LinkKind.STAFF: _SHORT,
    LinkKind.INVITATION: _LONG,
    LinkKind.OWNERSHIP: _LONG,
}

# A newer one takes the place of those of the same kind.
_REPLACE = """
update account_links set ended_at = now()
where kind = %(kind)s and ended_at is null
  and (kind = 'address' or lower(email collate "C") = lower(%(email)s collate "C"))
  and business_id is not distinct from %(business_id)s and user_id is not distinct from %(user_id)s
"""
_ADD = """
insert into account_links (kind, email, user_id, former_email, business_id, role, staff_role, invited_by)
values (%(kind)s, %(email)s, %(user_id)s, %(former_email)s, %(business_id)s, %(role)s, %(staff_role)s, %(invited_by)s)
returning id
"""
_ADD_DIGEST = """
insert into link_tokens (token_sha256, link_id, expires_at) values (%(sha256)s, %(link_id)s, now() + %(lasts)s)
"""
_FIELDS = """
l.id, l.kind, l.email, l.user_id, l.former_email, l.business_id, l.role, l.staff_role, l.invited_by, l.created_at,
(select name from businesses where id = l.business_id) as business
"""
_BY_ID = f"select {_FIELDS} from account_links l where id = %s and ended_at is null"  # noqa: S608 - constants
_BY_DIGEST = f"""
select {_FIELDS} from link_tokens t join account_links l on l.id = t.link_id
where t.token_sha256 = %s and t.expires_at > now() and l.ended_at is null
"""  # noqa: S608 - as above
_OPEN = f"""
select {_FIELDS} from account_links l
where business_id = %s and ended_at is null and created_at > now() - %s order by id desc
"""  # noqa: S608 - as above
_END = "update account_links set ended_at = now() where id = %s and ended_at is null"


class LinkError(Exception):
    """A link that is good no more, or can't do what it was for; the words say why."""


@dataclass(frozen=True, slots=True)
class Link:
    """What somebody with this address may do, once. ``business`` is its name."""

    id: int
    kind: LinkKind
    email: str
    user_id: int | None
    former_email: str | None
    business_id: int | None
    role: Role | None
    staff_role: Role | None
    invited_by: int | None
    created_at: datetime
    business: str | None


@dataclass(frozen=True, slots=True)
class NewAccount:
    """What somebody without an account gives with the link."""

    name: str
    password: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a link has done, and for whom."""

    link: Link
    user_id: int
    former_owner_id: int | None = None


def request_link(
    connection: Connection,
    kind: LinkKind,
    email: str,
    *,
    user_id: int | None = None,
    former_email: str | None = None,
    business_id: int | None = None,
    role: Role | None = None,
    staff_role: Role | None = None,
    invited_by: int | None = None,
) -> int:
    """Plan the mail with a link for this address; returns the link's id. Raises UserError for what is no address."""
    about = {
        "kind": kind.value,
        "email": users.check_email(email),
        "user_id": user_id,
        "former_email": former_email,
        "business_id": business_id,
        "role": role and role.value,
        "staff_role": staff_role and staff_role.value,
        "invited_by": invited_by,
    }
    connection.exec_driver_sql(_REPLACE, about)
    link_id = int(connection.exec_driver_sql(_ADD, about).scalar_one())
    plan_mail(connection, MailKind(kind.value), link_id=link_id, business_id=business_id)
    return link_id


def make_secret(connection: Connection, link: Link) -> str:
    """A secret that opens the link, for one mail; it is stored as a digest only."""
    secret = new_token()
    about = {"sha256": sha256(secret), "link_id": link.id, "lasts": LASTS[link.kind]}
    connection.exec_driver_sql(_ADD_DIGEST, about)
    return secret


def link_with_id(connection: Connection, link_id: int) -> Link | None:
    """The link, while it is good."""
    row = connection.exec_driver_sql(_BY_ID, (link_id,)).one_or_none()
    return None if row is None else _link(row)


def open_invitations(connection: Connection, business_id: int) -> list[Link]:
    """Who was invited to a business, or is to own it, and has not answered."""
    return [_link(row) for row in connection.exec_driver_sql(_OPEN, (business_id, _LONG))]


def end_link(connection: Connection, link_id: int) -> bool:
    """Take a link back; False where it had ended."""
    return connection.exec_driver_sql(_END, (link_id,)).rowcount > 0


def open_link(connection: Connection, secret: str) -> tuple[Link, bool]:
    """What the link is for, and whether its address has an account. Raises LinkError. It stays good."""
    link = _open(connection, _BY_DIGEST, secret)
    return link, users.user_with_email(connection, link.email) is not None


def _open(connection: Connection, statement: str, secret: str) -> Link:
    row = connection.exec_driver_sql(statement, (sha256(secret),)).one_or_none()
    link = None if row is None else _link(row)
    if link is None or not _still_meant(connection, link):
        raise LinkError("this link was used, is too old, or never was one: ask for a new one")
    return link


def _still_meant(connection: Connection, link: Link) -> bool:
    """Whoever has secured their account since wants nothing any more that was asked for before, by whomever."""
    match link.kind:
        case LinkKind.RESET:
            account = users.user_with_email(connection, link.email)
        case LinkKind.ADDRESS:
            assert link.user_id is not None
            account = users.user_with_id(connection, link.user_id)
        case _:
            return True
    return account is None or account.secured_at is None or account.secured_at < link.created_at


def _hold(connection: Connection, secret: str) -> Link:
    """The link, which nobody else accepts meanwhile, and first whomever it changes: all take them in this order."""
    link, _ = open_link(connection, secret)
    if link.business_id is not None:
        lock_businesses(connection, [link.business_id])
    account = users.user_with_email(connection, link.email) if link.kind is LinkKind.RESET else None
    user_id = account.id if account else link.user_id
    if user_id is not None:
        users.hold_user(connection, user_id)
    return _open(connection, _BY_DIGEST + " for update of l", secret)


def accept_link(connection: Connection, secret: str, new: NewAccount | None) -> Accepted:
    """Do what the link is for, and end it. ``new``: for an address without an account, or a new password.

    Raises LinkError, UserError, MemberError and PasswordError; then it stays good.
    """
    link = _hold(connection, secret)
    known = users.user_with_email(connection, link.email) is not None
    match link.kind:
        case LinkKind.SIGN_UP:
            if known:
                raise LinkError("this address has an account already: sign in")
            done = Accepted(link, _add_user(connection, link, new))
        case LinkKind.RESET:
            done = Accepted(link, _reset(connection, link, new))
        case LinkKind.ADDRESS:
            assert link.user_id is not None
            users.set_email(connection, link.user_id, link.email)
            done = Accepted(link, link.user_id)
        case LinkKind.INVITATION:
            assert link.business_id is not None
            assert link.role is not None
            _see_inviter(connection, link)
            user_id = _known_or_new(connection, link, new)
            members.add_member(connection, link.business_id, user_id, link.role)
            done = Accepted(link, user_id)
        case LinkKind.STAFF:
            _see_inviter(connection, link)
            user_id = _known_or_new(connection, link, new)
            if user_id == link.invited_by:
                raise LinkError("nobody changes their own role: ask another administrator")
            if link.staff_role is not None:
                users.set_staff_role(connection, user_id, link.staff_role.value)
            done = Accepted(link, user_id)
        case LinkKind.OWNERSHIP:
            assert link.business_id is not None
            _see_inviter(connection, link)
            user_id = _known_or_new(connection, link, new)
            done = Accepted(link, user_id, members.set_owner(connection, link.business_id, user_id))
    end_link(connection, link.id)
    return done


def _see_inviter(connection: Connection, link: Link) -> None:
    """Whoever invited may do so still. Without anybody it was a command, of who may do everything."""
    if link.invited_by is None:
        return
    inviter = users.user_with_id(connection, link.invited_by)
    role = None
    if inviter is not None and inviter.deactivated_at is None:
        if link.business_id is not None:
            role = members.role_in(connection, link.business_id, inviter.id)
        role = role or (Role(inviter.staff_role) if inviter.staff_role else None)
    may = {
        LinkKind.INVITATION: link.role is not None and may_give(role, link.role),
        LinkKind.OWNERSHIP: role in {Role.OWNER, Role.ADMINISTRATOR},
    }.get(link.kind, role is Role.ADMINISTRATOR)
    if not may:
        raise LinkError("who sent this invitation may not invite any more: ask somebody else for one")


def _known_or_new(connection: Connection, link: Link, new: NewAccount | None) -> int:
    account = users.user_with_email(connection, link.email)
    if account is None:
        return _add_user(connection, link, new)
    if account.deactivated_at is not None:
        raise LinkError("this account was deactivated: ask Altiora's support")
    return account.id


def _add_user(connection: Connection, link: Link, new: NewAccount | None) -> int:
    if new is None:
        raise users.UserError("this address has no account yet: give a name and a password")
    name = users.check_name(new.name)
    check_password(new.password, [name, link.email, link.business or ""])
    return users.add_user(connection, link.email, name, hash_password(new.password))


def _reset(connection: Connection, link: Link, new: NewAccount | None) -> int:
    account = users.user_with_email(connection, link.email)
    if account is None or account.deactivated_at is not None:
        raise LinkError("this address has no account: sign up")
    if new is None:
        raise users.UserError("give the new password")
    check_password(new.password, [account.name, account.email])
    users.set_password(connection, account.id, hash_password(new.password))
    plan_mail(connection, MailKind.PASSWORD_CHANGED, user_id=account.id)
    return account.id


def _link(row: object) -> Link:
    fields = row._asdict()  # type: ignore[attr-defined]  # a row of SQLAlchemy's
    return Link(
        **fields
        | {
            "kind": LinkKind(fields["kind"]),
            "role": fields["role"] and Role(fields["role"]),
            "staff_role": fields["staff_role"] and Role(fields["staff_role"]),
        }
    )
