"""What the fixed items of a subscription cost a period: the fee of its plan, and whatever else has a fixed price."""

from collections.abc import Iterable

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.providers.stripe_fields import Item

_AMOUNTS = """
select p.id, coalesce(%(currency)s, p.currency) as currency,
       round((p.tariffs #>> array[coalesce(%(currency)s, p.currency), 'tiers', '0', '1'])::numeric)::bigint as amount
from stripe_prices p where p.id = any(%(ids)s::text[])
"""


def fixed_fee(connection: Connection, items: Iterable[Item], currency: str | None) -> str | None:
    """As text, in the subscription's ``currency``; None while what one of them costs is not known."""
    quantities = [
        (item.price.id, 1 if item.quantity is None else item.quantity) for item in items if not item.price.metered
    ]
    about = {"ids": sorted({price_id for price_id, _ in quantities}), "currency": currency}
    amounts = {row.id: row for row in connection.exec_driver_sql(_AMOUNTS, about) if row.amount is not None}
    if not quantities or any(price_id not in amounts for price_id, _ in quantities):
        return None
    total = sum(amounts[price_id].amount * quantity for price_id, quantity in quantities)
    return money(total, amounts[quantities[0][0]].currency)
