"""The mirror of prices, and which plan each stands for.

A price names its plan by ``metadata.altiora_plan``, or by a lookup key that begins ``altiora_<plan>``, or its
product's metadata does. Only a price with its product expanded tells for certain that no plan claims it.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.businesses.consequences import Consequences
from pipeline.providers.stripe_fields import Price
from pipeline.shared.drifts import DriftKind

_PLANS = "select code, id from subscription_plans"

# Ensure: prices that are not mirrored yet, as a subscription shows them.
_ENSURE = """
insert into stripe_prices (id, product_id, plan_id, usage_type, meter_id, active, snapshot_at)
values (%(id)s, %(product_id)s, %(plan_id)s, %(usage_type)s, %(meter_id)s, %(active)s, %(snapshot_at)s)
on conflict (id) do nothing
returning plan_id is null
"""

_REPLACE = """
insert into stripe_prices as p (id, product_id, plan_id, usage_type, meter_id, active, snapshot_at)
values (%(id)s, %(product_id)s, %(plan_id)s, %(usage_type)s, %(meter_id)s, %(active)s, %(snapshot_at)s)
on conflict (id) do update
set product_id = excluded.product_id, usage_type = excluded.usage_type, meter_id = excluded.meter_id,
    active = excluded.active, snapshot_at = excluded.snapshot_at,
    plan_id = case when %(certain)s then excluded.plan_id else p.plan_id end
returning plan_id
"""

# The subscriptions that have this price and another plan than it says.
_OTHERWISE_PLANNED = """
select distinct s.stripe_id from subscription_items i join subscriptions s on s.id = i.subscription_id
where i.price_id = %(id)s and s.plan_id is distinct from %(plan_id)s and s.ended_at is null
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
    plan_id = connection.exec_driver_sql(_REPLACE, values).scalar_one()
    if plan_id is None and not price.certain:
        consequences.fetch("price", price.id, "plan-unknown")
        return
    if plan_id is not None:
        consequences.resolve(DriftKind.UNMAPPED_PRICE, f"price:{price.id}")
    affected = connection.exec_driver_sql(_OTHERWISE_PLANNED, {"id": price.id, "plan_id": plan_id})
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
        "snapshot_at": snapshot_at,
    }
