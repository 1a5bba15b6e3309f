"""Trials: nothing is charged for their time, three days before the end it is told, and then billing begins."""

import functools
from collections.abc import Sequence

from sandbox.stripe.account.charges import Charge, Flat, Usage, is_metered, period
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.state import Object, State, instant

NOTICE_SECONDS = 3 * 24 * 3600


class Trials:
    """The trials of the account."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events

    def begin(self, subscription: Object, end: int) -> None:
        """Make a new subscription try until ``end``, where its billing cycle begins."""
        start = subscription["start_date"]
        subscription.update(status="trialing", trial_start=start, trial_end=end, billing_cycle_anchor=end)

    def announce(self, subscription: Object) -> None:
        """Tell of the end three days before it; at once if it is nearer."""
        at = subscription["trial_end"] - NOTICE_SECONDS
        if at <= self._state.now:
            self._events.emit("customer.subscription.trial_will_end", subscription)
        else:
            self._state.timeline.at(instant(at), functools.partial(self._announce_in_time, subscription["id"]))

    async def _announce_in_time(self, subscription_id: str) -> None:
        subscription = self._state.subscriptions[subscription_id]
        if subscription["status"] == "trialing":
            self._events.emit("customer.subscription.trial_will_end", subscription)
            await self._events.flush()

    def free_of_charge(self, subscription: Object) -> list[Charge]:
        """The lines of the first invoice: each fixed price for nothing."""
        start, end = period(subscription)
        return [
            Flat(item["id"], item["price"], item["quantity"], 0, start, end)
            for item in subscription["items"]["data"]
            if not is_metered(item)
        ]

    def waive(self, charges: Sequence[Charge]) -> None:
        """Bill nothing of a trial's usage, unless the rule says so; its line stays."""
        if self._state.rules.trial_usage_billed:
            return
        for charge in charges:
            if isinstance(charge, Usage):
                charge.waive()

    def end_behavior(self, subscription: Object) -> str:
        """What the trial's end does: what was set for a missing payment method, where it is missing."""
        if subscription["customer"] not in self._state.without_payment_method:
            return "create_invoice"
        return str(subscription["trial_settings"]["end_behavior"]["missing_payment_method"])
