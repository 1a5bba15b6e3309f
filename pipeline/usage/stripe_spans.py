"""The stretches of time that Stripe counts minutes for, as far as it has told: the bounds that usage records must have.

A span is the time of one metered price in one of Stripe's periods. The current one is on the subscription; those that
are over are on the lines of its invoices.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import Connection

# A subscription counts by its metered item, from its start until its end or the item's; not while its first payment is
# missing.
_METERED_SUBSCRIPTIONS = """
select id, stripe_id, business_id, plan_id, started_at, least(ended_at, minutes_ended_at) as ended_at, period_start,
       period_end, coalesce(billing_cycle_anchor, period_end) as anchor, metered_since, metered_price_id,
       coalesce(minutes_ended_at < ended_at, minutes_ended_at is not null) as removed
from subscriptions
where business_id = any(%(ids)s::bigint[]) and (metered_item_id is not null or minutes_ended_at is not null)
  and period_start is not null and status not in ('incomplete', 'incomplete_expired')
order by business_id, least(ended_at, minutes_ended_at) nulls first, started_at desc, id desc
"""

# Of a void invoice nothing is billed; another one takes its place, or a person decides. A threshold ends no period.
_INVOICED = """
select distinct l.stripe_subscription_id, l.period_start, l.period_end, p.plan_id, l.price_id, l.mid_period
from stripe_invoice_lines l
join stripe_invoices i on i.id = l.invoice_id
left join stripe_prices p on p.id = l.price_id
where l.stripe_subscription_id = any(%s::text[]) and i.status <> 'void'
  and i.billing_reason is distinct from 'subscription_threshold'
"""


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
    metered_since: datetime | None
    metered_price_id: str | None
    removed: bool
    """Its minutes item was removed at ``ended_at``, and it may live on."""

    def covers(self, instant: datetime) -> bool:
        return self.started_at <= instant and (self.ended_at is None or instant < self.ended_at)


def metered_subscriptions(connection: Connection, business_ids: Collection[int]) -> list[MeteredSubscription]:
    """The subscriptions with a metered item of these businesses, each from when it alone counts.

    Living ones first, then the latest. Where two count at once the earlier one keeps its periods, and the other one
    counts from its end on, or never: Stripe's lines end where those periods do (75).
    """
    rows = connection.exec_driver_sql(_METERED_SUBSCRIPTIONS, {"ids": list(business_ids)})
    subscriptions = [MeteredSubscription(*row) for row in rows]
    return [alone for each in subscriptions if (alone := _alone(each, subscriptions)) is not None]


def _alone(it: MeteredSubscription, others: Sequence[MeteredSubscription]) -> MeteredSubscription | None:
    start = it.started_at
    for other in sorted(others, key=lambda each: (each.started_at, each.id)):
        earlier = (other.started_at, other.id) < (it.started_at, it.id)
        if other.business_id == it.business_id and earlier and other.covers(start):
            if other.ended_at is None:
                return None
            start = other.ended_at
    never = start > it.started_at and it.ended_at is not None and it.ended_at <= start
    return None if never else replace(it, started_at=start)


@dataclass(frozen=True, slots=True)
class Span:
    """``[start, end)`` of a subscription's metered price.

    ``mid_period``: the price came in place of another; ``cut``: another came in its place, or its item went. Both
    inside Stripe's period.
    """

    subscription_id: int
    plan_id: int | None
    price_id: str | None
    start: datetime
    end: datetime
    mid_period: bool
    cut: bool = False


def known_spans(connection: Connection, subscriptions: Sequence[MeteredSubscription]) -> list[Span]:
    """All that is known of these subscriptions, by start."""
    ids = {each.stripe_id: each.id for each in subscriptions}
    starts = {each.stripe_id: each.started_at for each in subscriptions}
    spans = {}
    for stripe_id, told, end, plan_id, price_id, mid_period in connection.exec_driver_sql(_INVOICED, (list(ids),)):
        start = max(told, starts[stripe_id])
        if start < end:
            spans[ids[stripe_id], start] = Span(ids[stripe_id], plan_id, price_id, start, end, mid_period)
    for each in subscriptions:
        begun = max(each.period_start, each.started_at)
        if each.metered_since is not None and begun < each.metered_since:  # of the price before: which, is not known
            spans.setdefault((each.id, begun), Span(each.id, None, None, begun, each.metered_since, mid_period=False))
        start, end = max(each.metered_since or each.period_start, each.started_at), each.period_end
        if each.ended_at is not None:
            end = min(end, each.ended_at)
        # An invoice may tell of a span's early end before the subscription does.
        billed = [its.end for its in spans.values() if its.subscription_id == each.id and start <= its.start]
        start = max([start, *(until for until in billed if until < end)])
        if start < end:
            mid_period = each.metered_since is not None
            current = Span(each.id, each.plan_id, each.metered_price_id, start, end, mid_period)
            spans.setdefault((each.id, start), current)
    swaps = {(span.subscription_id, span.start) for span in spans.values() if span.mid_period}
    cuts = swaps | {(each.id, each.ended_at) for each in subscriptions if each.removed}
    told = [replace(span, cut=(span.subscription_id, span.end) in cuts) for span in spans.values()]
    return sorted(told, key=lambda span: (span.start, span.end))
