"""The mirror of subscription invoices: until when a period can be billed, and the minutes that it was billed for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from pipeline.businesses import service_status
from pipeline.closing import period_close
from pipeline.providers.stripe_fields import (
    below,
    has_more,
    identifier,
    named_business,
    rows,
    unix_instant,
    whole,
    word,
)
from pipeline.providers.stripe_words import RENEWAL, InvoiceStatus, UsageType
from pipeline.stripe_mirror.customers import Owned
from pipeline.stripe_mirror.effects import Effects
from pipeline.stripe_mirror.prices import usage_type_shown
from pipeline.usage import record_alignment

_METERED = "select id, usage_type = 'metered' from stripe_prices where id = any(%s::text[])"

_METERED_PRICE = "select metered_price_id from subscriptions where stripe_id = %s"

_REPLACE = """
insert into stripe_invoices
  (id, business_id, stripe_subscription_id, status, billing_reason, created_at, automatically_finalizes_at,
   finalized_at, attempt_count, amount_due_cents, currency, snapshot_at)
values
  (%(id)s, %(business_id)s, %(subscription_id)s, %(status)s, %(billing_reason)s, %(created_at)s, %(finalizes_at)s,
   %(finalized_at)s, %(attempt_count)s, %(amount_due_cents)s, %(currency)s, %(snapshot_at)s)
on conflict (id) do update
set status = excluded.status, billing_reason = excluded.billing_reason, created_at = excluded.created_at,
    automatically_finalizes_at = excluded.automatically_finalizes_at, finalized_at = excluded.finalized_at,
    attempt_count = excluded.attempt_count, amount_due_cents = excluded.amount_due_cents,
    currency = excluded.currency, snapshot_at = excluded.snapshot_at
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


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what it is the price of, how much, and for when. ``metered`` None: the line doesn't say."""

    price_id: str | None
    metered: bool | None
    quantity: Decimal
    start: datetime
    end: datetime
    amount_cents: int = 0


@dataclass(frozen=True, slots=True)
class Invoice:
    """What we need of an invoice. ``complete``: all its lines are shown."""

    id: str
    owned: Owned
    subscription_id: str
    status: str
    billing_reason: str | None
    created_at: datetime | None
    finalizes_at: datetime | None
    finalized_at: datetime | None
    attempt_count: int
    period: tuple[datetime, datetime] | None
    lines: tuple[Line, ...]
    complete: bool
    amount_due_cents: int
    currency: str


def read_invoice(invoice: Any) -> Invoice | None:
    """A subscription's invoice in the shapes of 2020 to 2026; None for any other, and for a preview without an id."""
    invoice_id, customer_id = identifier(invoice), identifier(below(invoice, "customer"))
    details = below(invoice, "parent", "subscription_details") or below(invoice, "subscription_details")
    subscription_id = identifier(below(invoice, "subscription")) or identifier(below(details, "subscription"))
    status = word(below(invoice, "status"))
    if not isinstance(invoice, Mapping) or invoice.get("object") != "invoice":
        return None
    if invoice_id is None or customer_id is None or subscription_id is None or status not in set(InvoiceStatus):
        return None
    start, end = unix_instant(invoice.get("period_start")), unix_instant(invoice.get("period_end"))
    return Invoice(
        id=invoice_id,
        owned=Owned(customer_id, named_business(details)),
        subscription_id=subscription_id,
        status=status,
        billing_reason=word(invoice.get("billing_reason")),
        created_at=unix_instant(invoice.get("created")),
        finalizes_at=unix_instant(invoice.get("automatically_finalizes_at")),
        finalized_at=unix_instant(below(invoice, "status_transitions", "finalized_at")),
        attempt_count=max(0, min(whole(invoice.get("attempt_count")) or 0, 1_000)),
        period=(start, end) if start is not None and end is not None and start < end else None,
        lines=tuple(line for row in rows(invoice.get("lines")) if (line := read_line(row)) is not None),
        complete=not has_more(invoice.get("lines")),
        amount_due_cents=whole(invoice.get("amount_due")) or 0,
        currency=word(invoice.get("currency")) or "usd",
    )


