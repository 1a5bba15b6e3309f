"""Payment: which ones fail, how often Stripe tries again, and what becomes of the subscription."""

import functools

from sandbox.stripe.account.events import Events
from sandbox.stripe.account.lifecycle import Lifecycle, invoices_of
from sandbox.stripe.account.state import Object, State, instant, new_id

DAY_SECONDS = 24 * 3600
OWING = ("incomplete", "past_due", "unpaid")
"""The states that a payment ends."""


class Payments:
    """Collects invoices and retries on the timeline, by the account's rule (``retry_days``, ``after_retries``)."""

    def __init__(self, state: State, events: Events, lifecycle: Lifecycle) -> None:
        self._state = state
        self._events = events
        self._lifecycle = lifecycle

    def would_fail(self, customer: str) -> bool:
        state = self._state
        return customer in state.payment_fails | state.payment_broken | state.without_payment_method

    def collect(self, invoice: Object, *, by_hand: bool = False) -> bool:
        """Try to get the money of an open invoice; returns whether it is paid now.

        ``by_hand``: such an attempt counts as the first, and no further one changes the retries that are planned.
        """
        if not invoice["amount_due"]:
            self.paid(invoice)
            return True
        planned = not (by_hand and invoice["attempted"])
        if planned:
            invoice.update(attempted=True, attempt_count=invoice["attempt_count"] + 1)
        if self.would_fail(invoice["customer"]):
            self._state.payment_fails.discard(invoice["customer"])
            self._failed(invoice, planned=planned)
            return False
        self._record(invoice)
        self.paid(invoice)
        return True

    def _record(self, invoice: Object) -> None:
        """Keep what is paid of an invoice, and by which payment."""
        payment: Object = {
            "id": new_id("inpay"),
            "object": "invoice_payment",
            "amount_paid": invoice["amount_remaining"],
            "amount_requested": invoice["amount_remaining"],
            "created": self._state.now,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": False,
            "payment": {"payment_intent": new_id("pi"), "type": "payment_intent"},
            "status": "paid",
            "status_transitions": {"canceled_at": None, "paid_at": self._state.now},
        }
        self._state.invoice_payments[payment["id"]] = payment

    def paid(self, invoice: Object) -> None:
        """Take an invoice as paid. Its subscription owes nothing any more if that was its latest one."""
        invoice.update(status="paid", amount_paid=invoice["amount_due"], amount_remaining=0, auto_advance=False)
        invoice.update(next_payment_attempt=None)
        invoice["status_transitions"]["paid_at"] = self._state.now
        self._events.emit("invoice.paid", invoice)
        self._events.emit("invoice.payment_succeeded", invoice)
        subscription = self._subscription(invoice)
        latest = next(each for each in invoices_of(self._state, subscription) if each["status"] in {"open", "paid"})
        if latest is invoice and subscription["status"] in OWING:
            self._lifecycle.become(subscription, "active")

    def plan_attempt(self, invoice: Object, at: int) -> None:
        """Let Stripe try this open invoice at ``at``."""
        invoice.update(auto_advance=True, next_payment_attempt=at)
        attempt = functools.partial(self._attempt, invoice["id"], at)
        self._state.timeline.at(instant(at), attempt, stop=True)

    async def _attempt(self, invoice_id: str, at: int) -> None:
        invoice = self._state.invoices[invoice_id]
        if invoice["status"] == "open" and invoice["next_payment_attempt"] == at:
            self.collect(invoice)
            await self._events.flush()

    def _failed(self, invoice: Object, *, planned: bool) -> None:
        """An invoice that Stripe collects by itself is tried again; the first of a subscription is not."""
        subscription = self._subscription(invoice)
        incomplete = subscription["status"] == "incomplete"
        automatic = planned and invoice["auto_advance"] and not incomplete
        days = self._state.rules.retry_days[invoice["attempt_count"] - 1 :]
        if automatic and days:
            self.plan_attempt(invoice, self._state.now + days[0] * DAY_SECONDS)
        elif automatic or incomplete:
            invoice.update(auto_advance=False, next_payment_attempt=None)
        self._events.emit("invoice.payment_failed", invoice)
        if subscription["status"] in {"active", "trialing"}:
            self._lifecycle.become(subscription, "past_due")
        if automatic and not days:
            self._give_up(subscription)

    def _give_up(self, subscription: Object) -> None:
        if subscription["status"] != "past_due":
            return
        if self._state.rules.after_retries == "canceled":
            self._lifecycle.mark_ended(subscription, "payment_failed")
            self._events.emit("customer.subscription.deleted", subscription)
        else:
            self._lifecycle.become(subscription, self._state.rules.after_retries)

    def _subscription(self, invoice: Object) -> Object:
        return self._state.subscriptions[invoice["parent"]["subscription_details"]["subscription"]]
