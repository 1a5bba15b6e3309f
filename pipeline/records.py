"""Usage records: finding or making the one that an instant falls into, and carrying minutes between them.

Everything here runs under the lock of the business (``lock_businesses``), so that what is read stays true until
the commit: whoever counts, cuts or closes takes that lock first.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline import drifts, refreshes
from pipeline.periods import Period, anchored_period, calendar_month

# A subscription counts by its metered item, from its start until its end.
_METERED_SUBSCRIPTIONS = """
select id, stripe_id, business_id, plan_id, started_at, ended_at, period_start, period_end,
       coalesce(billing_cycle_anchor, period_end) as anchor
from subscriptions
where business_id = any(%(ids)s::bigint[]) and metered_item_id is not null and period_start is not null
  and status <> 'incomplete_expired'
order by business_id, ended_at nulls first, started_at desc, id desc
"""

_RECORDS_AROUND = """
select id, business_id, period_start, period_end, state, subscription_id
from usage_records
where business_id = any(%(ids)s::bigint[]) and period_end > %(earliest)s and period_start <= %(latest)s
order by business_id, period_start
"""

_NEIGHBOURS = """
select max(period_end) filter (where period_end <= %(instant)s),
       min(period_start) filter (where period_start > %(instant)s)
from usage_records
where business_id = %(business_id)s
"""

# No conflict target: with one, the exclusion constraint raises instead of standing aside.
_CREATE = """
insert into usage_records
  (business_id, plan_id, subscription_id, period_start, period_end, provisional, included_minutes, opened_at)
select b.id, p.id, %(subscription_id)s, %(start)s, %(end)s, %(provisional)s, p.included_minutes, %(now)s
from businesses b
join subscription_plans p on p.id = coalesce(%(plan_id)s, b.plan_id)
where b.id = %(business_id)s
on conflict do nothing
"""

_INVOICED_PERIOD = """
select metered_period_start, metered_period_end
from stripe_invoices
where stripe_subscription_id = %(stripe_id)s
  and metered_period_start <= %(instant)s and metered_period_end > %(instant)s
"""

_ADJUST = """
insert into usage_adjustments
  (business_id, kind, usage_record_id, origin_record_id, call_sid, minutes, event_id, created_at)
values (%(business_id)s, %(kind)s, %(record_id)s, %(origin_id)s, %(call_sid)s, %(minutes)s, %(event_id)s, %(now)s)
"""

_ADD_ADJUSTMENT = """
update usage_records set minutes = minutes + %(minutes)s, adjustment_minutes = adjustment_minutes + %(minutes)s
where id = %(record_id)s
"""


@dataclass(frozen=True, slots=True)
class Record:
    """A usage record's identity, bounds and state, as read under the business's lock."""

    id: int
    business_id: int
    period_start: datetime
    period_end: datetime
    state: str
    subscription_id: int | None


@dataclass(frozen=True, slots=True)
class MeteredSubscription:
    """What of a mirrored subscription makes periods."""

    id: int
    stripe_id: str
    business_id: int
    plan_id: int | None
    started_at: datetime
    ended_at: datetime | None
    period_start: datetime
    period_end: datetime
    anchor: datetime

    def covers(self, instant: datetime) -> bool:
        return self.started_at <= instant and (self.ended_at is None or instant < self.ended_at)


def lock_businesses(connection: Connection, business_ids: Collection[int]) -> None:
    """Take the locks of these businesses, in the one order; every change of a record begins here."""
    if business_ids:
        connection.exec_driver_sql(
            "select id from businesses where id = any(%s::bigint[]) order by id for no key update",
            (sorted(business_ids),),
        )


def free_businesses(connection: Connection, business_ids: Collection[int]) -> set[int]:
    """Which of these businesses nobody holds: those are locked now, without waiting for the others."""
    rows = connection.exec_driver_sql(
        "select id from businesses where id = any(%s::bigint[]) order by id for no key update skip locked",
        (sorted(business_ids),),
    )
    return {business_id for (business_id,) in rows}


def metered_subscriptions(connection: Connection, business_ids: Collection[int]) -> list[MeteredSubscription]:
    """The subscriptions with a metered item of these businesses; living ones first, then the latest."""
    rows = connection.exec_driver_sql(_METERED_SUBSCRIPTIONS, {"ids": list(business_ids)})
    return [MeteredSubscription(*row) for row in rows]


def records_around(
    connection: Connection, business_ids: Collection[int], earliest: datetime, latest: datetime
) -> dict[int, list[Record]]:
    """The records of these businesses that touch ``[earliest, latest]``, by business and start."""
    found: dict[int, list[Record]] = {}
    parameters = {"ids": list(business_ids), "earliest": earliest, "latest": latest}
    for row in connection.exec_driver_sql(_RECORDS_AROUND, parameters):
        record = Record(*row)
        found.setdefault(record.business_id, []).append(record)
    return found


def record_for(connection: Connection, business_id: int, instant: datetime, now: datetime) -> Record:
    """The record of the period that ``instant`` falls into; made if there is none yet."""
    found = _record_at(connection, business_id, instant)
    if found is not None:
        return found
    _create(connection, business_id, instant, now)
    made = _record_at(connection, business_id, instant)
    if made is None:
        raise RuntimeError(
            f"no usage record of business {business_id} takes {instant.isoformat()}: its bounds overlap others;"
            f" look at `altiora usage {business_id}`"
        )
    return made


def _record_at(connection: Connection, business_id: int, instant: datetime) -> Record | None:
    around = records_around(connection, [business_id], instant, instant)
    return next(iter(around.get(business_id, [])), None)


def _create(connection: Connection, business_id: int, instant: datetime, now: datetime) -> None:
    subscriptions = metered_subscriptions(connection, [business_id])
    subscription = next((each for each in subscriptions if each.covers(instant)), None)
    if subscription is None:
        period = _calendar_period(connection, business_id, instant, subscriptions)
        provisional = False
    else:
        period, provisional = _subscription_period(connection, subscription, instant)
        if provisional:
            refreshes.request(connection, "subscription", subscription.stripe_id, "provisional-period")
    ended, begun = connection.exec_driver_sql(_NEIGHBOURS, {"business_id": business_id, "instant": instant}).one()
    period = period.clipped(ended, begun)
    connection.exec_driver_sql(
        _CREATE,
        {
            "business_id": business_id,
            "subscription_id": subscription.id if subscription else None,
            "plan_id": subscription.plan_id if subscription else None,
            "start": period.start,
            "end": period.end,
            "provisional": provisional,
            "now": now,
        },
    )


def _calendar_period(
    connection: Connection, business_id: int, instant: datetime, subscriptions: list[MeteredSubscription]
) -> Period:
    """The calendar month in the business's own time zone, without what a subscription covers."""
    time_zone = connection.exec_driver_sql(
        "select time_zone from businesses where id = %s", (business_id,)
    ).scalar_one()
    month = calendar_month(time_zone, instant)
    ends = [each.ended_at for each in subscriptions if each.ended_at is not None and each.ended_at <= instant]
    starts = [each.started_at for each in subscriptions if each.started_at > instant]
    return month.clipped(max(ends, default=None), min(starts, default=None))