def read_line(row: Mapping[str, Any]) -> Line | None:
    """A line in the shapes of 2020 to 2026; None for one without a stretch of time."""
    price = row.get("price") or row.get("plan") or below(row, "pricing", "price_details", "price")
    usage_type = usage_type_shown(price)
    start, end = unix_instant(below(row, "period", "start")), unix_instant(below(row, "period", "end"))
    if start is None or end is None:
        return None
    return Line(
        price_id=identifier(price),
        metered=None if usage_type is None else usage_type == UsageType.METERED,
        quantity=_quantity(row),
        start=start,
        end=end,
        amount_cents=whole(row.get("amount")) or 0,
    )


def _quantity(row: Mapping[str, Any]) -> Decimal:
    """The exact quantity where the shape has it: the plain one is cut to a whole number since 2026-03-25."""
    exact, plain = row.get("quantity_decimal"), whole(row.get("quantity"))
    if isinstance(exact, str) and len(exact) <= 40:
        try:
            quantity = Decimal(exact)
        except ArithmeticError:
            pass
        else:
            if quantity.is_finite() and abs(quantity) < 10**18:
                return quantity
    return Decimal(plain or 0)


def unknown_prices(connection: Connection, invoice: Invoice) -> set[str]:
    """The prices of lines that don't say whether they are metered, and that the mirror doesn't know either."""
    asked = {line.price_id for line in invoice.lines if line.metered is None and line.price_id is not None}
    return asked - _metered(connection, asked).keys()


def _metered(connection: Connection, price_ids: set[str]) -> dict[str, bool]:
    return dict(connection.exec_driver_sql(_METERED, (sorted(price_ids),)).all())


def store_invoice(
    connection: Connection,
    invoice: Invoice,
    business_id: int,
    *,
    snapshot_at: datetime,
    effects: Effects,
    now: datetime,
) -> None:
    """Make the mirror what this newer snapshot says; a draft makes the records that it bills wait for the close.

    The business's lock must be held, and the prices of the lines be mirrored.
    """
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
            "snapshot_at": snapshot_at,
        },
    )
    before, after = _replace_lines(connection, invoice)
    if after:
        if before != after:  # it tells when periods began and ended
            record_alignment.align_records(connection, business_id, now)
        period_close.begin_closing(connection, business_id, invoice.subscription_id, {end for _, end in after}, now)
        effects.follow_ups |= {"stripe.plan-meter-pushes", "periods.close-due"}
    service_status.settle_service(connection, [business_id], now, f"invoice {invoice.id} is {invoice.status}")


Spans = set[tuple[datetime, datetime]]


def _replace_lines(connection: Connection, invoice: Invoice) -> tuple[Spans, Spans]:
    """Store what the invoice bills of the meter; returns the stretches of time that it named before, and names now."""
    before = {(start, end) for start, end in connection.exec_driver_sql(_FORGET_LINES, (invoice.id,))}
    lines = _metered_lines(connection, invoice)
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
    return before, {(start, end) for _, start, end in lines}


def _metered_lines(
    connection: Connection, invoice: Invoice
) -> dict[tuple[str, datetime, datetime], tuple[Decimal, int]]:
    """Quantity and cents of the metered lines by price and stretch of time, all tiers together.

    A renewal without any metered line bills nothing of a metered item: its period is then the invoice's own, which
    for a renewal looks back.
    """
    known = _metered(connection, {line.price_id for line in invoice.lines if line.price_id is not None})
    found: dict[tuple[str, datetime, datetime], tuple[Decimal, int]] = {}
    for line in invoice.lines:
        metered = known.get(line.price_id or "", False) if line.metered is None else line.metered
        if metered and line.start < line.end:
            key = (line.price_id or "", line.start, line.end)
            quantity, cents = found.get(key, (Decimal(0), 0))
            found[key] = (quantity + line.quantity, cents + line.amount_cents)
    if not found and invoice.billing_reason == RENEWAL and invoice.period is not None:
        price_id = connection.exec_driver_sql(_METERED_PRICE, (invoice.subscription_id,)).scalar()
        if price_id is not None:
            found[price_id, *invoice.period] = (Decimal(0), 0)
    return found
