"""The mirror of subscriptions: what one says in any API version, and what it does to its business."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.businesses import plan_limits
from pipeline.providers.stripe_fields import below, identifier, named_business, rows, unix_instant, word
from pipeline.providers.stripe_words import SubscriptionStatus
from pipeline.shared.drifts import DriftKind
from pipeline.stripe_mirror.customers import Owned
from pipeline.stripe_mirror.effects import Effects
from pipeline.stripe_mirror.prices import Price, read_price
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.kinds import ChangeKind
from pipeline.usage import record_alignment

#: In these a subscription bills nothing: its first payment never came, or it is over.
NOT_LIVING = (SubscriptionStatus.INCOMPLETE, SubscriptionStatus.INCOMPLETE_EXPIRED, SubscriptionStatus.CANCELED)

_PRICE_PLANS = "select id, plan_id from stripe_prices where id = any(%s::text[])"

# What an old shape of a cancelled subscription leaves out is kept.
_REPLACE = """
insert into subscriptions as s
  (stripe_id, business_id, stripe_customer_id, status, plan_id, metered_item_id, metered_price_id, metered_since,
   period_start, period_end, billing_cycle_anchor, started_at, trial_end, cancel_at_period_end, canceled_at, ended_at,
   pause_collection, price_ids, api_version, snapshot_at)
values
  (%(stripe_id)s, %(business_id)s, %(customer_id)s, %(status)s, %(plan_id)s, %(metered_item_id)s,
   %(metered_price_id)s, %(metered_since)s, %(period_start)s, %(period_end)s, %(anchor)s, %(started_at)s, %(trial_end)s,
   %(cancel_at_period_end)s, %(canceled_at)s, %(ended_at)s, %(pause_collection)s::jsonb, %(price_ids)s::jsonb,
   %(api_version)s, %(snapshot_at)s)
on conflict (stripe_id) do update
set status = excluded.status, plan_id = excluded.plan_id, metered_item_id = excluded.metered_item_id,
    metered_price_id = excluded.metered_price_id, metered_since = excluded.metered_since,
    period_start = coalesce(excluded.period_start, s.period_start),
    period_end = coalesce(excluded.period_end, s.period_end),
    billing_cycle_anchor = coalesce(excluded.billing_cycle_anchor, s.billing_cycle_anchor),
    started_at = excluded.started_at, trial_end = excluded.trial_end,
    cancel_at_period_end = excluded.cancel_at_period_end, canceled_at = excluded.canceled_at,
    ended_at = excluded.ended_at, pause_collection = excluded.pause_collection, price_ids = excluded.price_ids,
    api_version = excluded.api_version, snapshot_at = excluded.snapshot_at
"""

# Living: the subscription that decides the business's plan comes first: a metered one, then the latest.
_LIVING = """
select stripe_id, plan_id, metered_item_id is not null
from subscriptions
where business_id = %(business_id)s and ended_at is null and status <> all(%(not_living)s::text[])
order by metered_item_id is null, plan_id is null, started_at desc, id desc
"""

_STORED = "select metered_price_id, metered_since, period_start from subscriptions where stripe_id = %s"

_SET_PLAN = "update businesses set plan_id = %(plan_id)s where id = %(business_id)s and plan_id <> %(plan_id)s"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a subscription, with its own period where the shape has one."""

    id: str
    price: Price
    period: tuple[datetime, datetime] | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """What we need of a subscription. ``period`` is the one of the whole, in shapes before 2025-03-31."""

    stripe_id: str
    owned: Owned
    status: str
    items: tuple[Item, ...]
    period: tuple[datetime, datetime] | None
    anchor: datetime | None
    started_at: datetime | None
    trial_end: datetime | None
    cancel_at_period_end: bool
    canceled_at: datetime | None
    ended_at: datetime | None
    pause_collection: str | None
    swapped_at: datetime | None = None
    """When its metered price came, where a fetch found that inside the period; an event came at that instant."""
    swap_looked_up: bool = False


