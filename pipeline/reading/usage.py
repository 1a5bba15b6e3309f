"""What a business used, in each of its billing periods."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.plan_limits import BILLS_OVERAGE
from pipeline.businesses.service_rules import ServiceStatus, status_at
from pipeline.reading.period_money import period_money
from pipeline.usage.records import RecordState

_BUSINESS = """
select b.name, p.code as plan, b.limited_until, b.grace_until, b.suspended_at
from businesses b join subscription_plans p on p.id = b.plan_id
where b.id = %s
"""

# What is above the included minutes is billed by Stripe or by nobody, as the record's own plan says.
_RECORDS = f"""
select r.id, r.period_start, r.period_end, r.state, r.calls, r.seconds, r.minutes, r.included_minutes as included,
       case when {BILLS_OVERAGE} then above else 0 end as overage,
       case when {BILLS_OVERAGE} then 0 else above end as unbilled,
       r.adjustment_minutes as adjustments, r.pushed_minutes as pushed
from usage_records r
join subscription_plans p on p.id = r.plan_id
cross join lateral (select greatest(r.minutes - r.included_minutes, 0) as above) a
where r.business_id = %(business_id)s
  and (%(record_id)s::bigint is null or r.id = %(record_id)s)
  and (%(state)s::text is null or r.state = %(state)s)
  and (%(began_before)s::timestamptz is null or r.period_start < %(began_before)s)
order by r.period_start desc limit %(limit)s
"""  # noqa: S608 - put together from fragments of ours


@dataclass(frozen=True, slots=True)
class UsedPeriod:
    """One record, in UTC, seconds and minutes; ``minutes`` hold the ``adjustments`` that were carried into it."""

    id: int
    period_start: datetime
    period_end: datetime
    state: str
    calls: int
    seconds: int
    minutes: int
    included: int
    overage: int
    """Above the included ones, billed by Stripe."""
    unbilled: int
    """Above the included ones of a plan that bills none."""
    adjustments: int
    pushed: int
    currency: str | None
    fee: int | None
    """Of the plan's fixed items a period, in the currency's smallest unit."""
    minutes_amount: int | None
    """What the minutes cost by the tiers of the record."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A business, whether it may take calls, and its periods from the first on."""

    business: str
    plan: str
    service_status: ServiceStatus
    limited_until: datetime | None
    """Until when it may not take calls; only while it is limited."""
    grace_until: datetime | None
    """When it is suspended for an overdue payment; only while it is active."""
    records: Sequence[UsedPeriod]


def read_usage(connection: Connection, business_id: int, now: datetime) -> Usage:
    """All periods of a business; ``now`` is business time."""
    business = connection.exec_driver_sql(_BUSINESS, (business_id,)).one()
    status = status_at(
        limited_until=business.limited_until, grace_until=None, suspended_at=business.suspended_at, now=now
    )
    return Usage(
        business=business.name,
        plan=business.plan,
        service_status=status,
        limited_until=business.limited_until if status == ServiceStatus.LIMITED else None,
        grace_until=business.grace_until if status == ServiceStatus.ACTIVE else None,
        records=list_used(connection, business_id)[::-1],
    )


def read_used(connection: Connection, business_id: int, record_id: int) -> UsedPeriod | None:
    """One period of a business."""
    return next(iter(list_used(connection, business_id, record_id=record_id)), None)


def list_used(
    connection: Connection,
    business_id: int,
    *,
    began_before: str | None = None,
    record_id: int | None = None,
    state: RecordState | None = None,
    limit: int | None = None,
) -> list[UsedPeriod]:
    """The periods of a business, the newest first, those that began before that: an instant in RFC 3339."""
    about = {
        "business_id": business_id,
        "began_before": began_before,
        "record_id": record_id,
        "state": state,
        "limit": limit,
    }
    rows = connection.exec_driver_sql(_RECORDS, about).mappings().all()
    money = {each.record_id: each for each in period_money(connection, [row["id"] for row in rows])}
    return [
        UsedPeriod(
            **row,
            currency=money[row["id"]].currency,
            fee=money[row["id"]].fee,
            minutes_amount=money[row["id"]].minutes_amount,
        )
        for row in rows
    ]
