"""Customers' balances: what is credited to them lowers their next invoice, and what an invoice owes them is kept."""

import copy

from sandbox.stripe.account.events import Events
from sandbox.stripe.account.state import Object, State, new_id
from sandbox.stripe.api.errors import invalid, no_such


class Balances:
    """The balances of the account's customers; a negative one is a credit."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events

    def book(
        self,
        customer_id: str,
        amount: int,
        currency: str,
        kind: str,
        *,
        description: str | None = None,
        metadata: dict[str, str] | None = None,
        invoice: str | None = None,
        credit_note: str | None = None,
    ) -> Object:
        """Add ``amount`` to a balance, whose currency is that of its first booking; a deleted customer has none."""
        customer = self._state.customers[customer_id]
        if customer.get("deleted"):
            raise no_such("customer", customer_id, "customer")
        if customer["currency"] not in {None, currency}:
            raise invalid(
                "currency", f"The customer's balance is in {customer['currency']}: {currency} can't be added to it."
            )
        before = copy.deepcopy(customer)
        customer.update(balance=customer["balance"] + amount, currency=currency)
        booked: Object = {
            "id": new_id("cbtxn"),
            "object": "customer_balance_transaction",
            "amount": amount,
            "created": self._state.now,
            "credit_note": credit_note,
            "currency": currency,
            "customer": customer_id,
            "description": description,
            "ending_balance": customer["balance"],
            "invoice": invoice,
            "livemode": False,
            "metadata": metadata or {},
            "type": kind,
        }
        self._state.balance_transactions[booked["id"]] = booked
        self._events.emit_change("customer.updated", before, customer)
        return booked

    def apply(self, invoice: Object) -> None:
        """Set what is due of an invoice that is final: less the customer's credit, which is used up by it."""
        customer = self._state.customers[invoice["customer"]]
        if customer.get("deleted"):
            invoice.update(amount_due=max(invoice["total"], 0), amount_remaining=max(invoice["total"], 0))
            return
        ours = customer["currency"] in {None, invoice["currency"]}
        total, balance = invoice["total"], customer["balance"] if ours else 0
        due = max(0, total + balance)
        invoice.update(starting_balance=balance, amount_due=due, amount_remaining=due)
        if total != due and ours:
            self.book(
                invoice["customer"], total - due, invoice["currency"], "applied_to_invoice", invoice=invoice["id"]
            )
        invoice["ending_balance"] = customer["balance"]