def read_subscription(subscription: Any) -> Subscription | None:
    """A subscription in the shapes of 2020 to 2026; None where it lacks its id, customer or status."""
    stripe_id = identifier(subscription)
    customer_id = identifier(below(subscription, "customer"))
    status = word(below(subscription, "status"))
    if not isinstance(subscription, Mapping) or stripe_id is None or customer_id is None or status is None:
        return None
    pause = subscription.get("pause_collection")
    started = subscription.get("start_date") or subscription.get("start") or subscription.get("created")
    ended_at = unix_instant(subscription.get("ended_at"))
    if status == SubscriptionStatus.CANCELED and ended_at is None:
        ended_at = unix_instant(subscription.get("canceled_at"))
    return Subscription(
        stripe_id=stripe_id,
        owned=Owned(customer_id, named_business(subscription)),
        status=status,
        items=tuple(_items(subscription)),
        period=_period(subscription),
        anchor=unix_instant(subscription.get("billing_cycle_anchor")),
        started_at=unix_instant(started),
        trial_end=unix_instant(subscription.get("trial_end")),
        cancel_at_period_end=subscription.get("cancel_at_period_end") is True,
        canceled_at=unix_instant(subscription.get("canceled_at")),
        ended_at=ended_at,
        pause_collection=_pause(pause) if isinstance(pause, Mapping) else None,
    )


def _items(subscription: Mapping[str, Any]) -> list[Item]:
    items = []
    for row in rows(subscription.get("items")):
        price = read_price(row.get("price")) or read_price(row.get("plan"))
        item_id = identifier(row)
        if price is not None and item_id is not None:
            items.append(Item(item_id, price, _period(row)))
    return items


