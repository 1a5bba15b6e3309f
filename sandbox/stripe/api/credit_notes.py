"""The API's credit notes and balances: what is given back of a final invoice, or credited to a customer."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.credit_notes import NewCreditNote
from sandbox.stripe.account.state import Object
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid
from sandbox.stripe.api.lists import check_customer, found, paged
from sandbox.stripe.api.params import Params

_REASONS = ("duplicate", "fraudulent", "order_change", "product_unsatisfactory")


class CreditNotesApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, billing: Billing) -> None:
        self._state = billing.state
        self._notes = billing.credit_notes
        self._balances = billing.balances

    def routes(self, door: Door) -> list[BaseRoute]:
        balance = "/v1/customers/{id}/balance_transactions"
        return [
            door.route("GET", "/v1/credit_notes", self.list_credit_notes),
            door.route("POST", "/v1/credit_notes", self.create_credit_note),
            door.route("GET", "/v1/credit_notes/preview", self.preview_credit_note),
            door.route("GET", "/v1/credit_notes/{id}", self.get_credit_note),
            door.route("POST", "/v1/credit_notes/{id}/void", self.void_credit_note),
            door.route("GET", balance, self.list_balance_transactions),
            door.route("POST", balance, self.create_balance_transaction),
        ]

    async def list_credit_notes(self, call: Call) -> Object:
        invoice, customer = call.params.text("invoice"), call.params.text("customer")
        rows = [
            row
            for row in self._state.credit_notes.values()
            if invoice in {None, row["invoice"]} and customer in {None, row["customer"]}
        ]
        return paged(rows, call.params, call.path)

    def _new(self, params: Params) -> NewCreditNote:
        invoice = found(self._state.invoices, "invoice", params.required("invoice"), "invoice")
        lines = []
        for row in params.rows("lines"):
            row.choice("type", "invoice_line_item")
            amount = row.whole("amount")
            lines.append((row.required("invoice_line_item"), 0 if amount is None else amount))
            row.refuse_unread()
        new = NewCreditNote(
            invoice,
            lines,
            credit=params.whole("credit_amount") or 0,
            refund=params.whole("refund_amount") or 0,
            out_of_band=params.whole("out_of_band_amount") or 0,
            memo=params.text("memo"),
            reason=params.choice("reason", *_REASONS),
            metadata=params.metadata({}),
        )
        params.choice("email_type", "credit_note", "none")
        params.refuse_unread()
        return new

    async def create_credit_note(self, call: Call) -> Object:
        return self._notes.create(self._new(call.params))

    async def preview_credit_note(self, call: Call) -> Object:
        return self._notes.preview(self._new(call.params))

    def _note(self, call: Call) -> Object:
        call.params.refuse_unread()
        return found(self._state.credit_notes, "credit_note", call.ids["id"])

    async def get_credit_note(self, call: Call) -> Object:
        return self._note(call)

    async def void_credit_note(self, call: Call) -> Object:
        note = self._note(call)
        self._notes.void(note)
        return note

    async def list_balance_transactions(self, call: Call) -> Object:
        found(self._state.customers, "customer", call.ids["id"])
        rows = [row for row in self._state.balance_transactions.values() if row["customer"] == call.ids["id"]]
        return paged(rows, call.params, call.path)

    async def create_balance_transaction(self, call: Call) -> Object:
        check_customer(self._state, call.ids["id"])
        amount, currency = call.params.whole("amount"), call.params.required("currency")
        description, metadata = call.params.text("description", longest=350), call.params.metadata({})
        call.params.refuse_unread()
        if not amount:
            raise invalid("amount", "amount must be a whole number other than 0.")
        return self._balances.book(
            call.ids["id"], amount, currency, "adjustment", description=description, metadata=metadata
        )
