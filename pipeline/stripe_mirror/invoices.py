"""The mirror of subscription invoices: until when a period can be billed, and the minutes that it was billed for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import Connection

from pipeline.prices.price_roles import KnownPrice, PriceRole
from pipeline.providers.stripe_fields import Invoice, Line
from pipeline.providers.stripe_words import RENEWAL

#: So many lines are kept to be shown; more are on no invoice that a person reads.
MOST_CHARGES = 250

_REPLACE = """
insert into stripe_invoices
  (id, business_id, stripe_subscription_id, status, billing_reason, created_at, automatically_finalizes_at,
   finalized_at, attempt_count, amount_due_cents, currency, number, total_cents, tax_cents, discount_cents, charges,
   credit_notes, paid_back, snapshot_at)
values
  (%(id)s, %(business_id)s, %(subscription_id)s, %(status)s, %(billing_reason)s, %(created_at)s, %(finalizes_at)s,
   %(finalized_at)s, %(attempt_count)s, %(amount_due_cents)s, %(currency)s, %(number)s, %(total_cents)s, %(tax_cents)s,
   %(discount_cents)s, %(charges)s, %(credit_notes)s, %(paid_back)s, %(snapshot_at)s)
on conflict (id) do update
set status = excluded.status, billing_reason = excluded.billing_reason, created_at = excluded.created_at,
    automatically_finalizes_at = excluded.automatically_finalizes_at, finalized_at = excluded.finalized_at,
    attempt_count = excluded.attempt_count, amount_due_cents = excluded.amount_due_cents,
    currency = excluded.currency, number = excluded.number, total_cents = excluded.total_cents,
    tax_cents = excluded.tax_cents, discount_cents = excluded.discount_cents, charges = excluded.charges,
    credit_notes = coalesce(excluded.credit_notes, stripe_invoices.credit_notes),
    paid_back = coalesce(excluded.paid_back, stripe_invoices.paid_back), snapshot_at = excluded.snapshot_at
"""

_FORGET_LINES = "delete from stripe_invoice_lines where invoice_id = %s returning period_start, period_end"

_LINES = """
insert into stripe_invoice_lines
  (invoice_id, price_id, period_start, period_end, stripe_subscription_id, minutes, amount_cents, mid_period)
select %(invoice_id)s, l.price_id, l.period_start, l.period_end, %(subscription_id)s, l.minutes, l.amount_cents,
       l.mid_period
from unnest(%(price_ids)s::text[], %(starts)s::timestamptz[], %(ends)s::timestamptz[], %(minutes)s::int[],
            %(amounts)s::bigint[], %(mid_periods)s::boolean[])
     as l(price_id, period_start, period_end, minutes, amount_cents, mid_period)
"""


def priced_lines(invoice: Invoice) -> set[str]:
    """The prices that must be known to tell which lines are of minutes: of all but those that say they are fixed."""
    return {line.price_id for line in invoice.lines if line.metered is not False and line.price_id is not None}


Spans = set[tuple[datetime, datetime]]


@dataclass(frozen=True, slots=True)
class StoredInvoice:
    """The stretches of time of which an invoice bills minutes: as they were, and as they are now."""

    before: Spans
    after: Spans
    billed: set[datetime]
    """The beginnings of those that have minutes."""


def store_invoice(
    connection: Connection,
    invoice: Invoice,
    business_id: int,
    *,
    known: Mapping[str, KnownPrice],
    snapshot_at: datetime,
) -> StoredInvoice:
    """Make the mirror what this newer snapshot says; the business's lock is held, its ``priced_lines`` are known."""
    connection.exec_driver_sql(
        _REPLACE,
        {
            "id": invoice.id,
            "business_id": business_id,
            "subscription_id": invoice.subscription_id,
            "status": invoice.status,
            "billing_reason": invoice.billing_reason,
            "created_at": invoice.created_at or snapshot_at,
            "finalizes_at": invoice.finalizes_at,
            "finalized_at": invoice.finalized_at,
            "attempt_count": invoice.attempt_count,
            "amount_due_cents": invoice.amount_due_cents,
            "currency": invoice.currency,
            "number": invoice.number,
            "total_cents": invoice.total_cents,
            "tax_cents": invoice.tax_cents,
            "discount_cents": invoice.discount_cents,
            "charges": Jsonb([_charge(line) for line in invoice.lines[:MOST_CHARGES]]),
            "credit_notes": _credit_notes(invoice, known),
            "paid_back": _paid_back(invoice),
            "snapshot_at": snapshot_at,
        },
    )
    return _replace_lines(connection, invoice, known)


