"""Changes of a subscription's items and billing cycle: what they cost, and what becomes of usage so far."""

import copy

from sandbox.stripe.account.charges import Charge, Charges, Usage, in_advance, is_metered, last_end, period, rest
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.invoices import Invoices
from sandbox.stripe.account.items import ItemChange, check_changes
from sandbox.stripe.account.lifecycle import refuse_if_ended
from sandbox.stripe.account.state import Object, State
from sandbox.stripe.account.subscriptions import Subscriptions
from sandbox.stripe.api.errors import StripeError


class Changes:
    """Changes subscriptions in the middle of a period, or where one ends."""

    def __init__(
        self, state: State, events: Events, charges: Charges, invoices: Invoices, subscriptions: Subscriptions
    ) -> None:
        self._state = state
        self._events = events
        self._charges = charges
        self._invoices = invoices
        self._subscriptions = subscriptions

    def apply(self, subscription: Object, changes: list[ItemChange], *, proration: str, from_now: bool) -> None:
        """Swap, add or remove items; ``from_now`` also begins a new period.

        Usage under a metered price that goes is charged as it is known now, unless ``proration`` is ``none`` or the
        billing mode is classic: then it is lost. A price that comes counts, and includes, from nothing. Quantities go
        back to 1 with another price. In a trial, and while paused, nothing costs anything.
        """
        refuse_if_ended(subscription)
        idle = subscription["status"] in {"trialing", "paused"}
        if idle and from_now:
            raise StripeError(
                400, f"This stand-in begins no new period while a subscription is {subscription['status']}."
            )
        check_changes(subscription, changes)
        now, bounds = self._state.now, period(subscription)
        costs = [cost for change in changes for cost in self._change(subscription, change, now, renews=from_now)]
        if proration == "none" or idle:
            billed = idle and subscription["status"] == "trialing" and self._state.rules.trial_usage_billed
            costs = [cost for cost in costs if billed and proration != "none" and isinstance(cost, Usage)]
        if subscription["billing_mode"]["type"] == "classic":
            costs = [cost for cost in costs if not isinstance(cost, Usage)]
        for cost in costs:
            if isinstance(cost, Usage):
                cost.freeze()
        if from_now:
            costs += self._restart(subscription, changes, gives_back=proration != "none")
        elif proration == "always_invoice" and not idle:
            costs += self._charges.take_pending(subscription)
        else:
            self._charges.book(subscription).pending += costs
            return
        self._invoices.charge(subscription, costs, reason="subscription_update", period=(bounds[0], now))

    def apply_by_hand(self, subscription: Object, changes: list[ItemChange], proration: str) -> None:
        """Change the items as somebody in the dashboard would: Stripe tells of it, and no request is named."""
        before = copy.deepcopy(subscription)
        self.apply(subscription, changes, proration=proration, from_now=False)
        self._events.emit_change("customer.subscription.updated", before, subscription)

    def replace(self, subscription: Object, changes: list[ItemChange], at: int) -> None:
        """Change the items where a period ends, at ``at``: what the old ones used is on the renewal's invoice."""
        check_changes(subscription, changes)
        for change in changes:
            self._change(subscription, change, at, renews=True)

    def _restart(self, subscription: Object, changes: list[ItemChange], *, gives_back: bool) -> list[Charge]:
        """Begin a new period now: the unused time of what stays is given back, and the new period is charged."""
        now = self._state.now
        touched = {change.item for change in changes}
        costs: list[Charge] = [
            rest(item, now, sign=-1)
            for item in subscription["items"]["data"]
            if gives_back and item["id"] not in touched and not is_metered(item)
        ]
        costs += self._charges.in_arrears(subscription, now)
        subscription["billing_cycle_anchor"] = now
        self._subscriptions.move(subscription, subscription["items"]["data"], now)
        self._subscriptions.renew_later(subscription)
        if subscription["cancel_at_period_end"]:
            subscription["cancel_at"] = last_end(subscription)
        return costs + in_advance(subscription["items"]["data"])

    def _change(self, subscription: Object, change: ItemChange, now: int, *, renews: bool) -> list[Charge]:
        """Do one change and return what it costs: credits and open usage of the old, the rest of the new.

        Where the period ``renews``, the new price is charged in full by that.
        """
        costs: list[Charge] = []
        if change.item is None:
            assert change.price is not None
            item = self._subscriptions.add_item(subscription, change.price, change.quantity or 1)
        else:
            item = next(each for each in subscription["items"]["data"] if each["id"] == change.item)
            if not change.deleted and change.price is None and (change.quantity is None or is_metered(item)):
                return []
            costs.append(self._leaves(subscription, item, now))
        if change.deleted:
            subscription["items"]["data"].remove(item)
            return costs
        if change.price is not None:
            self._subscriptions.reprice(subscription, item, change.price)
        if is_metered(item):
            item.pop("quantity", None)
            self._charges.book(subscription).open_since[item["id"]] = now
            return costs
        item["quantity"] = change.quantity or 1
        return costs if renews else [*costs, rest(item, now)]

    def _leaves(self, subscription: Object, item: Object, now: int) -> Charge:
        if not is_metered(item):
            return rest(item, now, sign=-1)
        since = self._charges.book(subscription).open_since[item["id"]]
        return self._charges.usage(subscription, item, since, now, proration=True)
