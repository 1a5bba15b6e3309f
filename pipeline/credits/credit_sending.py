"""Sending credits: claim what is due, look whether Stripe has it, ask outside any transaction, commit the outcome.

A credit note on the lines that charged the minutes, at most what remains of them: tax, discount and currency are
Stripe's. Where the invoice allows none, the customer's balance, in the same currency or not at all.
"""

from collections import Counter
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.credits import credit_states
from pipeline.credits.credit_states import Credit, CreditState
from pipeline.events import fetch_requests
from pipeline.prices.money import money
from pipeline.providers.outbox_sender import (
    LEASE_SECONDS,
    SECONDS,
    AnswerKind,
    Claimed,
    SendAnswer,
    retry_of,
    send_due,
)
from pipeline.providers.stripe_api import AccountFault, Json, Limited, Refused, StripeApi
from pipeline.providers.stripe_fields import below, identifier, read_customer, rows, whole
from pipeline.providers.stripe_words import CREDIT_MARK, VOID_NOTE, InvoiceStatus
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind

BATCH = 50

_MINUTES_PRICES = "select distinct price_id from stripe_invoice_lines where invoice_id = %s"

_log = structlog.get_logger(__name__)


def send_due_credits(engine: Engine, api: StripeApi, now: datetime, *, seconds: float = SECONDS) -> Counter[str]:
    """Send the credits that are due until nothing is left or ``seconds`` (machine time) have passed."""

    def claim(connection: Connection) -> Claimed[Credit]:
        due = credit_states.take_due_credits(connection, limit=BATCH, lease_seconds=LEASE_SECONDS)
        return Claimed(due, more=len(due) == BATCH)

    def attempt(credit: Credit) -> str:
        with engine.connect() as connection:
            prices = set(connection.exec_driver_sql(_MINUTES_PRICES, (credit.invoice_id,)).scalars())
        return give_back_once(api, credit, prices)

    def settle(connection: Connection, credit: Credit, answer: SendAnswer) -> None:
        _settle(connection, credit, answer, now)

    return send_due(engine, claim, attempt, settle, now, seconds=seconds)


def give_back_once(api: StripeApi, credit: Credit, minutes_prices: set[str]) -> str:
    """Make sure that Stripe has this credit, once; returns what was given, in words.

    ``minutes_prices``: the prices whose lines on the invoice are of minutes. Raises one of the StripeApiErrors.
    """
    customer_id = credit.customer_id
    if customer_id is None:
        raise Refused(400, None, "neither an invoice nor the business names a customer of Stripe's")
    notes = [] if credit.invoice_id is None else api.list_credit_notes(credit.invoice_id)
    booked = api.list_balance_transactions(customer_id)
    for had in (*notes, *booked):
        if below(had, "metadata", CREDIT_MARK) == credit.identifier and had.get("status") != VOID_NOTE:
            return _given(had)
    parts, charged = [], False
    invoice: Json | None = None
    if credit.invoice_id is not None:
        invoice = _existing(api, credit.invoice_id)
    if invoice is not None and invoice.get("status") == InvoiceStatus.VOID:
        return f"{credit.invoice_id} is void: nothing was charged, and nothing is given back"
    if invoice is not None:
        lines = [line for line in rows(invoice["lines"]) if _price_of(line) in minutes_prices and _amount(line) > 0]
        parts, charged = _parts(lines, notes, credit.amount), bool(lines)
        if charged and not parts:
            raise Refused(400, None, f"nothing remains of the lines of minutes of {credit.invoice_id}")
        if parts and not sum(_paid(line, amount) for line, amount in parts):
            return f"discounts had taken all of it off {credit.invoice_id}: nothing was paid, and nothing is given back"
    if parts and invoice is not None:
        try:
            return _note(api, credit, customer_id, invoice, [(str(line["id"]), amount) for line, amount in parts])
        except AccountFault:
            raise
        except Refused as refused:
            if api.list_credit_notes(str(invoice["id"])) != notes:  # somebody was quicker: look again
                raise Limited(refused.words) from refused
            amount = sum(_paid(line, amount) for line, amount in parts)
            return _balance(api, credit, customer_id, amount, f"no credit note, {refused.words}")
    return _balance(api, credit, customer_id, credit.amount, "no invoice charged its minutes")


def _existing(api: StripeApi, invoice_id: str) -> Json | None:
    try:
        return api.get_invoice(invoice_id)
    except Refused as refused:
        if refused.status == 404:
            return None
        raise


