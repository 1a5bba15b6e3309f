"""Subscriptions: created, renewed by their anchor, and ended now or at the period's end."""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sandbox.stripe.account.charges import (
    Charge,
    Charges,
    Flat,
    bounds_of,
    in_advance,
    is_metered,
    last_end,
    period,
    unused,
)
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.invoices import Invoices
from sandbox.stripe.account.items import Priced, twice
from sandbox.stripe.account.lifecycle import ENDED, RENEWING, Lifecycle
from sandbox.stripe.account.payments import Payments
from sandbox.stripe.account.periods import boundary, next_boundary, period_at
from sandbox.stripe.account.reductions import redeem
from sandbox.stripe.account.state import Object, State, instant
from sandbox.stripe.account.trials import Trials
from sandbox.stripe.api.errors import no_such
from sandbox.stripe.api.shapes import new_item, new_subscription

INCOMPLETE_SECONDS = 23 * 3600
"""How long a subscription waits for its first payment."""

OnRenewal = Callable[[Object, int], None]


@dataclass
class NewSubscription:
    """What a new subscription is made from. Its first period begins at ``start``, now or earlier."""

    customer: str
    priced: list[Priced]
    start: int
    metadata: dict[str, str] = field(default_factory=dict)
    anchor: int | None = None
    """Where the first period ends, if not a month after its start."""
    prorates: bool = True
    """Whether a first period that is short costs its part of the fixed prices, or nothing."""
    trial_end: int | None = None
    missing_payment_method: str = "create_invoice"
    """What the trial's end does where there is no payment method: ``create_invoice``, ``cancel`` or ``pause``."""
    billing_mode: str = "flexible"
    coupons: list[str] = field(default_factory=list)
    tax_rates: list[Object] = field(default_factory=list)


