"""Who a request is from, and what they may do right now: read by one statement, with each request.

So signing out, a change of role and a revoked key act on the next request, whatever tokens are still about.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from accounts.access_tokens import AccessToken
from accounts.rights import STAFF_ROLES, ForbiddenError, Role, has_right
from pipeline.shared.clock import machine_now

#: After so long password and code are asked for again, for what would hurt most.
PROOF_LASTS: Final = timedelta(minutes=15)

_BY_SESSION = """
select u.id, u.email, u.name, u.staff_role, u.second_factor, s.id as session_id,
       s.proven_at, s.second_factor as proven_twice,
       coalesce((
         select jsonb_object_agg(business_id, role) from (
           select id as business_id, 'owner' as role from businesses where owner_id = u.id
           union all
           select business_id, role from business_members m
           where m.user_id = u.id and not exists (
             select from businesses b where b.id = m.business_id and b.owner_id = u.id)) as role), '{}') as roles
from sessions s join users u on u.id = s.user_id
where s.id = %(session_id)s and u.id = %(user_id)s and s.ended_at is null and s.ends_at > now()
  and s.used_at > now() - make_interval(secs => s.idle_seconds) and u.deactivated_at is null
"""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is signed in. ``roles`` by business."""

    user_id: int
    email: str = field(repr=False)
    name: str = field(repr=False)
    staff_role: Role | None
    second_factor: bool
    session_id: int
    proven_at: datetime
    proven_twice: bool
    roles: Mapping[int, Role]

    @property
    def who(self) -> str:
        """As the audit trail names them."""
        return f"user:{self.user_id}"

    @property
    def may_only_enrol(self) -> bool:
        """Staff without a second factor may set one up, and nothing else."""
        return self.staff_role is not None and not (self.second_factor and self.proven_twice)

    @property
    def is_proven(self) -> bool:
        """Whether password and code were given a short time ago."""
        return machine_now() - self.proven_at < PROOF_LASTS

    @property
    def for_altiora(self) -> bool:
        """Whether they are staff; where they belong to a business they are no staff to that one."""
        return self.staff_role is not None

    @property
    def businesses(self) -> frozenset[int]:
        """Those that they belong to."""
        return frozenset(self.roles)

    def role_in(self, business_id: int) -> Role | None:
        """What they are to a business. Staff are nothing else to one that they belong to."""
        return self.roles.get(business_id) or self.staff_role

    def sees(self, business_id: int) -> bool:
        """Whether they may know that there is such a business."""
        return self.role_in(business_id) is not None

    def require(self, right: str, business_id: int | None = None) -> None:
        """See that they have a right, in a business or, without one, as staff. Raises ForbiddenError."""
        role = self.staff_role if business_id is None else self.role_in(business_id)
        if self.may_only_enrol or role is None or not has_right(right, {role}):
            raise ForbiddenError(right)


def person_of(connection: Connection, token: AccessToken) -> Person | None:
    """Whose session it is; None where it, or the person, is not there any more."""
    about = {"session_id": token.session_id, "user_id": token.user_id}
    row = connection.exec_driver_sql(_BY_SESSION, about).one_or_none()
    if row is None:
        return None
    staff = None if row.staff_role is None else Role(row.staff_role)
    assert staff is None or staff in STAFF_ROLES
    return Person(
        row.id,
        row.email,
        row.name,
        staff,
        row.second_factor,
        row.session_id,
        row.proven_at,
        row.proven_twice,
        {int(business_id): Role(role) for business_id, role in row.roles.items()},
    )
