"""The API's invoices: read, changed, finalised, paid, voided, and looked at before they are made."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.items import read_changes
from sandbox.stripe.account.previews import Previewed, preview
from sandbox.stripe.account.state import Object
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid
from sandbox.stripe.api.lists import created_filter, found, paged
from sandbox.stripe.api.params import Params
from sandbox.stripe.api.subscriptions import PRORATIONS, read_from_now


class InvoicesApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self._state = billing.state
        self._invoices = billing.invoices

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("GET", "/v1/invoices", self.list_invoices),
            door.route("POST", "/v1/invoices/create_preview", self.create_preview),
            door.route("GET", "/v1/invoices/{id}", self.get_invoice),
            door.route("POST", "/v1/invoices/{id}", self.update_invoice),
            door.route("GET", "/v1/invoices/{id}/lines", self.list_lines),
            door.route("POST", "/v1/invoices/{id}/finalize", self.finalize_invoice),
            door.route("POST", "/v1/invoices/{id}/pay", self.pay_invoice),
            door.route("POST", "/v1/invoices/{id}/void", self.void_invoice),
            door.route("POST", "/v1/invoices/{id}/mark_uncollectible", self.mark_uncollectible),
        ]

    async def list_invoices(self, call: Call) -> Object:
        customer, subscription = call.params.text("customer"), call.params.text("subscription")
        status = call.params.choice("status", "draft", "open", "paid", "uncollectible", "void")
        created = created_filter(call.params)
        rows = [
            row
            for row in self._state.invoices.values()
            if customer in {None, row["customer"]}
            and subscription in {None, row["parent"]["subscription_details"]["subscription"]}
            and status in {None, row["status"]}
            and created(row)
        ]
        page = paged(rows, call.params, call.path)
        for invoice in page["data"]:
            self._invoices.view(invoice)
        return page

    def _invoice(self, call: Call) -> Object:
        return self._invoices.view(found(self._state.invoices, "invoice", call.ids["id"]))

    async def get_invoice(self, call: Call) -> Object:
        call.params.refuse_unread()
        return self._invoice(call)

    async def list_lines(self, call: Call) -> Object:
        return paged(self._invoice(call)["lines"]["data"][::-1], call.params, call.path)

    async def update_invoice(self, call: Call) -> Object:
        invoice = self._invoice(call)
        auto_advance, metadata = call.params.flag("auto_advance"), call.params.metadata(invoice["metadata"])
        call.params.refuse_unread()
        self._invoices.update(invoice, auto_advance, metadata)
        return invoice

    async def finalize_invoice(self, call: Call) -> Object:
        """Collected at once, unless ``auto_advance`` is false: then it waits to be paid."""
        invoice, auto_advance = self._invoice(call), call.params.flag("auto_advance")
        call.params.refuse_unread()
        self._invoices.finalise(invoice, collects=invoice["auto_advance"] if auto_advance is None else auto_advance)
        return invoice

    async def pay_invoice(self, call: Call) -> Object:
        invoice, out_of_band = self._invoice(call), call.params.flag("paid_out_of_band")
        call.params.refuse_unread()
        self._invoices.pay(invoice, out_of_band=bool(out_of_band))
        return invoice

    async def void_invoice(self, call: Call) -> Object:
        invoice = self._invoice(call)
        call.params.refuse_unread()
        self._invoices.void(invoice)
        return invoice

    async def mark_uncollectible(self, call: Call) -> Object:
        invoice = self._invoice(call)
        call.params.refuse_unread()
        self._invoices.mark_uncollectible(invoice)
        return invoice

    async def create_preview(self, call: Call) -> Object:
        """What a change of ``subscription`` would invoice; previews of subscriptions to come are not there."""
        customer, details = call.params.text("customer"), call.params.below("subscription_details")
        name = call.params.required("subscription")
        change = Previewed() if details is None else self._previewed(details)
        call.params.refuse_unread()
        subscription = found(self._state.subscriptions, "subscription", name, "subscription")
        if customer not in {None, subscription["customer"]}:
            raise invalid("customer", "The subscription does not belong to the customer.")
        return preview(self._billing, subscription, change)

    def _previewed(self, details: Params) -> Previewed:
        change = Previewed(
            read_changes(self._state, details.rows("items")),
            details.choice("proration_behavior", *PRORATIONS) or "create_prorations",
            read_from_now(details),
            details.flag("cancel_now") or False,
            details.flag("cancel_at_period_end"),
        )
        details.refuse_unread()
        return change
