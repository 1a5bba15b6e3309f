"""Which period an instant falls into, and making the usage records that are missing there.

The metered item's period where a subscription covers the instant, else the calendar month in the business's own time
zone; clipped by the records that are there already, so that no instant is in two.
"""

from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline import refreshes
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

_TIME_ZONES = "select id, time_zone from businesses where id = any(%s::bigint[])"

# Periods that invoices tell of: those of subscriptions that have gone on since.
_INVOICED_PERIODS = """
select stripe_subscription_id, metered_period_start, metered_period_end
from stripe_invoices
where stripe_subscription_id = any(%s::text[]) and metered_period_start is not null
"""

# No conflict target: with one, the exclusion constraint raises instead of standing aside.
_CREATE = """
insert into usage_records
  (business_id, plan_id, subscription_id, period_start, period_end, provisional, included_minutes, opened_at)
select b.id, p.id, made.subscription_id, made.period_start, made.period_end, made.provisional, p.included_minutes,
       %(now)s
from unnest(%(business_ids)s::bigint[], %(subscription_ids)s::bigint[], %(plan_ids)s::int[],
            %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(provisional)s::boolean[])
     as made(business_id, subscription_id, plan_id, period_start, period_end, provisional)
join businesses b on b.id = made.business_id
join subscription_plans p on p.id = coalesce(made.plan_id, b.plan_id)
order by b.id, made.period_start
on conflict do nothing
"""

#: Start and end of a period.
Bounds = tuple[datetime, datetime]


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


def metered_subscriptions(connection: Connection, business_ids: Collection[int]) -> list[MeteredSubscription]:
    """The subscriptions with a metered item of these businesses; living ones first, then the latest."""
    rows = connection.exec_driver_sql(_METERED_SUBSCRIPTIONS, {"ids": list(business_ids)})
    return [MeteredSubscription(*row) for row in rows]


def make(
    connection: Connection,
    missing: Mapping[int, Collection[datetime]],
    known: Mapping[int, Sequence[Bounds]],
    now: datetime,
) -> None:
    """Make a record around each of these instants, by business, none of which lies in a ``known`` record.

    ``known`` are the bounds of the records around, by start. What is provisional is to be fetched from Stripe.
    """
    made = _New(connection, missing)
    for business_id, instants in sorted(missing.items()):
        bounds = sorted(known.get(business_id, ()))
        for instant in sorted(instants):
            if not any(start <= instant < end for start, end in bounds):
                insort(bounds, made.add(business_id, instant, bounds))
    columns = dict(zip(_COLUMNS, map(list, zip(*made.rows, strict=True)), strict=True))
    connection.exec_driver_sql(_CREATE, {**columns, "now": now})
    refreshes.request_all(
        connection, {("subscription", stripe_id): "provisional-period" for stripe_id in made.unconfirmed}
    )


_COLUMNS = ("business_ids", "subscription_ids", "plan_ids", "starts", "ends", "provisional")


class _New:
    """The records to be made for some businesses, from what is known of their subscriptions."""

    def __init__(self, connection: Connection, business_ids: Collection[int]) -> None:
        ids = sorted(business_ids)
        self.rows: list[tuple[Any, ...]] = []
        self.unconfirmed: set[str] = set()
        self._subscriptions: dict[int, list[MeteredSubscription]] = {}
        for subscription in metered_subscriptions(connection, ids):
            self._subscriptions.setdefault(subscription.business_id, []).append(subscription)
        self._time_zones: dict[int, str] = dict(connection.exec_driver_sql(_TIME_ZONES, (ids,)).all())
        stripe_ids = [each.stripe_id for its in self._subscriptions.values() for each in its]
        self._invoiced: dict[str, list[Period]] = {}
        for stripe_id, start, end in connection.exec_driver_sql(_INVOICED_PERIODS, (stripe_ids,)):
            self._invoiced.setdefault(stripe_id, []).append(Period(start, end))

    def add(self, business_id: int, instant: datetime, bounds: Sequence[Bounds]) -> Bounds:
        """Note the record around ``instant`` beside records with these bounds; returns its own."""
        subscriptions = self._subscriptions.get(business_id, [])
        subscription = next((each for each in subscriptions if each.covers(instant)), None)
        provisional = False
        if subscription is None:
            period = self._calendar_period(business_id, instant, subscriptions)
        else:
            period, provisional = self._subscription_period(subscription, instant)
            if provisional:
                self.unconfirmed.add(subscription.stripe_id)
        period = period.clipped(
            max((end for _, end in bounds if end <= instant), default=None),
            min((start for start, _ in bounds if start > instant), default=None),
        )
        self.rows.append(
            (
                business_id,
                subscription.id if subscription else None,
                subscription.plan_id if subscription else None,
                period.start,
                period.end,
                provisional,
            )
        )
        return period.start, period.end

    def _calendar_period(
        self, business_id: int, instant: datetime, subscriptions: Sequence[MeteredSubscription]
    ) -> Period:
        """The calendar month in the business's own time zone, without what a subscription covers."""
        month = calendar_month(self._time_zones[business_id], instant)
        ends = [each.ended_at for each in subscriptions if each.ended_at is not None and each.ended_at <= instant]
        starts = [each.started_at for each in subscriptions if each.started_at > instant]
        return month.clipped(max(ends, default=None), min(starts, default=None))

    def _subscription_period(self, subscription: MeteredSubscription, instant: datetime) -> tuple[Period, bool]:
        """The metered item's period around ``instant``, and whether it still has to be confirmed by Stripe."""
        current = Period(subscription.period_start, subscription.period_end)
        if instant in current:
            return current.clipped(subscription.started_at, subscription.ended_at), False
        for invoiced in self._invoiced.get(subscription.stripe_id, ()):
            if instant in invoiced:
                return invoiced, False
        period = anchored_period(subscription.anchor, instant)
        if instant < current.start:  # over, so nothing but its invoice can correct it
            return period.clipped(subscription.started_at, current.start), False
        return period.clipped(current.end, subscription.ended_at), True
