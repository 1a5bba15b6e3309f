"""Whose item is it: what an item of a subscription, or a line of an invoice, is to us, by its price.

Our meter is any active one whose event name is the setting STRIPE_METER_EVENT_NAME and that sums by our keys. What is
metered on it counts minutes; a fixed price that stands for a plan is that plan's fee; everything else is an add-on, and
nobody's business here: other meters, extra numbers, support by the year.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection

from pipeline.providers.stripe_fields import Item

# Undecided while the meter of a metered price is not mirrored.
_KNOWN = """
select p.id, p.plan_id, p.meter_id, p.tariffs is not null as tariffed,
       case when p.usage_type = 'licensed' then case when p.plan_id is null then 'add-on' else 'fee' end
            when p.meter_id is null then 'add-on'
            when m.id is not null then
              case when m.active and m.sums_by_our_keys and m.event_name = %(event_name)s then 'minutes'
                   else 'add-on' end end as role
from stripe_prices p left join stripe_meters m on m.id = p.meter_id
where p.id = any(%(ids)s::text[])
"""


class PriceRole(StrEnum):
    """What a price is to us."""

    MINUTES = "minutes"
    """Metered on our meter: its item's period makes the usage records."""
    FEE = "fee"
    """The fixed price of a plan."""
    ADD_ON = "add-on"
    """Anything else that a customer pays for: never counted, never changed by us."""


@dataclass(frozen=True, slots=True)
class KnownPrice:
    """A mirrored price: the plan that it stands for, if one does, and its role; None until its meter is mirrored."""

    id: str
    plan_id: int | None
    meter_id: str | None
    tariffed: bool
    """Its tiers are known."""
    role: PriceRole | None


def known_prices(connection: Connection, price_ids: Collection[str], event_name: str) -> dict[str, KnownPrice]:
    """Those of these prices that are mirrored, by their ids; ``event_name`` is the setting."""
    about = {"ids": sorted(price_ids), "event_name": event_name}
    return {
        row.id: KnownPrice(
            row.id, row.plan_id, row.meter_id, row.tariffed, None if row.role is None else PriceRole(row.role)
        )
        for row in connection.exec_driver_sql(_KNOWN, about)
    }


@dataclass(frozen=True, slots=True)
class PlanItems:
    """What of a subscription's items is ours, those of a plan first, then by age; the rest are add-ons."""

    minutes: tuple[Item, ...]
    """One, or none; of several each would bill the same minutes."""
    fees: tuple[Item, ...]
    plan_id: int | None
    """By the minutes item's price, else by the fee's."""

    @property
    def minutes_item(self) -> Item | None:
        """The item whose period and price count."""
        return next(iter(self.minutes), None)


def plan_items(items: Iterable[Item], known: Mapping[str, KnownPrice]) -> PlanItems:
    """Tell the items apart, whatever their order; what the mirror doesn't know is an add-on."""
    ordered = sorted(items, key=lambda item: _place(item, known))
    minutes, fees = (
        tuple(item for item in ordered if item.price.id in known and known[item.price.id].role is role)
        for role in (PriceRole.MINUTES, PriceRole.FEE)
    )
    plan_ids = (known[item.price.id].plan_id for item in (*minutes, *fees))
    return PlanItems(minutes, fees, next((plan_id for plan_id in plan_ids if plan_id is not None), None))


def _place(item: Item, known: Mapping[str, KnownPrice]) -> tuple[bool, float, str]:
    """Items whose price stands for a plan first, then by age."""
    price = known.get(item.price.id)
    created = item.created_at.timestamp() if item.created_at is not None else math.inf
    return price is None or price.plan_id is None, created, item.id
