"""Credit notes: lines of a final invoice given back, with their part of its discounts and taxes."""

import copy
from dataclasses import dataclass, field

from sandbox.stripe.account.balances import Balances
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.payments import Payments
from sandbox.stripe.account.reductions import part_of, total_of
from sandbox.stripe.account.refunds import Refunds
from sandbox.stripe.account.state import Object, State, new_id
from sandbox.stripe.api.errors import StripeError, invalid


@dataclass
class NewCreditNote:
    """What a credit note is made from: amounts of lines, before discounts and taxes, and where paid money goes."""

    invoice: Object
    lines: list[tuple[str, int]]
    credit: int = 0
    refund: int = 0
    out_of_band: int = 0
    memo: str | None = None
    reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class CreditNotes:
    """The credit notes of the account."""

    def __init__(self, state: State, events: Events, payments: Payments, balances: Balances, refunds: Refunds) -> None:
        self._state = state
        self._events = events
        self._payments = payments
        self._balances = balances
        self._refunds = refunds

    def of(self, invoice: Object) -> list[Object]:
        """An invoice's, oldest first."""
        return [note for note in self._state.credit_notes.values() if note["invoice"] == invoice["id"]]

    def preview(self, new: NewCreditNote) -> Object:
        """What the credit note would be; refused where it could not be made. Where paid money goes isn't checked."""
        invoice = new.invoice
        if invoice["status"] not in {"open", "paid", "uncollectible"}:
            raise StripeError(
                400, f"You can only create credit notes for finalized invoices; this one is {invoice['status']}."
            )
        if not new.lines:
            raise invalid("lines", "This stand-in makes credit notes of lines: send lines.")
        parts = [self._part(invoice, line, amount) for line, amount in new.lines]
        total = total_of(parts)
        if total <= 0:
            raise invalid("amount", "The credit note's total must be greater than 0.")
        given = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
        if total > invoice["total"] - given:
            raise invalid(
                "amount", f"The sum of credit notes ({total + given}) exceeds the invoice's total ({invoice['total']})."
            )
        pre = min(total, invoice["amount_remaining"]) if invoice["status"] != "paid" else 0
        discounts = sum(row["amount"] for part in parts for row in part["discount_amounts"])
        identifier = new_id("cn")
        return {
            "id": identifier,
            "object": "credit_note",
            "amount": total,
            "created": self._state.now,
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "customer_balance_transaction": None,
            "discount_amount": discounts,
            "invoice": invoice["id"],
            "lines": {
                "object": "list",
                "data": parts,
                "has_more": False,
                "url": f"/v1/credit_notes/{identifier}/lines",
            },
            "livemode": False,
            "memo": new.memo,
            "metadata": new.metadata,
            "number": f"{invoice['number']}-CN-{len(self.of(invoice)) + 1:02d}",
            "out_of_band_amount": new.out_of_band or None,
            "post_payment_amount": total - pre,
            "pre_payment_amount": pre,
            "reason": new.reason,
            "refunds": [],
            "status": "issued",
            "subtotal": sum(part["amount"] for part in parts),
            "total": total,
            "type": "pre_payment" if pre == total else "mixed" if pre else "post_payment",
            "voided_at": None,
        }

    def create(self, new: NewCreditNote) -> Object:
        """Make it: what was not paid yet is not due any more, what was paid goes where the request says."""
        note, invoice = self.preview(new), new.invoice
        placed = new.credit + new.refund + new.out_of_band
        if placed != note["post_payment_amount"]:
            raise invalid(
                "amount",
                f"The sum of credit amount, refund amount and out of band amount ({placed}) must equal the"
                f" post payment amount ({note['post_payment_amount']}).",
            )
        if new.credit:
            booked = self._balances.book(
                invoice["customer"], -new.credit, invoice["currency"], "credit_note", credit_note=note["id"]
            )
            note["customer_balance_transaction"] = booked["id"]
        if new.refund:
            note["refunds"] = [
                {"amount_refunded": new.refund, "refund": self._refund(invoice, new.refund)["id"], "type": "refund"}
            ]
        self._state.credit_notes[note["id"]] = note
        self._events.emit("credit_note.created", note)
        before = copy.deepcopy(invoice)
        invoice["post_payment_credit_notes_amount"] += note["post_payment_amount"]
        invoice["pre_payment_credit_notes_amount"] += note["pre_payment_amount"]
        for owed in ("amount_due", "amount_remaining"):
            invoice[owed] -= note["pre_payment_amount"]
        self._events.emit_change("invoice.updated", before, invoice)
        if invoice["status"] == "open" and not invoice["amount_remaining"]:
            self._payments.paid(invoice)
        return note

    def _refund(self, invoice: Object, amount: int) -> Object:
        payments = self._state.invoice_payments.values()
        payment = next((each for each in payments if each["invoice"] == invoice["id"]), None)
        if payment is None:
            raise invalid("refund_amount", "The invoice has no payment that could be refunded.")
        return self._refunds.refund(payment, amount)

    def void(self, note: Object) -> None:
        """Take it back, which can be done while its invoice is open."""
        invoice = self._state.invoices[note["invoice"]]
        if note["status"] == "void" or invoice["status"] != "open":
            raise StripeError(400, "You can only void issued credit notes on open invoices.", executed=True)
        note.update(status="void", voided_at=self._state.now)
        before = copy.deepcopy(invoice)
        invoice["pre_payment_credit_notes_amount"] -= note["pre_payment_amount"]
        for owed in ("amount_due", "amount_remaining"):
            invoice[owed] += note["pre_payment_amount"]
        self._events.emit("credit_note.voided", note)
        self._events.emit_change("invoice.updated", before, invoice)

    def _part(self, invoice: Object, line_id: str, amount: int) -> Object:
        line = next((each for each in invoice["lines"]["data"] if each["id"] == line_id), None)
        if line is None:
            raise invalid("lines[0][invoice_line_item]", f"No such invoice line item: '{line_id}'", "resource_missing")
        given = sum(
            row["amount"]
            for note in self.of(invoice)
            if note["status"] == "issued"
            for row in note["lines"]["data"]
            if row["invoice_line_item"] == line_id
        )
        if not 0 < amount <= line["amount"] - given:
            raise invalid(
                "lines[0][amount]",
                f"The amount ({amount}) must be above 0 and not exceed what remains of the line item"
                f" ({line['amount'] - given}).",
            )
        return {
            "id": new_id("cnli"),
            "object": "credit_note_line_item",
            "description": line["description"],
            "invoice_line_item": line_id,
            "livemode": False,
            "quantity": None,
            "type": "invoice_line_item",
            **part_of(line, amount),
        }
