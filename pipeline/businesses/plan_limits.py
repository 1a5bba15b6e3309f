"""Limits of a plan: alerts at 80 % and 100 % of the minutes, the Free limit, and agents and numbers above the plan.

All of it follows from figures that are already in the transaction; nothing here waits for a job. The limit of a
plan that bills no overage passes by itself when its period ends (``limited_until``).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from sqlalchemy import Connection

#: Whether more than the included minutes of ``r``, a usage record on plan ``p``, is billed: by its price or its plan.
#: What a trial uses is free, so that it ends with its included minutes (67).
BILLS_OVERAGE = "(not r.trial and (r.tiers is not null or p.bills_overage))"

_ALERT = """
insert into usage_alerts (business_id, kind, usage_record_id, plan_id, value, "limit", raised_at)
values (%(business_id)s, %(kind)s, null, %(plan_id)s, %(value)s, %(limit)s, %(now)s)
on conflict do nothing
"""

_ALERT_OF_RECORDS = """
insert into usage_alerts (business_id, kind, usage_record_id, plan_id, value, "limit", raised_at)
select r.business_id, a.kind, r.id, r.plan_id, a.value, r.included_minutes, %(now)s
from unnest(%(record_ids)b::bigint[], %(kinds)b::text[], %(values)b::int[]) as a(record_id, kind, value)
join usage_records r on r.id = a.record_id
on conflict do nothing
"""

_RESOLVE = """
update usage_alerts set resolved_at = %(now)s
where business_id = %(business_id)s and kind = %(kind)s and resolved_at is null
  and not (plan_id = %(plan_id)s and %(above)s)
"""

_COUNTS = """
select p.id, p.agents, p.numbers,
       (select count(*) from ai_agents a where a.business_id = b.id and a.ended_at is null),
       (select count(*) from phone_numbers n where n.business_id = b.id)
from businesses b join subscription_plans p on p.id = b.plan_id
where b.id = %s
"""


class AlertKind(StrEnum):
    """What an alert tells of."""

    MINUTES_80 = "minutes-80"
    MINUTES_100 = "minutes-100"
    AGENTS = "agents"
    NUMBERS = "numbers"


def alert_threshold(included: int) -> int:
    """From how many minutes on a business is told that 80 % of the included ones are used: rounded up."""
    return -(-included * 4 // 5)


@dataclass(frozen=True, slots=True)
class Use:
    """A record's own use (without what was carried into it) after a change, in minutes."""

    record_id: int
    business_id: int
    bills_overage: bool
    included: int
    before: int | None
    """None: the record itself has changed, and was on no side of any threshold before."""
    after: int

    def crosses(self, threshold: int) -> bool:
        """Whether the change reaches the threshold."""
        return (self.before is None or self.before < threshold) and threshold <= self.after


def check_use(connection: Connection, uses: Iterable[Use], now: datetime) -> set[int]:
    """Raise the alerts that these changes cross, once per record; returns the businesses that cross the Free limit.

    Adjustments are no use of this period: the caller leaves them out.
    """
    alerts = []
    crossed: set[int] = set()
    for use in uses:
        for kind, threshold in (
            (AlertKind.MINUTES_80, alert_threshold(use.included)),
            (AlertKind.MINUTES_100, use.included),
        ):
            if use.crosses(threshold):
                alerts.append((use.record_id, kind, use.after))
        if not use.bills_overage and (use.before is None or use.before < use.included) != (use.after < use.included):
            crossed.add(use.business_id)
    if alerts:
        record_ids, kinds, values = map(list, zip(*alerts, strict=True))
        connection.exec_driver_sql(
            _ALERT_OF_RECORDS, {"record_ids": record_ids, "kinds": kinds, "values": values, "now": now}
        )
    return crossed


def check_counts(connection: Connection, business_id: int, now: datetime) -> None:
    """Compare agents and numbers with the plan: an alert while there are more, resolved when there are not."""
    plan_id, agents_limit, numbers_limit, agents, numbers = connection.exec_driver_sql(_COUNTS, (business_id,)).one()
    for kind, value, limit in ((AlertKind.AGENTS, agents, agents_limit), (AlertKind.NUMBERS, numbers, numbers_limit)):
        about = {"business_id": business_id, "kind": kind, "plan_id": plan_id, "now": now, "above": value > limit}
        connection.exec_driver_sql(_RESOLVE, about)
        if value > limit:
            connection.exec_driver_sql(_ALERT, {**about, "value": value, "limit": limit})


def limit_of_numbers(connection: Connection, business_id: int) -> int:
    """How many numbers the plan has room for."""
    _, _, numbers_limit, _, _ = connection.exec_driver_sql(_COUNTS, (business_id,)).one()
    return int(numbers_limit)


def room_for_another(
    connection: Connection, business_id: int, kind: Literal[AlertKind.AGENTS, AlertKind.NUMBERS]
) -> bool:
    """Whether the plan has room for one more of these."""
    _, agents_limit, numbers_limit, agents, numbers = connection.exec_driver_sql(_COUNTS, (business_id,)).one()
    return bool(agents < agents_limit) if kind == AlertKind.AGENTS else bool(numbers < numbers_limit)
