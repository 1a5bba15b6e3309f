"""The mirror of prices, and which plan each stands for.

A price names its plan by ``metadata.altiora_plan``, or by a lookup key that begins ``altiora_<plan>``, or its
product's metadata does. Only a price with its product expanded tells for certain that no plan claims it.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import Connection

from pipeline.businesses.consequences import Consequences
from pipeline.prices.price_tiers import tariffs_document
from pipeline.providers.stripe_fields import Price
from pipeline.shared.drifts import DriftKind

_PLANS = "select code, id from subscription_plans"

# Ensure: prices that are not mirrored yet, as a subscription shows them.
_ENSURE = """
insert into stripe_prices
  (id, product_id, plan_id, usage_type, meter_id, active, currency, billing_interval, interval_count, lookup_key,
   tariffs, product_default, snapshot_at)
values
  (%(id)s, %(product_id)s, %(plan_id)s, %(usage_type)s, %(meter_id)s, %(active)s, %(currency)s, %(billing_interval)s,
   %(interval_count)s, %(lookup_key)s, %(tariffs)s, coalesce(%(product_default)s, false), %(snapshot_at)s)
on conflict (id) do nothing
returning plan_id is null
"""

_REPLACE = """
with before as (select tariffs from stripe_prices where id = %(id)s)
insert into stripe_prices as p
  (id, product_id, plan_id, usage_type, meter_id, active, currency, billing_interval, interval_count, lookup_key,
   tariffs, product_default, snapshot_at)
values
  (%(id)s, %(product_id)s, %(plan_id)s, %(usage_type)s, %(meter_id)s, %(active)s, %(currency)s, %(billing_interval)s,
   %(interval_count)s, %(lookup_key)s, %(tariffs)s, coalesce(%(product_default)s, false), %(snapshot_at)s)
on conflict (id) do update
set product_id = excluded.product_id, usage_type = excluded.usage_type, meter_id = excluded.meter_id,
    active = excluded.active, snapshot_at = excluded.snapshot_at,
    plan_id = case when %(certain)s then excluded.plan_id else p.plan_id end,
    currency = coalesce(excluded.currency, p.currency),
    billing_interval = coalesce(excluded.billing_interval, p.billing_interval),
    interval_count = coalesce(excluded.interval_count, p.interval_count), lookup_key = excluded.lookup_key,
    tariffs = coalesce(excluded.tariffs, p.tariffs),
    product_default = coalesce(%(product_default)s, p.product_default)
returning plan_id, tariffs is distinct from (select tariffs from before) as gives_otherwise
"""

# The subscriptions that have this price, and another plan than it says or minutes by a tariff that was not known.
_AFFECTED = """
select distinct s.stripe_id from subscription_items i join subscriptions s on s.id = i.subscription_id
where i.price_id = %(id)s and s.ended_at is null
  and (s.plan_id is distinct from %(plan_id)s or (%(gives_otherwise)s and i.role = 'minutes'))
"""

_OF_PRODUCT = "select id from stripe_prices where product_id = %s"


def plan_ids(connection: Connection) -> dict[str, int]:
    """The plans by their codes."""
    return dict(connection.exec_driver_sql(_PLANS).all())


def ensure(
    connection: Connection,
    prices: Iterable[Price],
    snapshot_at: datetime,
    plans: Mapping[str, int],
    consequences: Consequences,
) -> None:
    """Mirror those prices that are not mirrored yet; one whose plan can't be told so is fetched, with its product."""
    for price in sorted(prices, key=lambda price: price.id):
        created = connection.exec_driver_sql(_ENSURE, _values(price, snapshot_at, plans)).first()
        if created is not None and created[0] and not price.certain:
            consequences.fetch("price", price.id, "plan-unknown")


def store_price(
    connection: Connection, price: Price, snapshot_at: datetime, plans: Mapping[str, int], consequences: Consequences
) -> None:
    """Make the mirror what this newer snapshot says, and have subscriptions looked at that it gives another plan."""
    values = {**_values(price, snapshot_at, plans), "certain": price.certain}
    plan_id, gives_otherwise = connection.exec_driver_sql(_REPLACE, values).one()
    if plan_id is None and not price.certain:
        consequences.fetch("price", price.id, "plan-unknown")
        return
    if price.metered and price.tariffs is None:
        consequences.fetch("price", price.id, "tiers-unknown")
    if plan_id is not None:
        consequences.resolve(DriftKind.UNMAPPED_PRICE, f"price:{price.id}")
    subject = f"price:{price.id}"
    if price.volume and price.metered and plan_id is not None:
        consequences.report(
            DriftKind.VOLUME_TIERS,
            subject,
            None,
            "graduated tiers, the first of which cost nothing",
            "volume tiers: the last one reached prices all minutes, the included ones too",
            {"price": price.id},
        )
    else:
        consequences.resolve(DriftKind.VOLUME_TIERS, subject)
    about = {"id": price.id, "plan_id": plan_id, "gives_otherwise": gives_otherwise}
    affected = connection.exec_driver_sql(_AFFECTED, about)
    for (subscription_id,) in affected:
        consequences.fetch("subscription", subscription_id, "price-mapped")


def product_changed(connection: Connection, product_id: str, consequences: Consequences) -> None:
    """Have the prices of this product fetched: its metadata may map them, or no longer."""
    for (price_id,) in connection.exec_driver_sql(_OF_PRODUCT, (product_id,)):
        consequences.fetch("price", price_id, "product-changed")


def _values(price: Price, snapshot_at: datetime, plans: Mapping[str, int]) -> dict[str, Any]:
    return {
        "id": price.id,
        "product_id": price.product_id,
        "plan_id": plans.get(price.plan_code or ""),
        "usage_type": price.usage_type,
        "meter_id": price.meter_id,
        "active": price.active,
        "currency": price.currency,
        "billing_interval": price.billing_interval,
        "interval_count": price.interval_count,
        "lookup_key": price.lookup_key,
        "product_default": price.product_default,
        "tariffs": None if price.tariffs is None else Jsonb(tariffs_document(price.tariffs)),
        "snapshot_at": snapshot_at,
    }
