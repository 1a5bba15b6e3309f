"""Subscriptions: created, renewed by their anchor, changed, paused, and ended now or at the period's end."""

import copy
import functools
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal

from sandbox.stripe_errors import StripeError, invalid, missing, no_such
from sandbox.stripe_events import Events
from sandbox.stripe_invoices import Flat, Invoices, Usage, unused
from sandbox.stripe_periods import next_boundary
from sandbox.stripe_shapes import new_item, new_subscription
from sandbox.stripe_state import Object, State, instant


@dataclass
class ItemChange:
    """One row of ``items`` in an update. Without an ``item`` it adds one: Stripe doesn't guess which was meant."""

    item: str | None
    price: Object | None
    quantity: int | None
    deleted: bool


@dataclass
class _Book:
    """What Stripe remembers of a subscription and doesn't show: from when each item's usage is open, and what waits."""

    open_since: dict[str, int] = field(default_factory=dict)
    pending: list[Flat | Usage] = field(default_factory=list)


def period(subscription: Object) -> tuple[int, int]:
    """The current period, which only the items carry."""
    item = subscription["items"]["data"][0]
    return item["current_period_start"], item["current_period_end"]


def is_metered(item: Object) -> bool:
    return bool(item["price"]["recurring"]["usage_type"] == "metered")


def full_price(price: Object, quantity: int) -> int:
    return int((Decimal(price["unit_amount_decimal"]) * quantity).quantize(Decimal(1), ROUND_HALF_UP))


