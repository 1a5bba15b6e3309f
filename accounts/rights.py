"""What may who: the one table. A right is ``resource:verb``; a line names who has it, and whether a key can.

Of a business: its owner, and its members as admins, members or billing persons. Of Altiora's staff: support reads,
operators act, administrators also decide about plans, users and staff. Each route of the API names its right.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What somebody is in a business, or at Altiora."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    BILLING = "billing"
    SUPPORT = "support"
    OPERATOR = "operator"
    ADMINISTRATOR = "administrator"


MEMBER_ROLES: Final = (Role.ADMIN, Role.MEMBER, Role.BILLING)
STAFF_ROLES: Final = (Role.SUPPORT, Role.OPERATOR, Role.ADMINISTRATOR)
#: Who may give a role away, at most their own: an owner's is handed over, and an admin makes no owner.
_ABOVE: Final = {Role.OWNER: MEMBER_ROLES, Role.ADMIN: MEMBER_ROLES, Role.ADMINISTRATOR: MEMBER_ROLES}

#: Scopes of service keys, for Altiora's own phone platform: over all businesses, and nobody else has them.
SERVICE_SCOPES: Final = frozenset({"runtime:read", "admissions:write", "transcripts:write"})


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: the right, in words, who has it, and whether a program's key can have it as a scope."""

    right: str
    words: str
    roles: frozenset[Role]
    scope: bool = False


def _line(right: str, words: str, roles: str, *, scope: bool = False) -> Line:
    return Line(right, words, frozenset(Role(role) for role in roles.split()), scope)


_EVERY_MEMBER = "owner admin member billing"
_EVERY_STAFF = "support operator administrator"

TABLE: Final = (
    _line("businesses:read", "see a business: name, plan, service", f"{_EVERY_MEMBER} {_EVERY_STAFF}", scope=True),
    _line("businesses:write", "change its name and its time zone", "owner admin operator administrator", scope=True),
    _line("businesses:end", "end it", "owner administrator"),
    _line("ownership:write", "hand it over to somebody else", "owner administrator"),
    _line("members:read", "see who works in it", f"{_EVERY_MEMBER} {_EVERY_STAFF}", scope=True),
    _line("members:write", "invite people, change their roles, remove them", "owner admin administrator"),
    _line("membership:end", "work in it no more", _EVERY_MEMBER),
    _line("agents:read", "see its agents, what they know and say", f"{_EVERY_MEMBER} {_EVERY_STAFF}", scope=True),
    _line("agents:write", "add, change and end agents", "owner admin member operator administrator", scope=True),
    _line("numbers:read", "see its numbers", f"{_EVERY_MEMBER} {_EVERY_STAFF}", scope=True),
    _line("numbers:write", "say which agent answers a number", "owner admin member operator administrator", scope=True),
    _line("numbers:hold", "take and release numbers", "owner admin operator administrator", scope=True),
    _line("numbers:move", "give a business a number that another one holds", "operator administrator"),
    _line("calls:read", "see its calls, and who spoke with whom", f"{_EVERY_MEMBER} {_EVERY_STAFF}", scope=True),
    _line(
        "transcripts:read",
        "see what was said in its calls",
        "owner admin member support operator administrator",
        scope=True,
    ),
    _line("transcripts:erase", "redact and erase what was said", "owner admin"),
    _line("usage:read", "see what it used, and what that costs", f"{_EVERY_MEMBER} {_EVERY_STAFF}", scope=True),
    _line(
        "billing:read",
        "see its subscriptions, invoices and statements",
        f"owner admin billing {_EVERY_STAFF}",
        scope=True,
    ),
    _line("keys:read", "see its API keys, never their secrets", "owner admin operator administrator"),
    _line("keys:write", "make, change and revoke its API keys", "owner admin administrator"),
    _line("audit:read", "see who did what in it", f"owner admin {_EVERY_STAFF}"),
    _line("users:read", "see users, whatever business they belong to", _EVERY_STAFF),
    _line("users:write", "deactivate users, reset their second factor", "administrator"),
    _line("plans:read", "see every plan, and who is on it", _EVERY_STAFF),
    _line("operations:read", "see what waits, stored events, differences and pushes", _EVERY_STAFF),
    _line("operations:write", "fetch and replay events, resolve differences", "operator administrator"),
    _line("margins:read", "see what periods bring in and what Twilio charged", _EVERY_STAFF),
    _line("staff:write", "make somebody staff, or no more", "administrator"),
    _line("service-keys:write", "make, see and revoke the phone platform's keys", "administrator"),
)

_BY_RIGHT: Final = {line.right: line for line in TABLE}

#: What a key of a business may be made for.
SCOPES: Final = frozenset(line.right for line in TABLE if line.scope)


class ForbiddenError(Exception):
    """A right is missing; ``right`` names it, and the words say who can do something about it."""

    def __init__(self, right: str) -> None:
        super().__init__(f"the right {right} is missing{_remedy(right)}")
        self.right = right


def _remedy(right: str) -> str:
    line = _BY_RIGHT.get(right)
    if line is None:
        return ""
    if line.roles <= set(STAFF_ROLES):
        return f": it is Altiora's own ({', '.join(sorted(line.roles))})"
    return ": ask an owner or admin for it"


def rights_of(role: Role) -> frozenset[str]:
    """All that somebody with this role may do."""
    return frozenset(line.right for line in TABLE if role in line.roles)


def has_right(right: str, roles: AbstractSet[Role]) -> bool:
    """Whether one of these roles has the right; nobody has a service key's. Raises KeyError for what is no right."""
    return right not in SERVICE_SCOPES and not _BY_RIGHT[right].roles.isdisjoint(roles)


def may_give(giver: Role | None, role: Role) -> bool:
    """Whether somebody with the one role may give somebody the other."""
    return giver is not None and role in _ABOVE.get(giver, ())