class Subscriptions:
    """The subscriptions of the account. ``on_renewal`` is told of a period's end before the next period's prices."""

    def __init__(
        self,
        state: State,
        events: Events,
        charges: Charges,
        invoices: Invoices,
        lifecycle: Lifecycle,
        payments: Payments,
        trials: Trials,
    ) -> None:
        self._state = state
        self._events = events
        self._charges = charges
        self._invoices = invoices
        self._lifecycle = lifecycle
        self._payments = payments
        self._trials = trials
        self.on_renewal: OnRenewal = _nothing

    def create(self, new: NewSubscription) -> Object:
        """Make it; its first invoice is paid at once."""
        currency = new.priced[0][0]["currency"]
        subscription = new_subscription(new.customer, currency, new.metadata, new.start, self._state.now)
        if new.billing_mode == "classic":
            subscription["billing_mode"] = {"flexible": None, "type": "classic", "updated_at": None}
        subscription["discounts"] = redeem(self._state, new.coupons, subscription)
        subscription["default_tax_rates"] = copy.deepcopy(new.tax_rates)
        if new.anchor is not None:
            subscription["billing_cycle_anchor"] = new.anchor
        if new.trial_end is not None:
            self._trials.begin(subscription, new.trial_end)
        subscription["trial_settings"]["end_behavior"]["missing_payment_method"] = new.missing_payment_method
        for price, quantity in new.priced:
            end = new.trial_end or self._period_end(subscription, price, new.start)
            self._add(subscription, price, quantity, (new.start, end))
        bounds = period(subscription)
        self._state.subscriptions[subscription["id"]] = subscription
        charges = self._first_charges(subscription, new)
        owes = sum(charge.cents for charge in charges if isinstance(charge, Flat)) > 0
        if owes and self._payments.would_fail(new.customer):
            subscription["status"] = "incomplete"
        first = self._invoices.draft(
            subscription, charges, reason="subscription_create", period=bounds, grace_seconds=None
        )
        self._events.emit("customer.subscription.created", subscription)
        self._invoices.finalise(first)
        if subscription["status"] == "incomplete":
            expire = functools.partial(self._expire_in_time, subscription["id"], first["id"])
            self._state.timeline.at(instant(self._state.now + INCOMPLETE_SECONDS), expire, stop=True)
        if subscription["status"] == "trialing":
            self._trials.announce(subscription)
        self.renew_later(subscription)
        return subscription

    async def _expire_in_time(self, subscription_id: str, invoice_id: str) -> None:
        if self._state.subscriptions[subscription_id]["status"] == "incomplete":
            self._invoices.void(self._state.invoices[invoice_id])
            await self._events.flush()

    def _first_charges(self, subscription: Object, new: NewSubscription) -> list[Charge]:
        """The first period's fixed prices. Where it is short they are its part of a whole period's, or nothing."""
        if new.trial_end is not None:
            return self._trials.free_of_charge(subscription)
        if new.anchor is None:
            return in_advance(subscription["items"]["data"])
        if not new.prorates:
            return []
        charges: list[Charge] = []
        for item in subscription["items"]["data"]:
            price, quantity, end = item["price"], item.get("quantity"), item["current_period_end"]
            whole = (int(boundary(instant(end), -1, price["recurring"]).timestamp()), end)
            if not is_metered(item):
                cents = unused(price, quantity, new.start, whole)
                charges.append(Flat(item["id"], price, quantity, cents, new.start, end, proration=True))
        return charges

    def add_item(self, subscription: Object, price: Object, quantity: int) -> Object:
        """A new item in the period of those of its interval, or the one that the anchor gives it."""
        item = self._add(subscription, price, quantity, self._bounds(subscription, price))
        self.renew_later(subscription)
        return item

    def reprice(self, subscription: Object, item: Object, price: Object) -> None:
        """Put a price on an item; one of another interval brings its own period."""
        other = interval(item["price"]) != interval(price)
        item["price"] = price
        if other:
            apart = {**subscription, "items": {"data": [it for it in subscription["items"]["data"] if it is not item]}}
            start, end = self._bounds(apart, price)
            item.update(current_period_start=start, current_period_end=end)
            self.renew_later(subscription)

    def _bounds(self, subscription: Object, price: Object) -> tuple[int, int]:
        if subscription["status"] == "trialing":
            return period(subscription)
        for item in subscription["items"]["data"]:
            if interval(item["price"]) == interval(price):
                return bounds_of(item)
        anchor = instant(subscription["billing_cycle_anchor"])
        start, end = period_at(anchor, instant(self._state.now), price["recurring"])
        return int(start.timestamp()), int(end.timestamp())

    def _add(self, subscription: Object, price: Object, quantity: int, bounds: tuple[int, int]) -> Object:
        """A new item, whose usage, if it is metered, counts from the period's start."""
        if any(item["price"]["id"] == price["id"] for item in subscription["items"]["data"]):
            raise twice(price)
        item = new_item(subscription["id"], price, bounds, self._state.now)
        if price["recurring"]["usage_type"] == "licensed":
            item["quantity"] = quantity
        else:
            self._charges.book(subscription).open_since[item["id"]] = bounds[0]
        subscription["items"]["data"].append(item)
        return item

    def _period_end(self, subscription: Object, price: Object, start: int) -> int:
        anchor = instant(subscription["billing_cycle_anchor"])
        return int(next_boundary(anchor, instant(start), price["recurring"]).timestamp())

    def renew_later(self, subscription: Object) -> None:
        """Let the current period that ends first end on the timeline."""
        end = period(subscription)[1]
        self._state.timeline.at(
            instant(end), functools.partial(self._renew_in_time, subscription["id"], end), stop=True
        )

    async def _renew_in_time(self, subscription_id: str, end: int) -> None:
        self.renew(self._state.subscriptions[subscription_id], end)
        await self._events.flush()

    def renew(self, subscription: Object, end: int) -> None:
        """End the period that ends at ``end``, if that is the current one: the next begins, or nothing does."""
        bounds = period(subscription)
        if subscription["status"] not in RENEWING or bounds[1] != end:
            return
        before = copy.deepcopy(subscription)
        ending = None if ends_by(subscription, end) else due(subscription, end)
        charges, grace = self._charges.in_arrears(subscription, end, ending), self._invoices.grace(subscription)
        behavior = "create_invoice"
        if subscription["status"] == "trialing":
            self._trials.waive(charges)
            behavior = self._trials.end_behavior(subscription)
        if behavior == "cancel" or ends_by(subscription, end):
            self._end(subscription, charges, bounds, "subscription_cycle")
            return
        if behavior == "pause":
            self._lifecycle.pause(subscription, "trial_end_without_payment_method")
            return
        if subscription["status"] == "trialing":
            subscription["status"] = "active"
        self.on_renewal(subscription, end)
        renewed = due(subscription, end)
        self.move(subscription, renewed, end)
        charges += in_advance(renewed)
        self._invoices.draft(subscription, charges, reason="subscription_cycle", period=bounds, grace_seconds=grace)
        self._events.emit_change("customer.subscription.updated", before, subscription)
        self.renew_later(subscription)

    def move(self, subscription: Object, items: Sequence[Object], start: int) -> None:
        """Begin the period of these items at ``start``."""
        for item in items:
            end = self._period_end(subscription, item["price"], start)
            item.update(current_period_start=start, current_period_end=end)

    def cancel(self, subscription: Object, *, invoice_now: bool) -> None:
        """End it now. Without ``invoice_now`` its open usage is on no invoice."""
        if subscription["status"] in ENDED:
            raise no_such("subscription", subscription["id"])
        charges = self._charges.in_arrears(subscription, self._state.now)
        if subscription["status"] == "trialing":
            self._trials.waive(charges)
        self._end(subscription, charges if invoice_now else [], period(subscription), "subscription_update")

    def _end(self, subscription: Object, charges: list[Charge], bounds: tuple[int, int], reason: str) -> None:
        grace = self._invoices.grace(subscription)
        self._lifecycle.mark_ended(subscription)
        if charges:
            self._invoices.draft(subscription, charges, reason=reason, period=bounds, grace_seconds=grace)
        self._events.emit("customer.subscription.deleted", subscription)

    def set_cancel_at_period_end(self, subscription: Object, *, cancels: bool) -> None:
        if subscription["cancel_at_period_end"] == cancels:
            return
        subscription.update(
            cancel_at_period_end=cancels,
            cancel_at=last_end(subscription) if cancels else None,
            canceled_at=self._state.now if cancels else None,
        )
        subscription["cancellation_details"]["reason"] = "cancellation_requested" if cancels else None

    def set_cancel_at(self, subscription: Object, at: int | None) -> None:
        """End at an instant, as the customer portal says it; None: go on. The flag is not set by it."""
        subscription.update(
            cancel_at_period_end=False, cancel_at=at, canceled_at=None if at is None else self._state.now
        )
        subscription["cancellation_details"]["reason"] = None if at is None else "cancellation_requested"

    def end_in_portal(self, subscription: Object) -> None:
        """As a customer's click on "Cancel": it ends when the latest of its items' periods does."""
        before = copy.deepcopy(subscription)
        self.set_cancel_at(subscription, last_end(subscription))
        self._events.emit_change("customer.subscription.updated", before, subscription)

    def keep_in_portal(self, subscription: Object) -> None:
        """As a customer's click on "Don't cancel": it goes on."""
        before = copy.deepcopy(subscription)
        self.set_cancel_at(subscription, None)
        self._events.emit_change("customer.subscription.updated", before, subscription)

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
            resume = functools.partial(self._collect_again, subscription["id"], pause)
            self._state.timeline.at(instant(resumes_at), resume)

    async def _collect_again(self, subscription_id: str, pause: Object) -> None:
        subscription = self._state.subscriptions[subscription_id]
        if subscription["pause_collection"] is pause and subscription["status"] not in ENDED:
            before = copy.deepcopy(subscription)
            subscription["pause_collection"] = None
            self._events.emit_change("customer.subscription.updated", before, subscription)
            await self._events.flush()


def ends_by(subscription: Object, end: int) -> bool:
    """Whether it is to end with the period that ends at ``end``."""
    at = subscription["cancel_at"]
    return at is not None and at <= end


def due(subscription: Object, end: int) -> list[Object]:
    """Its items whose period ends by then."""
    return [item for item in subscription["items"]["data"] if item["current_period_end"] <= end]


def interval(price: Object) -> tuple[str, int]:
    """How long a price's periods are."""
    return price["recurring"]["interval"], price["recurring"]["interval_count"]


def _nothing(_: Object, __: int) -> None:
    """Without schedules nothing more happens at a period's end."""
