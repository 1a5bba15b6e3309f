"""Money that goes back of a payment: refunds, and what a bank takes back in a dispute."""

import copy

from sandbox.stripe.account.events import Events
from sandbox.stripe.account.state import Object, State, new_id
from sandbox.stripe.api.errors import StripeError, invalid

#: While a dispute is in one of these, or lost, the money is away.
_TAKEN = ("needs_response", "under_review")
_CLOSED = ("won", "lost", "warning_closed")


def charge_of(payment: Object) -> str:
    """The charge of a payment of an invoice, which has one only."""
    intent: str = payment["payment"]["payment_intent"]
    return intent.replace("pi_", "ch_")


class Refunds:
    """The refunds and disputes of the account's payments, which are those of invoices."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events

    def payment_of(self, intent: str, param: str = "payment_intent") -> Object:
        """The payment of an invoice by its payment intent."""
        payments = self._state.invoice_payments.values()
        payment = next((each for each in payments if each["payment"]["payment_intent"] == intent), None)
        if payment is None:
            raise invalid(param, f"No such payment_intent: '{intent}'", "resource_missing")
        return payment

    def refund(
        self, payment: Object, amount: int | None, reason: str | None = None, metadata: dict[str, str] | None = None
    ) -> Object:
        """Give back ``amount``, or all that is left; refused for more, and while a bank has the money."""
        intent, charge = payment["payment"]["payment_intent"], charge_of(payment)
        if any(
            each["charge"] == charge and each["status"] in (*_TAKEN, "lost") for each in self._state.disputes.values()
        ):
            raise StripeError(
                400, f"Charge {charge} has been charged back; cannot issue a refund.", code="charge_disputed"
            )
        left = payment["amount_paid"] - sum(
            each["amount"]
            for each in self._state.refunds.values()
            if each["charge"] == charge and each["status"] != "failed"
        )
        if not left:
            raise StripeError(400, f"Charge {charge} has already been refunded.", code="charge_already_refunded")
        wanted = left if amount is None else amount
        if not 0 < wanted <= left:
            raise invalid("amount", f"Refund amount ({wanted}) is greater than unrefunded amount on charge ({left})")
        made: Object = {
            "id": new_id("re"),
            "object": "refund",
            "amount": wanted,
            "charge": charge,
            "created": self._state.now,
            "currency": payment["currency"],
            "metadata": metadata or {},
            "payment_intent": intent,
            "reason": reason,
            "status": "succeeded",
        }
        self._state.refunds[made["id"]] = made
        self._events.emit("refund.created", made)
        return made

    def fail(self, refund: Object) -> None:
        """Let the customer's bank not take it: the money is ours again."""
        before = copy.deepcopy(refund)
        refund.update(status="failed", failure_reason="expired_or_canceled_card")
        self._events.emit_change("refund.updated", before, refund)
        self._events.emit("refund.failed", refund)

    def dispute(self, payment: Object, status: str = "needs_response") -> Object:
        """Let the customer's bank take the payment back, or only ask about it (``warning_needs_response``)."""
        if status not in {"needs_response", "warning_needs_response"}:
            raise ValueError(f"{status}: a dispute begins as needs_response or warning_needs_response")
        made: Object = {
            "id": new_id("du"),
            "object": "dispute",
            "amount": payment["amount_paid"],
            "charge": charge_of(payment),
            "created": self._state.now,
            "currency": payment["currency"],
            "is_charge_refundable": status == "warning_needs_response",
            "livemode": False,
            "metadata": {},
            "payment_intent": payment["payment"]["payment_intent"],
            "reason": "fraudulent",
            "status": status,
        }
        self._state.disputes[made["id"]] = made
        self._events.emit("charge.dispute.created", made)
        if status in _TAKEN:
            self._events.emit("charge.dispute.funds_withdrawn", made)
        return made

    def close(self, dispute: Object, status: str) -> None:
        """Let the bank decide: ``won``, ``lost`` or, after a question only, ``warning_closed``."""
        if status not in _CLOSED or dispute["status"] in _CLOSED:
            raise ValueError(f"a dispute that is {dispute['status']} can't become {status}")
        before = copy.deepcopy(dispute)
        dispute.update(status=status)
        if status == "won":
            self._events.emit("charge.dispute.funds_reinstated", dispute)
        self._events.emit_change("charge.dispute.updated", before, dispute)
        self._events.emit("charge.dispute.closed", dispute)
