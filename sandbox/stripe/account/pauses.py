"""Pausing a subscription and resuming it: what is billed up to the pause, and where billing begins again."""

import copy

from sandbox.stripe.account.charges import Charge, Charges, bounds_of, in_advance, is_metered, period, rest
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.invoices import Invoices
from sandbox.stripe.account.lifecycle import Lifecycle
from sandbox.stripe.account.periods import period_at
from sandbox.stripe.account.state import Object, State, instant
from sandbox.stripe.account.subscriptions import Subscriptions
from sandbox.stripe.api.errors import StripeError

PAUSABLE = ("active", "past_due", "unpaid")


class Pauses:
    """The pauses of the account's subscriptions: status ``paused``, unlike a paused collection."""

    def __init__(
        self,
        state: State,
        events: Events,
        charges: Charges,
        invoices: Invoices,
        lifecycle: Lifecycle,
        subscriptions: Subscriptions,
    ) -> None:
        self._state = state
        self._events = events
        self._charges = charges
        self._invoices = invoices
        self._lifecycle = lifecycle
        self._subscriptions = subscriptions

    def pause(self, subscription: Object, *, bills_usage: bool, unused_from: str, invoices: bool) -> None:
        """Bill nothing more from now on.

        Usage so far is billed as it is known now, or (``bills_usage`` false) lost; ``unused_from`` says from when fixed
        prices are given back: ``now``, ``item_current_period_start`` or ``none``. Both wait for the next invoice, or
        are invoiced now.
        """
        _must_be_pausable(subscription)
        now, bounds = self._state.now, period(subscription)
        used = self._charges.open_usage(subscription, now)
        for usage in used:
            usage.freeze()
        costs: list[Charge] = [*used] if bills_usage else []
        if unused_from != "none":
            costs += [
                rest(item, now if unused_from == "now" else bounds_of(item)[0], sign=-1)
                for item in subscription["items"]["data"]
                if not is_metered(item)
            ]
        if invoices:
            costs = [*self._charges.take_pending(subscription), *costs]
            self._invoices.charge(subscription, costs, reason="subscription_update", period=(bounds[0], now))
        else:
            self._charges.book(subscription).pending += costs
        self._lifecycle.pause(subscription, "pause_requested")

    def resume(self, subscription: Object, *, from_now: bool, proration: str) -> None:
        """Bill again: a new period from now, or the rest of the one that the old anchor gives.

        Usage during the pause is on no invoice.
        """
        if subscription["status"] != "paused":
            raise StripeError(
                400,
                f"You can only resume a paused subscription; this one is `{subscription['status']}`.",
                executed=True,
            )
        before, now = copy.deepcopy(subscription), self._state.now
        subscription.update(status="active", status_details=None)
        items: list[Object] = subscription["items"]["data"]
        for item in items:
            if is_metered(item):
                self._charges.book(subscription).open_since[item["id"]] = now
        costs: list[Charge] = []
        if from_now:
            subscription["billing_cycle_anchor"] = now
            self._subscriptions.move(subscription, items, now)
            costs = in_advance(items)
        else:
            anchor = instant(subscription["billing_cycle_anchor"])
            for item in items:
                start, _ = period_at(anchor, instant(now), item["price"]["recurring"])
                self._subscriptions.move(subscription, [item], int(start.timestamp()))
            if proration != "none":
                costs = [rest(item, now) for item in items if not is_metered(item)]
        if from_now or (proration == "always_invoice"):
            costs = [*self._charges.take_pending(subscription), *costs]
            bounds = period(subscription)
            invoice = self._invoices.draft(
                subscription, costs, reason="subscription_update", period=bounds, grace_seconds=None
            )
            self._tell(subscription, before)
            self._invoices.finalise(invoice)
        else:
            self._charges.book(subscription).pending += costs
            self._tell(subscription, before)
        self._subscriptions.renew_later(subscription)

    def _tell(self, subscription: Object, before: Object) -> None:
        self._events.emit_change("customer.subscription.updated", before, subscription)
        self._events.emit("customer.subscription.resumed", subscription)


def _must_be_pausable(subscription: Object) -> None:
    wrong = None
    if subscription["status"] not in PAUSABLE:
        wrong = f"You cannot pause a subscription that is `{subscription['status']}`."
    elif subscription["billing_mode"]["type"] != "flexible":
        wrong = "You can only pause a subscription whose `billing_mode` is `flexible`."
    elif subscription["collection_method"] != "charge_automatically":
        wrong = "You can only pause a subscription whose `collection_method` is `charge_automatically`."
    elif subscription["schedule"] is not None:
        wrong = (
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and pausing it "
            "directly is not allowed. Please update the schedule instead."
        )
    if wrong is not None:
        raise StripeError(400, wrong, executed=True)
