"""Which period an instant falls into, and making the usage records that are missing there.

The metered item's period where a subscription covers the instant, else the calendar month in the business's own time
zone; clipped by the records that are there already, so that no instant is in two.
"""

from bisect import insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from pipeline.events import fetch_requests
from pipeline.usage.periods import Period, anchored_period, calendar_month
from pipeline.usage.stripe_spans import MeteredSubscription, Span, known_spans, metered_subscriptions

_TIME_ZONES = "select id, time_zone from businesses where id = any(%s::bigint[])"

# Without a subscription: Free, or what the business has.
_FREE = "select id from subscription_plans where code = 'free'"

#: Joins ``tariff``, what the price that ``made`` names gives in its subscription's currency; nulls where none does.
TARIFF = """
left join lateral (
  select of_currency.currency, (of_currency.tariff ->> 'included')::int as included,
         of_currency.tariff -> 'tiers' as tiers
  from stripe_prices price
  left join subscriptions s on s.id = made.subscription_id
  cross join lateral (select coalesce(s.currency, price.currency) as currency,
                             price.tariffs -> coalesce(s.currency, price.currency) as tariff) of_currency
  where price.id = made.price_id) tariff on true
"""

#: Whether what ``made`` names is a trial's, as far as Stripe has said until when that lasts.
TRIAL = """
coalesce((select s.trial_end >= made.period_end from subscriptions s where s.id = made.subscription_id), false)
"""

# What Stripe has of its time, by the pushes' timestamps: it may be told of a period after minutes of that were pushed.
# No conflict target: with one, the exclusion constraint raises instead of standing aside.
# Looked up one by one, and in the order given: joined, where plans are made by index and without a sort, every business
# was read for each record (545 ms with 40,000).
_CREATE = f"""
insert into usage_records
  (business_id, plan_id, subscription_id, period_start, period_end, provisional, allowance_month, cut,
   included_minutes, increment_seconds, late_policy, late_limit_minutes, price_id, currency, tiers, trial, plan_minutes,
   pushed_minutes, opened_at, time_zone)
select b.id, p.id, made.subscription_id, made.period_start, made.period_end, made.provisional, made.allowance_month,
       made.cut, coalesce(tariff.included, p.included_minutes), p.increment_seconds, p.late_policy,
       p.late_limit_minutes, made.price_id, tariff.currency, tariff.tiers, {TRIAL},
       p.included_minutes, pushed.minutes, %(now)s, b.time_zone
from unnest(%(business_ids)s::bigint[], %(subscription_ids)s::bigint[], %(plan_ids)s::int[],
            %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(provisional)s::boolean[],
            %(allowance_months)s::date[], %(cut)s::boolean[], %(price_ids)s::text[])
     as made(business_id, subscription_id, plan_id, period_start, period_end, provisional, allowance_month, cut,
             price_id)
cross join lateral (select id, plan_id, time_zone from businesses where id = made.business_id limit 1) b
cross join lateral (select * from subscription_plans where id = coalesce(made.plan_id, b.plan_id) limit 1) p
{TARIFF}
cross join lateral (
  select coalesce(sum(push.minutes), 0)::int as minutes from meter_pushes push
  where push.business_id = b.id and push.timestamp >= made.period_start and push.timestamp < made.period_end
    and push.state = 'sent') pushed
on conflict do nothing
"""  # noqa: S608 - put together from fragments of ours

#: Start and end of a period.
Bounds = tuple[datetime, datetime]


def make_records(
    connection: Connection,
    missing: Mapping[int, Collection[datetime]],
    known: Mapping[int, Sequence[Bounds]],
    now: datetime,
) -> None:
    """Make a record around each of these instants, by business, none of which lies in a ``known`` record.

    ``known`` are the bounds of the records around, by start. What is provisional is to be fetched from Stripe.
    """
    made = NewRecords(connection, missing)
    rows: list[NewRecord] = []
    for business_id, instants in sorted(missing.items()):
        bounds = sorted(known.get(business_id, ()))
        for instant in sorted(instants):
            if not any(start <= instant < end for start, end in bounds):
                record = made.around(business_id, instant, bounds)
                insort(bounds, (record.period.start, record.period.end))
                rows.append(record)
    connection.exec_driver_sql(
        _CREATE,
        {
            "business_ids": [row.business_id for row in rows],
            "subscription_ids": [row.subscription_id for row in rows],
            "plan_ids": [row.plan_id for row in rows],
            "starts": [row.period.start for row in rows],
            "ends": [row.period.end for row in rows],
            "provisional": [row.provisional for row in rows],
            "allowance_months": [row.allowance_month for row in rows],
            "cut": [row.cut for row in rows],
            "price_ids": [row.price_id for row in rows],
            "now": now,
        },
    )
    made.request_confirmations()


