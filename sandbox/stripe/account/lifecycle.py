"""How a subscription's status moves, and what its end means for what hangs on it."""

import copy
from collections.abc import Iterator

from sandbox.stripe.account.events import Events
from sandbox.stripe.account.state import Object, State
from sandbox.stripe.api.errors import StripeError

ENDED = ("canceled", "incomplete_expired")
"""The states without a way out."""

RENEWING = ("active", "past_due", "trialing", "unpaid")
"""The states in which a new period begins when one ends."""


class Lifecycle:
    """Moves subscriptions from state to state; who calls it decides when."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events

    def become(self, subscription: Object, status: str) -> None:
        """Change the status of a subscription that lives."""
        if subscription["status"] not in ENDED:
            before = copy.deepcopy(subscription)
            subscription["status"] = status
            self._events.emit_change("customer.subscription.updated", before, subscription)

    def pause(self, subscription: Object, kind: str) -> None:
        """Let it bill nothing until it is resumed; ``kind`` says why, in the words of ``status_details``."""
        before, now = copy.deepcopy(subscription), self._state.now
        details = {"subscription": {"type": kind}, "transitioned_at": now, "type": "subscription"}
        subscription.update(status="paused", status_details={"paused": details})
        self._events.emit_change("customer.subscription.updated", before, subscription)
        self._events.emit("customer.subscription.paused", subscription)

    def mark_ended(self, subscription: Object, reason: str = "cancellation_requested") -> None:
        """Cancel it; its schedule ends as well, and what is open is collected no longer.

        ``customer.subscription.deleted`` is left to the caller, whose last invoice comes before it.
        """
        now = self._state.now
        self._close_schedule(subscription, reason)
        subscription.update(status="canceled", ended_at=now)
        subscription["canceled_at"] = subscription["canceled_at"] or now
        subscription["cancellation_details"]["reason"] = reason
        self._stop_collecting(subscription)

    def expire(self, subscription: Object) -> None:
        """End a subscription whose first invoice was not paid."""
        before = copy.deepcopy(subscription)
        subscription.update(status="incomplete_expired", ended_at=self._state.now)
        self._events.emit_change("customer.subscription.updated", before, subscription)

    def _close_schedule(self, subscription: Object, reason: str) -> None:
        schedule = self._state.schedules.get(subscription["schedule"] or "")
        if schedule is None:
            return
        now, subscription["schedule"] = self._state.now, None
        if schedule["end_behavior"] == "cancel" and schedule["phases"][-1]["end_date"] <= now:
            schedule.update(status="completed", completed_at=now, current_phase=None)
            self._events.emit("subscription_schedule.completed", schedule)
            return
        schedule.update(status="canceled", canceled_at=now, current_phase=None)
        delinquent = reason == "payment_failed"
        self._events.emit(f"subscription_schedule.{'aborted' if delinquent else 'canceled'}", schedule)

    def _stop_collecting(self, subscription: Object) -> None:
        for invoice in invoices_of(self._state, subscription):
            if invoice["status"] == "open":
                before = copy.deepcopy(invoice)
                invoice.update(auto_advance=False, next_payment_attempt=None)
                self._events.emit_change("invoice.updated", before, invoice)


def invoices_of(state: State, subscription: Object) -> Iterator[Object]:
    """The invoices of a subscription, newest first."""
    for invoice in reversed(state.invoices.values()):
        if invoice["parent"]["subscription_details"]["subscription"] == subscription["id"]:
            yield invoice


def refuse_if_ended(subscription: Object) -> None:
    """What has ended changes no more."""
    if subscription["status"] in ENDED:
        raise StripeError(
            400, "A canceled subscription can only update its cancellation_details and metadata.", executed=True
        )