def _subscription_period(
    connection: Connection, subscription: MeteredSubscription, instant: datetime
) -> tuple[Period, bool]:
    """The metered item's period around ``instant``, and whether it still has to be confirmed by Stripe."""
    current = Period(subscription.period_start, subscription.period_end)
    if instant in current:
        return current.clipped(subscription.started_at, subscription.ended_at), False
    invoiced = connection.exec_driver_sql(
        _INVOICED_PERIOD, {"stripe_id": subscription.stripe_id, "instant": instant}
    ).first()
    if invoiced is not None:
        return Period(*invoiced), False
    period = anchored_period(subscription.anchor, instant)
    if instant < current.start:  # over, so nothing but its invoice can correct it
        return period.clipped(subscription.started_at, current.start), False
    return period.clipped(current.end, subscription.ended_at), True


def carry(
    connection: Connection,
    *,
    origin_record_id: int,
    minutes: int,
    call_sid: str | None,
    event_id: int | None,
    now: datetime,
) -> None:
    """Carry minutes (negative: a correction) that a closed record can't take any more.

    Into the business's open record while it has a metered subscription. A period that was not for Stripe is
    written off instead, so that it eats no later allowance; a paid one of a business that nothing bills any more
    is reported as a drift, for a person.
    """
    if minutes == 0:
        return
    business_id, paid, plan = connection.exec_driver_sql(
        "select r.business_id, r.subscription_id is not null, p.code from usage_records r"
        " join subscription_plans p on p.id = r.plan_id where r.id = %s",
        (origin_record_id,),
    ).one()
    target = record_for(connection, business_id, now, now) if paid else None
    billed = target is not None and target.subscription_id is not None
    connection.exec_driver_sql(
        _ADJUST,
        {
            "business_id": business_id,
            "kind": "carried" if billed else "unbillable" if paid else "written-off",
            "record_id": target.id if target is not None and billed else None,
            "origin_id": origin_record_id,
            "call_sid": call_sid,
            "minutes": minutes,
            "event_id": event_id,
            "now": now,
        },
    )
    if target is not None and billed:
        connection.exec_driver_sql(_ADD_ADJUSTMENT, {"minutes": minutes, "record_id": target.id})
    elif paid:
        drifts.report(
            connection,
            "unbillable",
            f"record:{origin_record_id}:{call_sid or 'settlement'}",
            business_id=business_id,
            expected=f"{minutes} minutes billed on plan {plan}",
            actual="the business has no metered subscription any more",
            evidence={"minutes": minutes, "call_sid": call_sid, "event_id": event_id},
            now=now,
        )
