"""What an invoice's lines are made from: fixed charges in advance, and usage in arrears."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal

from sandbox.stripe.account.meters import Meters, total
from sandbox.stripe.account.prices import Share, shares
from sandbox.stripe.account.state import Object, State, number


@dataclass
class Flat:
    """A fixed charge for ``[start, end)``, in advance; negative cents are a credit for time that was paid for."""

    item: str
    price: Object
    quantity: int
    cents: int
    start: int
    end: int
    proration: bool = False

    @property
    def metered(self) -> bool:
        return False

    def parts(self) -> list[Share]:
        return [Share(1, Decimal(self.quantity), Decimal(self.cents) / self.quantity)]


@dataclass
class Usage:
    """What a metered item used in ``[start, end)``, in arrears. Moves until ``freeze``, which is for ever."""

    item: str
    price: Object
    tiers: list[Object] | None
    customer: str
    start: int
    end: int
    meters: Meters
    formula: str
    proration: bool = False
    frozen: Decimal | None = None

    @property
    def metered(self) -> bool:
        return True

    @property
    def arrived(self) -> Decimal:
        """What the meter holds by now of this time."""
        events = self.meters.used(self.price["recurring"]["meter"], self.customer, self.start, self.end)
        return total(events, self.formula)

    @property
    def quantity(self) -> Decimal:
        """Never below 0: negative corrections can empty a period, not more."""
        return max(self.arrived, Decimal(0)) if self.frozen is None else self.frozen

    def freeze(self) -> None:
        self.frozen = self.quantity

    def waive(self) -> None:
        """Bill nothing of it, whatever arrives."""
        self.frozen = Decimal(0)

    def parts(self) -> list[Share]:
        return shares(self.quantity, self.price, self.tiers)

    def shown(self) -> Object:
        """The quantity as it stands, and the period that it is for, as the control routes show it."""
        return {
            "subscription_item": self.item,
            "price": self.price["id"],
            "customer": self.customer,
            "period_start": self.start,
            "period_end": self.end,
            "quantity": number(self.quantity),
            "final": self.frozen is not None,
            "arrived": number(self.arrived),
        }


Charge = Flat | Usage


@dataclass
class Book:
    """What Stripe remembers of a subscription and doesn't show: from when each item's usage is open, and what waits."""

    open_since: dict[str, int] = field(default_factory=dict)
    pending: list[Charge] = field(default_factory=list)


class Charges:
    """What the subscriptions of the account owe, until it is on an invoice."""

    def __init__(self, state: State, meters: Meters) -> None:
        self._state = state
        self._meters = meters
        self._books: dict[str, Book] = {}

    def book(self, subscription: Object) -> Book:
        return self._books.setdefault(subscription["id"], Book())

    def adopt(self, subscription: Object, book: Book) -> None:
        """Go on from a copy of another account's book; what waits is shared, for it never changes."""
        self._books[subscription["id"]] = Book(copy.copy(book.open_since), copy.copy(book.pending))

    def usage(self, subscription: Object, item: Object, start: int, end: int, *, proration: bool = False) -> Usage:
        """What the metered ``item`` used in ``[start, end)``, counted at the price that it has now."""
        price = item["price"]
        formula = self._state.meters[price["recurring"]["meter"]]["default_aggregation"]["formula"]
        tiers = self._state.tiers.get(price["id"])
        customer = subscription["customer"]
        return Usage(item["id"], price, tiers, customer, start, end, self._meters, formula, proration)

    def open_usage(self, subscription: Object, until: int, items: Sequence[Object] | None = None) -> list[Usage]:
        """The open usage of these items, or of all, up to ``until``; from there on usage is open anew."""
        book, used = self.book(subscription), []
        for item in subscription["items"]["data"] if items is None else items:
            if is_metered(item) and (since := book.open_since[item["id"]]) < until:
                used.append(self.usage(subscription, item, since, until))
                book.open_since[item["id"]] = until
        return used

    def take_pending(self, subscription: Object) -> list[Charge]:
        """What waits for an invoice; it doesn't wait any longer."""
        book = self.book(subscription)
        waited, book.pending = book.pending, []
        return waited

    def in_arrears(self, subscription: Object, until: int, items: Sequence[Object] | None = None) -> list[Charge]:
        return [*self.take_pending(subscription), *self.open_usage(subscription, until, items)]


def in_advance(items: Sequence[Object]) -> list[Charge]:
    """The fixed prices of these items' current periods."""
    return [
        Flat(item["id"], item["price"], item["quantity"], full_price(item["price"], item["quantity"]), *bounds_of(item))
        for item in items
        if not is_metered(item)
    ]


def rest(item: Object, since: int, *, sign: int = 1) -> Flat:
    """The fixed price for the time from ``since`` to the end of its period; ``sign`` -1 gives it back."""
    bounds = bounds_of(item)
    cents = sign * unused(item["price"], item["quantity"], since, bounds)
    return Flat(item["id"], item["price"], item["quantity"], cents, since, bounds[1], proration=True)


def bounds_of(item: Object) -> tuple[int, int]:
    """An item's current period."""
    return item["current_period_start"], item["current_period_end"]


def period(subscription: Object) -> tuple[int, int]:
    """The current period that ends first; only items carry one."""
    return min((bounds_of(item) for item in subscription["items"]["data"]), key=lambda bounds: bounds[1])


def last_end(subscription: Object) -> int:
    """Where the current periods of all its items are over."""
    return max(bounds_of(item)[1] for item in subscription["items"]["data"])


def is_metered(item: Object) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def full_price(price: Object, quantity: int) -> int:
    return int((Decimal(price["unit_amount_decimal"]) * quantity).quantize(Decimal(1), ROUND_HALF_UP))


def unused(price: Object, quantity: int, now: int, bounds: tuple[int, int]) -> int:
    """The cents of a fixed price that fall on the rest of its period."""
    left = Decimal(bounds[1] - now) / Decimal(bounds[1] - bounds[0])
    return int((Decimal(price["unit_amount_decimal"]) * quantity * left).quantize(Decimal(1)))
