"""The mirror of subscriptions: which item counts minutes, since when its price counts, which plan it stands for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.price_roles import KnownPrice, PriceRole, plan_items
from pipeline.providers.stripe_fields import Item, Subscription
from pipeline.usage import records

# What an old shape of a cancelled subscription leaves out is kept.
_REPLACE = """
insert into subscriptions as s
  (stripe_id, business_id, stripe_customer_id, status, plan_id, metered_item_id, metered_price_id, metered_since,
   period_start, period_end, billing_cycle_anchor, started_at, trial_end, cancel_at_period_end, cancel_at, canceled_at,
   ended_at, pause_collection, currency, minutes_ended_at, billing_mode, api_version, snapshot_at)
values
  (%(stripe_id)s, %(business_id)s, %(customer_id)s, %(status)s, %(plan_id)s, %(metered_item_id)s,
   %(metered_price_id)s, %(metered_since)s, %(period_start)s, %(period_end)s, %(anchor)s, %(started_at)s, %(trial_end)s,
   %(cancel_at_period_end)s, %(cancel_at)s, %(canceled_at)s, %(ended_at)s, %(pause_collection)s::jsonb,
   %(currency)s, %(minutes_ended_at)s, %(billing_mode)s, %(api_version)s, %(snapshot_at)s)
on conflict (stripe_id) do update
set status = excluded.status, plan_id = excluded.plan_id, metered_item_id = excluded.metered_item_id,
    metered_price_id = excluded.metered_price_id, metered_since = excluded.metered_since,
    period_start = coalesce(excluded.period_start, s.period_start),
    period_end = coalesce(excluded.period_end, s.period_end),
    billing_cycle_anchor = coalesce(excluded.billing_cycle_anchor, s.billing_cycle_anchor),
    started_at = excluded.started_at, trial_end = excluded.trial_end,
    cancel_at_period_end = excluded.cancel_at_period_end, cancel_at = excluded.cancel_at,
    canceled_at = excluded.canceled_at,
    ended_at = excluded.ended_at, pause_collection = excluded.pause_collection,
    currency = coalesce(excluded.currency, s.currency), minutes_ended_at = excluded.minutes_ended_at,
    billing_mode = coalesce(excluded.billing_mode, s.billing_mode), api_version = excluded.api_version,
    snapshot_at = excluded.snapshot_at
returning id
"""

_FORGET_ITEMS = "delete from subscription_items where subscription_id = %s"

_ITEMS = """
insert into subscription_items (id, subscription_id, price_id, role, quantity)
select i.id, %(subscription_id)s, i.price_id, i.role, i.quantity
from unnest(%(ids)s::text[], %(price_ids)s::text[], %(roles)s::text[], %(quantities)s::bigint[])
     as i(id, price_id, role, quantity)
on conflict do nothing
"""

_STORED = """
select metered_item_id, metered_price_id, metered_since, minutes_ended_at, period_start,
       greatest(coalesce(metered_since, period_start), started_at) as counts_since
from subscriptions where stripe_id = %s
"""


@dataclass(frozen=True, slots=True)
class StoredSubscription:
    """What storing a snapshot has told of a subscription."""

    first_seen: bool
    """An event of its later life has brought it."""
    unmapped: tuple[str, ...]
    """The prices of its items that count minutes, and that stand for no plan."""
    tariff_unknown: bool
    """An event has brought it, and nobody has asked yet what its minutes or its plan cost."""


def store_subscription(
    connection: Connection,
    subscription: Subscription,
    business_id: int,
    *,
    known: Mapping[str, KnownPrice],
    snapshot_at: datetime,
    api_version: str | None,
    now: datetime,
) -> StoredSubscription:
    """Make the mirror what this newer snapshot says; the business's lock is held, ``known`` are the items' prices."""
    ours = plan_items(subscription.items, known)
    metered = ours.minutes_item
    period = (metered.period if metered else None) or subscription.period
    if period is None:
        others = (*ours.fees, *subscription.items)
        period = next((item.period for item in others if item.period is not None), None)
    stored = connection.exec_driver_sql(_STORED, (subscription.stripe_id,)).first()
    since = _metered_since(subscription, stored, metered, period, snapshot_at)
    price_id, removed_at = metered.price.id if metered else None, None
    if metered is None and stored is not None:
        removed_at = stored.minutes_ended_at or (snapshot_at if stored.metered_item_id is not None else None)
        if removed_at is not None:  # what had been counted by then is billed by its price, until then
            price_id, since = stored.metered_price_id, stored.metered_since
    elif stored is not None and stored.counts_since and stored.metered_price_id not in {None, price_id}:
        # What is told later of the time before is worth the price before, which nothing else here remembers.
        records.record_for(connection, business_id, stored.counts_since, now)
    subscription_id = connection.exec_driver_sql(
        _REPLACE,
        {
            "stripe_id": subscription.stripe_id,
            "business_id": business_id,
            "customer_id": subscription.owned.customer_id,
            "status": subscription.status,
            "plan_id": ours.plan_id,
            "metered_item_id": metered.id if metered else None,
            "metered_price_id": price_id,
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
            "currency": subscription.currency,
            "minutes_ended_at": removed_at,
            "billing_mode": subscription.billing_mode,
            "api_version": api_version,
            "snapshot_at": snapshot_at,
        },
    ).scalar_one()
    _replace_items(connection, subscription_id, subscription, known)
    return StoredSubscription(
        first_seen=stored is None and api_version is not None and subscription.started_at != snapshot_at,
        tariff_unknown=api_version is not None
        and any(not known[item.price.id].tariffed for item in (*ours.minutes, *ours.fees)),
        unmapped=tuple(item.price.id for item in ours.minutes if known[item.price.id].plan_id is None),
    )


def _replace_items(
    connection: Connection, subscription_id: int, subscription: Subscription, known: Mapping[str, KnownPrice]
) -> None:
    connection.exec_driver_sql(_FORGET_ITEMS, (subscription_id,))
    roles = [known[item.price.id].role or PriceRole.ADD_ON for item in subscription.items]
    connection.exec_driver_sql(
        _ITEMS,
        {
            "subscription_id": subscription_id,
            "ids": [item.id for item in subscription.items],
            "price_ids": [item.price.id for item in subscription.items],
            "roles": [role.value for role in roles],
            "quantities": [item.quantity for item in subscription.items],
        },
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
    if subscription.swaps is not None and metered.price.id in subscription.swaps:
        since: datetime | None = subscription.swaps[metered.price.id]
    elif stored is None or stored.period_start != period[0]:
        since = None
    elif stored.metered_price_id in {None, metered.price.id}:
        since = stored.metered_since
    else:  # Stripe was asked and knows of none inside the period, or says so at the instant of the change
        since = at if subscription.swaps is None else None
    return since if since is not None and period[0] < since < period[1] else None
