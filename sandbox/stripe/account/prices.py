"""Products and prices, and what a quantity costs: per unit, or graduated by tiers."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from sandbox.stripe.account.events import Events
from sandbox.stripe.account.state import Object, State, new_id
from sandbox.stripe.api.errors import invalid, missing
from sandbox.stripe.api.params import Params

#: How many of each interval a price may span: three years.
LONGEST = {"day": 1095, "week": 156, "month": 36, "year": 3}


@dataclass
class Share:
    """The part of a quantity that one tier prices. ``cents`` is rounded half up, once for the whole share."""

    tier: int
    quantity: Decimal
    unit: Decimal
    flat: Decimal = Decimal(0)

    @property
    def cents(self) -> int:
        return sum(int(part.quantize(Decimal(1), ROUND_HALF_UP)) for part in (self.quantity * self.unit, self.flat))


def shares(quantity: Decimal, price: Object, tiers: list[Object] | None) -> list[Share]:
    """How ``quantity`` spreads over the tiers of a graduated price; the first is there even when it is 0."""
    if tiers is None:
        return [Share(1, quantity, Decimal(price["unit_amount_decimal"]))]
    parts: list[Share] = []
    below = Decimal(0)
    for position, tier in enumerate(tiers, 1):
        top = quantity if tier["up_to"] is None else min(quantity, Decimal(tier["up_to"]))
        if position > 1 and top <= below:
            break
        flat = Decimal(tier["flat_amount_decimal"] or 0)
        parts.append(Share(position, top - below, Decimal(tier["unit_amount_decimal"] or 0), flat))
        below = top
    return parts


class Prices:
    """The catalogue of the account."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events

    def create_product(self, name: str, metadata: dict[str, str], product_id: str | None = None) -> Object:
        if product_id in self._state.products:
            raise invalid("id", f"Product already exists: {product_id}", "resource_already_exists")
        product: Object = {
            "id": product_id or new_id("prod"),
            "object": "product",
            "active": True,
            "created": self._state.now,
            "default_price": None,
            "description": None,
            "livemode": False,
            "metadata": metadata,
            "name": name,
            "type": "service",
            "updated": self._state.now,
        }
        self._state.products[product["id"]] = product
        self._events.emit("product.created", product)
        return product

    def create_price(self, price: dict[str, Any], tiers: list[Object] | None) -> Object:
        """``price``: what the caller fixes of product, currency, amounts, ``recurring``, lookup key and metadata."""
        stored: Object = {
            "id": new_id("price"),
            "object": "price",
            "active": True,
            "billing_scheme": "per_unit" if tiers is None else "tiered",
            "created": self._state.now,
            "custom_unit_amount": None,
            "livemode": False,
            "tax_behavior": "unspecified",
            "tiers_mode": None if tiers is None else "graduated",
            "transform_quantity": None,
            "type": "recurring" if price["recurring"] else "one_time",
            **price,
        }
        self._state.prices[stored["id"]] = stored
        if tiers is not None:
            self._state.tiers[stored["id"]] = tiers
        self._events.emit("price.created", stored)
        return stored


def read_recurring(params: Params | None) -> Object | None:
    """The ``recurring`` of a price. A metered one must name its meter."""
    if params is None:
        return None
    interval = params.choice("interval", *LONGEST)
    if interval is None:
        raise missing("recurring[interval]")
    count = params.whole("interval_count")
    if count is not None and not 1 <= count <= LONGEST[interval]:
        raise invalid("recurring[interval_count]", f"interval_count must be between 1 and {LONGEST[interval]}.")
    usage = params.choice("usage_type", "licensed", "metered") or "licensed"
    meter = params.text("meter")
    if usage == "metered" and not meter:
        raise invalid("recurring[meter]", "A metered price must name a meter; usage records are no longer supported.")
    params.refuse_unread()
    return monthly(usage, meter) | {"interval": interval, "interval_count": count or 1}


def monthly(usage: str, meter: str | None) -> Object:
    return {
        "interval": "month",
        "interval_count": 1,
        "meter": meter,
        "trial_period_days": None,
        "usage_type": usage,
    }


def read_amount(params: Params) -> tuple[int | None, str]:
    """``unit_amount`` (None where it isn't whole) and ``unit_amount_decimal``, in cents."""
    whole, exact = params.whole("unit_amount"), params.decimal("unit_amount_decimal")
    if (whole is None) == (exact is None):
        raise invalid("unit_amount", "Give one of unit_amount and unit_amount_decimal.")
    amount = Decimal(whole) if exact is None and whole is not None else exact or Decimal(0)
    return (int(amount) if amount == amount.to_integral_value() else None), f"{amount.normalize():f}"


def read_tiers(params: Params) -> list[Object]:
    """The tiers of a graduated price, the last without an end."""
    if params.choice("tiers_mode", "graduated") is None:
        raise missing("tiers_mode")
    tiers = []
    rows = params.rows("tiers")
    for position, row in enumerate(rows):
        up_to = row.required("up_to")
        last = position == len(rows) - 1
        if (up_to == "inf") != last:
            raise invalid("tiers", "The last tier, and only that, must have up_to=inf.")
        flat = row.whole("flat_amount")
        unit_amount, unit_amount_decimal = (0, "0") if flat is not None and not _has_amount(row) else read_amount(row)
        end = None if last else row.whole("up_to")
        row.refuse_unread()
        tiers.append(tier(end, unit_amount, unit_amount_decimal, flat))
    ends = [each["up_to"] for each in tiers[:-1]]
    if not tiers or ends != sorted(set(ends)) or any(end <= 0 for end in ends):
        raise invalid("tiers", "Tiers need rising ends above 0.")
    return tiers


def _has_amount(params: Params) -> bool:
    return "unit_amount" in params or "unit_amount_decimal" in params


def tier(up_to: int | None, unit_amount: int | None, unit_amount_decimal: str, flat: int | None = None) -> Object:
    return {
        "flat_amount": flat,
        "flat_amount_decimal": None if flat is None else str(flat),
        "unit_amount": unit_amount,
        "unit_amount_decimal": unit_amount_decimal,
        "up_to": up_to,
    }