def _charge(line: Line) -> dict[str, Any]:
    return {
        "for": line.description,
        "price": line.price_id,
        "quantity": f"{line.quantity.normalize():f}",
        "amount": line.amount_cents,
        "proration": line.proration,
    }


def _credit_notes(invoice: Invoice, known: Mapping[str, KnownPrice]) -> Jsonb | None:
    """What was given back of it, where it is told: in all, and of its lines of minutes."""
    if invoice.credit_notes is None:
        return None
    of_minutes = {line.id for line in invoice.lines if _of_minutes(line, known)}
    return Jsonb(
        [
            {
                "id": note.id,
                "number": note.number,
                "total": note.total_cents,
                "minutes": sum(amount for line, amount in note.lines if line in of_minutes),
                "credit": note.credit,
            }
            for note in invoice.credit_notes
        ]
    )


def _paid_back(invoice: Invoice) -> Jsonb | None:
    if invoice.paid_back is None:
        return None
    return Jsonb(
        [
            {"id": row.id, "what": row.what, "amount": row.amount_cents, "status": row.status}
            for row in invoice.paid_back
        ]
    )


def _of_minutes(line: Line, known: Mapping[str, KnownPrice]) -> bool:
    price = known.get(line.price_id or "")
    return price is not None and price.role is PriceRole.MINUTES


def _replace_lines(connection: Connection, invoice: Invoice, known: Mapping[str, KnownPrice]) -> StoredInvoice:
    """Store what the invoice bills of our meter."""
    before = {(start, end) for start, end in connection.exec_driver_sql(_FORGET_LINES, (invoice.id,))}
    lines = _minutes_lines(invoice, known)
    connection.exec_driver_sql(
        _LINES,
        {
            "invoice_id": invoice.id,
            "subscription_id": invoice.subscription_id,
            "price_ids": [price_id for price_id, _, _ in lines],
            "starts": [start for _, start, _ in lines],
            "ends": [end for _, _, end in lines],
            "minutes": [int(quantity) for quantity, _ in lines.values()],
            "amounts": [cents for _, cents in lines.values()],
            "mid_periods": [
                invoice.billing_reason == RENEWAL and invoice.period is not None and start > invoice.period[0]
                for _, start, _ in lines
            ],
        },
    )
    return StoredInvoice(
        before,
        after={(start, end) for _, start, end in lines},
        billed={start for (_, start, _), (quantity, _) in lines.items() if int(quantity)},
    )


def _minutes_lines(
    invoice: Invoice, known: Mapping[str, KnownPrice]
) -> dict[tuple[str, datetime, datetime], tuple[Decimal, int]]:
    """Quantity and cents of the lines of minutes by price and stretch of time, all tiers together.

    An invoice without any, as of an add-on that is billed by the week, tells nothing of periods.
    """
    found: dict[tuple[str, datetime, datetime], tuple[Decimal, int]] = {}
    for line in invoice.lines:
        price = known.get(line.price_id or "")
        if price is not None and price.role is PriceRole.MINUTES and line.start < line.end:
            key = (price.id, line.start, line.end)
            quantity, cents = found.get(key, (Decimal(0), 0))
            found[key] = (quantity + line.quantity, cents + line.amount_cents)
    return found