def _note(api: StripeApi, credit: Credit, customer_id: str, invoice: Json, parts: list[tuple[str, int]]) -> str:
    wanted: dict[str, Any] = {
        "invoice": invoice["id"],
        "lines": [{"type": "invoice_line_item", "invoice_line_item": line, "amount": amount} for line, amount in parts],
        "memo": "Minutes that were charged too much",
        "metadata": {CREDIT_MARK: credit.identifier},
    }
    paid = whole(api.preview_credit_note(wanted).get("post_payment_amount")) or 0
    if paid:  # what was paid goes to the balance; what is still owed is owed no more
        _same_currency(api, credit, customer_id)
        wanted["credit_amount"] = paid
    return _given(api.create_credit_note(wanted, credit.key_for("note")))


def _balance(api: StripeApi, credit: Credit, customer_id: str, amount: int, why: str) -> str:
    """Lower the customer's next invoice; what was paid of it in taxes is not in that."""
    _same_currency(api, credit, customer_id)
    booked = api.create_balance_transaction(
        customer_id,
        {
            "amount": -amount,
            "currency": credit.currency,
            "description": "Minutes that were charged too much",
            "metadata": {CREDIT_MARK: credit.identifier},
        },
        credit.key_for("balance"),
    )
    return f"{_given(booked)} ({why})"


def _same_currency(api: StripeApi, credit: Credit, customer_id: str) -> None:
    customer = read_customer(api.get_customer(customer_id))
    if customer is not None and customer.currency not in {None, credit.currency}:
        raise Refused(
            400,
            None,
            f"the customer's balance is in {customer.currency}, and {credit.currency} are never mixed into it",
        )


def _parts(lines: list[Any], notes: list[Json], amount: int) -> list[tuple[Any, int]]:
    """Which lines give ``amount`` back: the last tiers first, each at most what remains of it."""
    given: Counter[str] = Counter()
    for note in notes:
        if note.get("status") != VOID_NOTE:
            for row in rows(note.get("lines")):
                given[str(row.get("invoice_line_item"))] += _amount(row)
    parts = []
    for line in reversed(lines):
        part = min(amount, _amount(line) - given[str(line["id"])])
        if part > 0:
            parts.append((line, part))
            amount -= part
    return parts


def _paid(line: Any, amount: int) -> int:
    """What of this part of a line was to be paid, after its discounts and before its taxes."""
    discounts = sum(_amount(row) for row in line.get("discount_amounts") or [])
    return amount * (_amount(line) - discounts) // _amount(line)


def _price_of(line: Any) -> str | None:
    return identifier(below(line, "price") or below(line, "pricing", "price_details", "price"))


def _amount(row: Any) -> int:
    return whole(below(row, "amount")) or 0


def _given(made: Json) -> str:
    """A credit note or a balance transaction, in words."""
    what = "credit note" if made.get("object") == "credit_note" else "balance transaction"
    return f"{what} {made.get('number') or made['id']}: {money(abs(_amount(made)), str(made['currency']))}"


def _settle(connection: Connection, credit: Credit, answer: SendAnswer, now: datetime) -> None:
    match answer.kind:
        case AnswerKind.DONE:
            credit_states.end_credit(connection, credit.id, CreditState.DONE, answer.words)
            if credit.invoice_id is not None:
                fetch_requests.request_fetch(connection, "invoice", credit.invoice_id, "credited-by-us")
        case AnswerKind.REFUSED:
            if credit_states.end_credit(connection, credit.id, CreditState.FAILED, answer.words):
                _report_refused(connection, credit, answer.words, now)
        case _:
            credit_states.send_again(connection, credit, retry_of(answer, credit.attempts))


def _report_refused(connection: Connection, credit: Credit, words: str, now: datetime) -> None:
    _log.error("credit-refused", credit=credit.identifier, business_id=credit.business_id, answer=words)
    drifts.report(
        connection,
        DriftKind.CREDIT_REFUSED,
        f"credit:{credit.id}",
        business_id=credit.business_id,
        expected=f"{money(credit.amount, credit.currency)} given back for {abs(credit.minutes):,} minutes"
        f" on {credit.invoice_id or 'no invoice'}",
        actual=words,
        evidence={"minutes": credit.minutes, "amount": credit.amount, "currency": credit.currency},
        now=now,
    )
