"""The mirror of subscriptions: which item counts minutes, since when its price counts, which plan it stands for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.providers.stripe_fields import Item, Subscription

_PRICE_PLANS = "select id, plan_id from stripe_prices where id = any(%s::text[])"

# What an old shape of a cancelled subscription leaves out is kept.
_REPLACE = """
insert into subscriptions as s
  (stripe_id, business_id, stripe_customer_id, status, plan_id, metered_item_id, metered_price_id, metered_since,
   period_start, period_end, billing_cycle_anchor, started_at, trial_end, cancel_at_period_end, cancel_at, canceled_at,
   ended_at, pause_collection, price_ids, api_version, snapshot_at)
values
  (%(stripe_id)s, %(business_id)s, %(customer_id)s, %(status)s, %(plan_id)s, %(metered_item_id)s,
   %(metered_price_id)s, %(metered_since)s, %(period_start)s, %(period_end)s, %(anchor)s, %(started_at)s, %(trial_end)s,
   %(cancel_at_period_end)s, %(cancel_at)s, %(canceled_at)s, %(ended_at)s, %(pause_collection)s::jsonb,
   %(price_ids)s::jsonb, %(api_version)s, %(snapshot_at)s)
on conflict (stripe_id) do update
set status = excluded.status, plan_id = excluded.plan_id, metered_item_id = excluded.metered_item_id,
    metered_price_id = excluded.metered_price_id, metered_since = excluded.metered_since,
    period_start = coalesce(excluded.period_start, s.period_start),
    period_end = coalesce(excluded.period_end, s.period_end),
    billing_cycle_anchor = coalesce(excluded.billing_cycle_anchor, s.billing_cycle_anchor),
    started_at = excluded.started_at, trial_end = excluded.trial_end,
    cancel_at_period_end = excluded.cancel_at_period_end, cancel_at = excluded.cancel_at,
    canceled_at = excluded.canceled_at,
    ended_at = excluded.ended_at, pause_collection = excluded.pause_collection, price_ids = excluded.price_ids,
    api_version = excluded.api_version, snapshot_at = excluded.snapshot_at
"""

_STORED = "select metered_price_id, metered_since, period_start from subscriptions where stripe_id = %s"


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """What storing a snapshot has told of a subscription."""

    first_seen: bool
    """An event of its later life has brought it."""
    plan_id: int | None
    price_ids: tuple[str, ...]


def store_subscription(
    connection: Connection,
    subscription: Subscription,
    business_id: int,
    *,
    snapshot_at: datetime,
    api_version: str | None,
) -> StoredSubscription:
    """Make the mirror what this newer snapshot says; the business's lock is held, the items' prices are mirrored."""
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
            "cancel_at": subscription.cancel_at,
            "canceled_at": subscription.canceled_at,
            "ended_at": subscription.ended_at,
            "pause_collection": subscription.pause_collection,
            "price_ids": json.dumps(sorted(prices)),
            "api_version": api_version,
            "snapshot_at": snapshot_at,
        },
    )
    return StoredSubscription(
        first_seen=stored is None and api_version is not None and subscription.started_at != snapshot_at,
        plan_id=plan_id,
        price_ids=tuple(sorted(prices)),
    )


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