class Subscriptions:
    """The subscriptions of the account."""

    def __init__(self, state: State, events: Events, invoices: Invoices) -> None:
        self._state = state
        self._events = events
        self._invoices = invoices
        self._books: dict[str, _Book] = {}

    def create(self, customer: str, priced: list[tuple[Object, int]], metadata: dict[str, str], start: int) -> Object:
        """A subscription whose first period begins at ``start``, now or earlier; its first invoice is paid at once."""
        subscription = new_subscription(customer, priced[0][0]["currency"], metadata, start, self._state.now)
        book = _Book()
        bounds = (start, self._period_end(subscription, start))
        for price, quantity in priced:
            self._add(subscription, book, price, quantity, bounds)
        self._state.subscriptions[subscription["id"]] = subscription
        self._books[subscription["id"]] = book
        charges = self._in_advance(subscription)
        first = self._invoices.draft(
            subscription, charges, reason="subscription_create", period=bounds, grace_seconds=None
        )
        self._events.emit("customer.subscription.created", subscription)
        self._invoices.finalise(first)
        self._renew_later(subscription)
        return subscription

    def _add(self, subscription: Object, book: _Book, price: Object, quantity: int, bounds: tuple[int, int]) -> Object:
        if any(item["price"]["id"] == price["id"] for item in subscription["items"]["data"]):
            raise _twice(price)
        item = new_item(subscription["id"], price, bounds, self._state.now)
        if price["recurring"]["usage_type"] == "licensed":
            item["quantity"] = quantity
        else:
            book.open_since[item["id"]] = bounds[0]
        subscription["items"]["data"].append(item)
        return item

    def _period_end(self, subscription: Object, start: int) -> int:
        anchor = instant(subscription["billing_cycle_anchor"])
        return int(next_boundary(anchor, instant(start)).timestamp())

    def _renew_later(self, subscription: Object) -> None:
        end = period(subscription)[1]
        self._state.timeline.at(instant(end), functools.partial(self._renew, subscription["id"], end), stop=True)

    def _in_advance(self, subscription: Object) -> list[Flat | Usage]:
        start, end = period(subscription)
        return [
            Flat(item["id"], item["price"], item["quantity"], full_price(item["price"], item["quantity"]), start, end)
            for item in subscription["items"]["data"]
            if not is_metered(item)
        ]

    def _in_arrears(self, subscription: Object, until: int) -> list[Flat | Usage]:
        """What waits, and the open usage up to ``until``; from there on usage is open anew."""
        book = self._books[subscription["id"]]
        charges, book.pending = book.pending, []
        for item in subscription["items"]["data"]:
            if is_metered(item) and (since := book.open_since[item["id"]]) < until:
                charges.append(self._invoices.usage(item, subscription["customer"], since, until))
                book.open_since[item["id"]] = until
        return charges

    async def _renew(self, subscription_id: str, end: int) -> None:
        subscription = self._state.subscriptions[subscription_id]
        bounds = period(subscription)
        if subscription["status"] == "canceled" or bounds[1] != end:
            return
        before = copy.deepcopy(subscription)
        charges = self._in_arrears(subscription, end)
        grace = self._grace(subscription)
        if subscription["cancel_at_period_end"]:
            self._end(subscription)
            if charges:
                self._invoices.draft(
                    subscription, charges, reason="subscription_cycle", period=bounds, grace_seconds=grace
                )
            self._events.emit("customer.subscription.deleted", subscription)
        else:
            self._move(subscription, end)
            charges += self._in_advance(subscription)
            self._invoices.draft(subscription, charges, reason="subscription_cycle", period=bounds, grace_seconds=grace)
            self._events.emit_change("customer.subscription.updated", before, subscription)
            self._renew_later(subscription)
        await self._events.flush()

    def _grace(self, subscription: Object) -> int | None:
        kept = (subscription["pause_collection"] or {}).get("behavior") == "keep_as_draft"
        return None if kept else self._state.rules.grace_seconds

    def _move(self, subscription: Object, start: int) -> None:
        end = self._period_end(subscription, start)
        for item in subscription["items"]["data"]:
            item.update(current_period_start=start, current_period_end=end)

    def _end(self, subscription: Object) -> None:
        now = self._state.now
        subscription.update(status="canceled", ended_at=now)
        subscription["canceled_at"] = subscription["canceled_at"] or now
        subscription["cancellation_details"]["reason"] = "cancellation_requested"

    def cancel(self, subscription: Object, *, invoice_now: bool) -> None:
        """End it now. Without ``invoice_now`` its open usage is on no invoice."""
        if subscription["status"] == "canceled":
            raise no_such("subscription", subscription["id"])
        bounds = period(subscription)
        charges = self._in_arrears(subscription, self._state.now)
        self._end(subscription)
        if invoice_now and charges:
            self._invoices.draft(
                subscription,
                charges,
                reason="subscription_update",
                period=bounds,
                grace_seconds=self._grace(subscription),
            )
        self._events.emit("customer.subscription.deleted", subscription)

    def set_cancel_at_period_end(self, subscription: Object, *, cancels: bool) -> None:
        if subscription["cancel_at_period_end"] == cancels:
            return
        subscription.update(
            cancel_at_period_end=cancels,
            cancel_at=period(subscription)[1] if cancels else None,
            canceled_at=self._state.now if cancels else None,
        )
        subscription["cancellation_details"]["reason"] = "cancellation_requested" if cancels else None

    def schedule_end(self, subscription: Object) -> None:
        """Let it end with its period, as the dashboard would."""
        before = copy.deepcopy(subscription)
        self.set_cancel_at_period_end(subscription, cancels=True)
        self._events.emit_change("customer.subscription.updated", before, subscription)

    def set_pause_collection(self, subscription: Object, behavior: str | None, resumes_at: int | None) -> None:
        """Stop or resume collecting; the status stays. None: collect again."""
        pause = None if behavior is None else {"behavior": behavior, "resumes_at": resumes_at}
        subscription["pause_collection"] = pause
        if pause is not None and resumes_at is not None:
            resume = functools.partial(self._resume, subscription["id"], pause)
            self._state.timeline.at(instant(resumes_at), resume)

    async def _resume(self, subscription_id: str, pause: Object) -> None:
        subscription = self._state.subscriptions[subscription_id]
        if subscription["pause_collection"] is pause and subscription["status"] != "canceled":
            before = copy.deepcopy(subscription)
            subscription["pause_collection"] = None
            self._events.emit_change("customer.subscription.updated", before, subscription)
            await self._events.flush()

    def change_items(self, subscription: Object, changes: list[ItemChange], *, proration: str, from_now: bool) -> None:
        """Swap, add or remove items; ``from_now`` also begins a new period.

        Usage under a metered price that goes is charged as it is known now, unless ``proration`` is ``none``: then it
        is lost. A price that comes counts, and includes, from nothing. Quantities go back to 1 with another price.
        """
        now, bounds = self._state.now, period(subscription)
        book = self._books[subscription["id"]]
        for change in changes:
            self._check(subscription, change)
        charges = [charge for change in changes for charge in self._change(subscription, change, bounds, from_now)]
        if proration == "none":
            charges = []
        for charge in charges:
            if isinstance(charge, Usage):
                charge.freeze()
        if from_now:
            touched = {change.item for change in changes}
            for item in subscription["items"]["data"]:
                if item["id"] not in touched and not is_metered(item) and proration != "none":
                    charges.append(_rest(item, now, bounds, sign=-1))
            charges += self._in_arrears(subscription, now)
            subscription["billing_cycle_anchor"] = now
            self._move(subscription, now)
            charges += self._in_advance(subscription)
            self._renew_later(subscription)
        elif proration == "always_invoice":
            charges += book.pending
            book.pending = []
        else:
            book.pending += charges
            return
        invoice = self._invoices.draft(
            subscription, charges, reason="subscription_update", period=(bounds[0], now), grace_seconds=None
        )
        self._invoices.finalise(invoice)

    def _check(self, subscription: Object, change: ItemChange) -> None:
        """Refuse what can't be done before anything is done."""
        items = subscription["items"]["data"]
        if change.item is None and change.price is None:
            raise missing("items[0][price]")
        if change.item is not None and all(item["id"] != change.item for item in items):
            raise no_such("subscription_item", change.item, "items")
        if change.price is not None and any(
            item["price"]["id"] == change.price["id"] and item["id"] != change.item for item in items
        ):
            raise _twice(change.price)
        if change.deleted and len(items) == 1:
            raise StripeError(400, "A subscription must have at least one active item.", param="items")

    def _change(
        self, subscription: Object, change: ItemChange, bounds: tuple[int, int], from_now: bool
    ) -> list[Flat | Usage]:
        """Do one change and return what it costs: credits and open usage of the old, the rest of the new."""
        now = self._state.now
        book = self._books[subscription["id"]]
        charges: list[Flat | Usage] = []
        if change.item is None:
            assert change.price is not None
            item = self._add(subscription, book, change.price, change.quantity or 1, bounds)
        else:
            item = next(each for each in subscription["items"]["data"] if each["id"] == change.item)
            if not change.deleted and change.price is None and (change.quantity is None or is_metered(item)):
                return []
            charges += self._leaves(subscription, item, bounds)
        if change.deleted:
            subscription["items"]["data"].remove(item)
            return charges
        if change.price is not None:
            item["price"] = change.price
        if is_metered(item):
            item.pop("quantity", None)
            book.open_since[item["id"]] = now
            return charges
        item["quantity"] = change.quantity or 1
        return charges if from_now else [*charges, _rest(item, now, bounds, sign=1)]

    def _leaves(self, subscription: Object, item: Object, bounds: tuple[int, int]) -> list[Flat | Usage]:
        now = self._state.now
        if not is_metered(item):
            return [_rest(item, now, bounds, sign=-1)]
        since = self._books[subscription["id"]].open_since[item["id"]]
        return [self._invoices.usage(item, subscription["customer"], since, now, proration=True)]


def _twice(price: Object) -> StripeError:
    return invalid("items", f"You cannot add multiple subscription items with the same price: {price['id']}")


def _rest(item: Object, now: int, bounds: tuple[int, int], *, sign: int) -> Flat:
    cents = sign * unused(item["price"], item["quantity"], now, bounds)
    return Flat(item["id"], item["price"], item["quantity"], cents, now, bounds[1], proration=True)
