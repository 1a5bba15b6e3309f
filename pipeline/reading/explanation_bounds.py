"""Where the bounds of a usage record come from: the subscription's item, its invoice, or the calendar month."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy import Connection

from pipeline.shared.rows import typed_row
from pipeline.usage.periods import anchored_period, calendar_month

_SUBSCRIPTION = """
select s.stripe_id, s.metered_item_id, s.metered_price_id, s.period_start, s.period_end, s.metered_since,
       coalesce(s.billing_cycle_anchor, s.period_end) as anchor
from subscriptions s where s.id = %s
"""

# What may have cut a calendar month: a subscription that begins or ends there, or the record beside it.
_CUTS = """
select started_at as at, 'subscription ' || stripe_id || ' began' as reason
from subscriptions where business_id = %(business_id)s
union all
select ended_at, 'subscription ' || stripe_id || ' ended'
from subscriptions where business_id = %(business_id)s and ended_at is not null
union all
select period_end, 'record ' || id || ' ends there'
from usage_records where business_id = %(business_id)s and period_end = %(start)s
union all
select period_start, 'record ' || id || ' begins there'
from usage_records where business_id = %(business_id)s and period_start = %(end)s
"""

#: When nothing that is known now has this bound: the subscription has gone on since.
_THEN = "what Stripe said when the record was made"
#: Of a calendar month: the business has moved since.
_THERE = "the calendar month in the time zone that the business had when the record was made"


@dataclass(frozen=True, slots=True)
class Bound:
    """One end of a period, and why it is there."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class BoundingSubscription:
    """What of a mirrored subscription may bound a period; times in UTC."""

    stripe_id: str
    metered_item_id: str | None
    metered_price_id: str | None
    period_start: datetime | None
    period_end: datetime | None
    metered_since: datetime | None
    anchor: datetime | None


class BoundedRecord(Protocol):
    """What of a usage record is told."""

    @property
    def business_id(self) -> int: ...
    @property
    def time_zone(self) -> str: ...
    @property
    def period_start(self) -> datetime: ...
    @property
    def period_end(self) -> datetime: ...
    @property
    def provisional(self) -> bool: ...


class BilledStretch(Protocol):
    """What of the record's invoice bounds it."""

    @property
    def id(self) -> str: ...
    @property
    def period_start(self) -> datetime: ...
    @property
    def period_end(self) -> datetime: ...


def subscription_of(connection: Connection, subscription_id: int | None) -> BoundingSubscription | None:
    """The subscription whose metered item's period a record is; None for a calendar month."""
    return typed_row(BoundingSubscription, connection.exec_driver_sql(_SUBSCRIPTION, (subscription_id,)))


def bounds(
    connection: Connection,
    record: BoundedRecord,
    subscription: BoundingSubscription | None,
    invoice: BilledStretch | None,
) -> tuple[Bound, Bound]:
    """Why the record begins and ends where it does. ``subscription`` and ``invoice`` are its own, or None."""
    about = {"business_id": record.business_id, "start": record.period_start, "end": record.period_end}
    cuts = [(row.at, row.reason) for row in connection.exec_driver_sql(_CUTS, about)]
    if subscription is None:
        month = calendar_month(record.time_zone, record.period_start)
        reason, otherwise = f"the calendar month in {record.time_zone}", _THERE
        starts, ends = [(month.start, reason)], [(month.end, reason)]
    else:
        starts, ends = _of_subscription(record, subscription, invoice)
        otherwise = _THEN
    start = _why(record.period_start, [*starts, *cuts], otherwise)
    return start, _why(record.period_end, [*ends, *cuts], otherwise)


def _of_subscription(
    record: BoundedRecord, subscription: BoundingSubscription, invoice: BilledStretch | None
) -> tuple[list[tuple[datetime, str]], list[tuple[datetime, str]]]:
    starts: list[tuple[datetime, str]] = []
    ends: list[tuple[datetime, str]] = []
    item = f"the current period of item {subscription.metered_item_id} of subscription {subscription.stripe_id}"
    if subscription.period_start is not None and subscription.period_end is not None:
        starts.append((subscription.period_start, item))
        ends.append((subscription.period_end, item))
    if subscription.metered_since is not None:
        price = f"another metered price came on subscription {subscription.stripe_id}"
        starts.append((subscription.metered_since, price))
        ends.append((subscription.metered_since, price))
    if invoice is not None:
        billed = f"the period that invoice {invoice.id} bills"
        starts.append((invoice.period_start, billed))
        ends.append((invoice.period_end, billed))
    if subscription.anchor is not None:
        anchored = anchored_period(subscription.anchor, record.period_start)
        reason = f"a month of the billing cycle anchor of subscription {subscription.stripe_id}"
        if record.provisional:
            reason += ", which Stripe is to confirm"
        starts.append((anchored.start, reason))
        ends.append((anchored.end, reason))
    return starts, ends


def _why(at: datetime, reasons: Iterable[tuple[datetime, str]], otherwise: str) -> Bound:
    return Bound(at, next((reason for its, reason in reasons if its == at), otherwise))
