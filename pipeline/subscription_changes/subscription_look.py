"""How a subscription looks at Stripe before it is changed: as it shows itself, and which items are the plan's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.price_roles import KnownPrice, PlanItems, known_prices, plan_items
from pipeline.providers.stripe_fields import Item, below, read_items
from pipeline.providers.stripe_words import CLASSIC_MODE

Json = Mapping[str, Any]

_CONFIRMED = """
select coalesce(sum(r.pushed_minutes), 0)::int
from usage_records r join subscriptions s on s.id = r.subscription_id
where s.stripe_id = %s and r.state = 'open'
"""


class UnknownItemError(Exception):
    """The mirror does not know yet what an item is to us: the subscription must be fetched first."""


@dataclass(frozen=True, slots=True)
class SubscriptionLook:
    """A subscription as Stripe shows it now (``it``), and what the mirror knows of its items' prices."""

    it: Json
    _known: Mapping[str, KnownPrice]
    confirmed_minutes: int = 0
    """What Stripe has of the present period, as far as our pushes were answered."""

    @property
    def classic(self) -> bool:
        """In classic billing mode a price that is swapped gives its usage away."""
        return bool(below(self.it, "billing_mode", "type") == CLASSIC_MODE)

    @property
    def items(self) -> list[Item]:
        return read_items(self.it)

    @property
    def ours(self) -> PlanItems:
        """Its plan items; the others are its customer's. Raises UnknownItemError."""
        for item in self.items:
            known = self._known.get(item.price.id)
            if known is None or known.role is None:
                raise UnknownItemError(f"what item {item.id} of {self.it['id']} stands for is not known yet")
        return plan_items(self.items, self._known)


def look_at(connection: Connection, it: Json, event_name: str) -> SubscriptionLook:
    """What can be told of ``it``, a subscription as the API answers one; ``event_name`` is our meter's."""
    priced = {item.price.id for item in read_items(it)}
    confirmed = connection.exec_driver_sql(_CONFIRMED, (it["id"],)).scalar_one()
    return SubscriptionLook(it, known_prices(connection, priced, event_name), confirmed)