def _period(holder: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    start, end = unix_instant(holder.get("current_period_start")), unix_instant(holder.get("current_period_end"))
    return (start, end) if start is not None and end is not None and start < end else None


def _pause(pause: Mapping[str, Any]) -> str:
    return json.dumps({"behavior": word(pause.get("behavior")), "resumes_at": _instant_text(pause.get("resumes_at"))})


def _instant_text(value: Any) -> str | None:
    moment = unix_instant(value)
    return None if moment is None else moment.isoformat()


def store_subscription(
    connection: Connection,
    subscription: Subscription,
    business_id: int,
    *,
    snapshot_at: datetime,
    api_version: str | None,
    plans: Mapping[str, int],
    effects: Effects,
    now: datetime,
) -> None:
    """Make the mirror what this newer snapshot says, then the business's plan and its open records.

    The business's lock must be held, and the prices of the items be mirrored.
    """
    prices = {item.price.id: item.price for item in subscription.items}
    price_plans: dict[str, int | None] = dict(connection.exec_driver_sql(_PRICE_PLANS, (sorted(prices),)).all())
    metered = _metered_item(subscription, price_plans)
    plan_id = _plan_of(subscription, metered, price_plans)
    period = (metered.period if metered else None) or subscription.period
    if period is None:
        period = next((item.period for item in subscription.items if item.period is not None), None)
    stored = connection.exec_driver_sql(_STORED, (subscription.stripe_id,)).first()
    since = _metered_since(subscription, stored, metered, period, snapshot_at)
    connection.exec_driver_sql(
        _REPLACE,
        {
            "stripe_id": subscription.stripe_id,
            "business_id": business_id,
            "customer_id": subscription.owned.customer_id,
            "status": subscription.status,
            "plan_id": plan_id,
            "metered_item_id": metered.id if metered else None,
            "metered_price_id": metered.price.id if metered else None,
            "metered_since": since,
            "period_start": period[0] if period else None,
            "period_end": period[1] if period else None,
            "anchor": subscription.anchor,
            "started_at": subscription.started_at or snapshot_at,
            "trial_end": subscription.trial_end,
            "cancel_at_period_end": subscription.cancel_at_period_end,
            "canceled_at": subscription.canceled_at,
            "ended_at": subscription.ended_at,
            "pause_collection": subscription.pause_collection,
            "price_ids": json.dumps(sorted(prices)),
            "api_version": api_version,
            "snapshot_at": snapshot_at,
        },
    )
    if stored is None and api_version is not None and subscription.started_at != snapshot_at:
        # What it was before is not known here: a fetch can tell since when its price counts.
        effects.stale("subscription", subscription.stripe_id, "first-seen")
    if subscription.status not in NOT_LIVING and plan_id is None:
        _report_unmapped(subscription, business_id, price_plans, effects)
    has_another_plan = _choose_plan(connection, business_id, plans["free"], effects)
    record_alignment.align_records(connection, business_id, now)
    if has_another_plan:
        plan_limits.check_counts(connection, business_id, now)
        planning.want_change(connection, business_id, ChangeKind.METADATA, "another plan", now)
    effects.follow_ups |= {"stripe.plan-meter-pushes", "periods.close-due"}


def _metered_since(
    subscription: Subscription,
    stored: Any,
    metered: Item | None,
    period: tuple[datetime, datetime] | None,
    at: datetime,
) -> datetime | None:
    """When the metered price came, where it took another one's place inside the present period.

    Stripe begins to count anew then, and gives the included minutes of the new price anew.
    """
    if metered is None or period is None:
        return None
    if subscription.swapped_at is not None:
        since: datetime | None = subscription.swapped_at
    elif stored is None or stored.period_start != period[0]:
        since = None
    elif stored.metered_price_id in {None, metered.price.id}:
        since = stored.metered_since
    else:  # Stripe was asked and knows of none inside the period, or says so at the instant of the change
        since = None if subscription.swap_looked_up else at
    return since if since is not None and period[0] < since < period[1] else None


def _metered_item(subscription: Subscription, price_plans: Mapping[str, int | None]) -> Item | None:
    """The item that counts minutes: a metered one, of several that whose price a plan claims."""
    metered = [item for item in subscription.items if item.price.metered]
    return next((item for item in metered if price_plans.get(item.price.id) is not None), next(iter(metered), None))


def _plan_of(subscription: Subscription, metered: Item | None, price_plans: Mapping[str, int | None]) -> int | None:
    """The plan by the metered price, else by the first other price that has one."""
    ordered = ([metered] if metered else []) + list(subscription.items)
    return next((plan for item in ordered if (plan := price_plans.get(item.price.id)) is not None), None)


def _report_unmapped(
    subscription: Subscription, business_id: int, price_plans: Mapping[str, int | None], effects: Effects
) -> None:
    for price_id in sorted(price_plans):
        effects.report(
            DriftKind.UNMAPPED_PRICE,
            f"price:{price_id}",
            business_id,
            "a plan: metadata altiora_plan on the price or its product, or a lookup key altiora_<plan>",
            "none",
            {"price": price_id, "subscription": subscription.stripe_id},
        )


def _choose_plan(connection: Connection, business_id: int, free_plan_id: int, effects: Effects) -> bool:
    """The business's plan by its living subscriptions: Free without any, as it was where none tells.

    Returns whether it is another one now. Two living subscriptions with a metered item would bill everything twice:
    that is a drift, which blocks pushing.
    """
    living = connection.exec_driver_sql(_LIVING, {"business_id": business_id, "not_living": list(NOT_LIVING)}).all()
    plan_id = next((plan for _, plan, _ in living if plan is not None), None if living else free_plan_id)
    has_another_plan = (
        plan_id is not None
        and connection.exec_driver_sql(_SET_PLAN, {"plan_id": plan_id, "business_id": business_id}).rowcount > 0
    )
    metered = [stripe_id for stripe_id, _, is_metered in living if is_metered]
    subject = f"business:{business_id}"
    if len(metered) > 1:
        effects.report(
            DriftKind.SECOND_METERED_SUBSCRIPTION,
            subject,
            business_id,
            "one living subscription with a metered item",
            f"{len(metered)}: all would bill the same minutes; cancel all but one in Stripe",
            {"subscriptions": metered},
        )
    else:
        effects.resolve(DriftKind.SECOND_METERED_SUBSCRIPTION, subject)
    return has_another_plan