@dataclass(frozen=True, slots=True)
class NewRecord:
    """What the record around an instant is to be. ``plan_id`` None: the business's own."""

    business_id: int
    subscription_id: int | None
    plan_id: int | None
    period: Period
    provisional: bool
    allowance_month: date | None
    cut: bool = False
    price_id: str | None = None


class NewRecords:
    """Which records some businesses would have, from what is known of their subscriptions."""

    def __init__(self, connection: Connection, business_ids: Collection[int]) -> None:
        ids = sorted(business_ids)
        self._connection = connection
        self._unconfirmed: set[str] = set()
        self._time_zones: dict[int, str] = dict(connection.exec_driver_sql(_TIME_ZONES, (ids,)).all())
        self._free_plan_id: int = connection.exec_driver_sql(_FREE).scalar_one()
        subscriptions = metered_subscriptions(connection, ids)
        self._subscriptions: dict[int, list[MeteredSubscription]] = {}
        for subscription in subscriptions:
            self._subscriptions.setdefault(subscription.business_id, []).append(subscription)
        self._spans: dict[int, list[Span]] = {}
        for span in known_spans(connection, subscriptions):
            self._spans.setdefault(span.subscription_id, []).append(span)

    def request_confirmations(self) -> None:
        """Have Stripe asked about the periods that were worked out by anchor arithmetic."""
        wanted = {("subscription", stripe_id): "provisional-period" for stripe_id in self._unconfirmed}
        fetch_requests.request_fetches(self._connection, wanted)

    def around(self, business_id: int, instant: datetime, bounds: Sequence[Bounds]) -> NewRecord:
        """The record around ``instant``, beside records with these bounds."""
        subscriptions = self._subscriptions.get(business_id, [])
        subscription = next((each for each in subscriptions if each.covers(instant)), None)
        if subscription is None:
            month = instant.astimezone(ZoneInfo(self._time_zones[business_id])).date().replace(day=1)
            # After all of them what the business has; before one, and between two, it was on Free.
            over = all(each.ended_at is not None and each.ended_at <= instant for each in subscriptions)
            plan_id = None if over else self._free_plan_id
            record = NewRecord(
                business_id, None, plan_id, self._calendar_period(business_id, instant, subscriptions), False, month
            )
        else:
            record = self._of_subscription(subscription, instant)
            if record.provisional:
                self._unconfirmed.add(subscription.stripe_id)
        clipped = record.period.clipped(
            max((end for _, end in bounds if end <= instant), default=None),
            min((start for start, _ in bounds if start > instant), default=None),
        )
        return replace(record, period=clipped)

    def _calendar_period(
        self, business_id: int, instant: datetime, subscriptions: Sequence[MeteredSubscription]
    ) -> Period:
        """The calendar month in the business's own time zone, without what a subscription covers."""
        month = calendar_month(self._time_zones[business_id], instant)
        ends = [each.ended_at for each in subscriptions if each.ended_at is not None and each.ended_at <= instant]
        starts = [each.started_at for each in subscriptions if each.started_at > instant]
        return month.clipped(max(ends, default=None), min(starts, default=None))

    def _of_subscription(self, subscription: MeteredSubscription, instant: datetime) -> NewRecord:
        """The record of the metered item's period around ``instant``; provisional until Stripe has confirmed it."""

        def record(
            plan_id: int | None, price_id: str | None, period: Period, *, provisional: bool = False, cut: bool = False
        ) -> NewRecord:
            return NewRecord(
                subscription.business_id, subscription.id, plan_id, period, provisional, None, cut, price_id
            )

        present = subscription.plan_id, subscription.metered_price_id
        for span in self._spans.get(subscription.id, ()):
            if span.start <= instant < span.end:
                plan_id = span.plan_id or subscription.plan_id
                return record(plan_id, span.price_id, Period(span.start, span.end), cut=span.cut)
        current = Period(subscription.period_start, subscription.period_end)
        period = anchored_period(subscription.anchor, instant)
        if instant < current.start:  # over, so nothing but its invoice can correct it
            return record(*present, period.clipped(subscription.started_at, current.start))
        after = period.clipped(current.end, subscription.ended_at) if instant >= current.end else period
        return record(*present, after, provisional=True)
