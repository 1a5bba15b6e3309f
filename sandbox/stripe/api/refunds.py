"""The API's refunds and disputes, and the payments of invoices by which they belong to one."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.state import Object
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid
from sandbox.stripe.api.lists import found, paged

_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


class RefundsApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, billing: Billing) -> None:
        self._state = billing.state
        self._refunds = billing.refunds

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("GET", "/v1/invoice_payments", self.list_invoice_payments),
            door.route("GET", "/v1/refunds", self.list_refunds),
            door.route("POST", "/v1/refunds", self.create_refund),
            door.route("GET", "/v1/refunds/{id}", self.get_refund),
            door.route("GET", "/v1/disputes", self.list_disputes),
            door.route("GET", "/v1/disputes/{id}", self.get_dispute),
        ]

    async def list_invoice_payments(self, call: Call) -> Object:
        invoice, payment = call.params.text("invoice"), call.params.below("payment")
        status, intent = call.params.choice("status", "open", "paid", "canceled"), None
        if payment is not None:
            payment.choice("type", "payment_intent")
            intent = payment.required("payment_intent")
            payment.refuse_unread()
        rows = [
            row
            for row in self._state.invoice_payments.values()
            if invoice in {None, row["invoice"]}
            and intent in {None, row["payment"]["payment_intent"]}
            and status in {None, row["status"]}
        ]
        return paged(rows, call.params, call.path)

    async def list_refunds(self, call: Call) -> Object:
        return self._of_payment(call, self._state.refunds)

    async def list_disputes(self, call: Call) -> Object:
        return self._of_payment(call, self._state.disputes)

    def _of_payment(self, call: Call, table: dict[str, Object]) -> Object:
        intent, charge = call.params.text("payment_intent"), call.params.text("charge")
        if intent is not None:
            self._refunds.payment_of(intent)
        rows = [
            row for row in table.values() if intent in {None, row["payment_intent"]} and charge in {None, row["charge"]}
        ]
        return paged(rows, call.params, call.path)

    async def create_refund(self, call: Call) -> Object:
        intent, amount = call.params.required("payment_intent"), call.params.whole("amount")
        reason, metadata = call.params.choice("reason", *_REASONS), call.params.metadata({})
        call.params.refuse_unread()
        if amount is not None and amount <= 0:
            raise invalid("amount", "Invalid positive integer", "parameter_invalid_integer")
        return self._refunds.refund(self._refunds.payment_of(intent), amount, reason, metadata)

    async def get_refund(self, call: Call) -> Object:
        call.params.refuse_unread()
        return found(self._state.refunds, "refund", call.ids["id"])

    async def get_dispute(self, call: Call) -> Object:
        call.params.refuse_unread()
        return found(self._state.disputes, "dispute", call.ids["id"])
