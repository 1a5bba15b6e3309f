"""The mirror of subscription invoices: until when a period can be billed, and the minutes that it was billed for."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from pipeline.mirror_customers import Owned
from pipeline.mirror_effects import Effects
from pipeline.mirror_fields import below, has_more, identifier, instant, named_business, rows, whole, word
from pipeline.mirror_prices import usage_type_shown

STATUSES = frozenset({"draft", "open", "paid", "uncollectible", "void"})

_METERED = "select id, usage_type = 'metered' from stripe_prices where id = any(%s::text[])"

_HAS_METERED_ITEM = "select metered_item_id is not null from subscriptions where stripe_id = %s"

_REPLACE = """
insert into stripe_invoices
  (id, business_id, stripe_subscription_id, status, billing_reason, created_at, automatically_finalizes_at,
   metered_period_start, metered_period_end, metered_quantity, amount_due_cents, currency, snapshot_at)
values
  (%(id)s, %(business_id)s, %(subscription_id)s, %(status)s, %(billing_reason)s, %(created_at)s, %(finalizes_at)s,
   %(period_start)s, %(period_end)s, %(quantity)s, %(amount_due_cents)s, %(currency)s, %(snapshot_at)s)
on conflict (id) do update
set status = excluded.status, billing_reason = excluded.billing_reason, created_at = excluded.created_at,
    automatically_finalizes_at = excluded.automatically_finalizes_at,
    metered_period_start = excluded.metered_period_start, metered_period_end = excluded.metered_period_end,
    metered_quantity = excluded.metered_quantity, amount_due_cents = excluded.amount_due_cents,
    currency = excluded.currency, snapshot_at = excluded.snapshot_at
"""

# The period that the draft is for is over: its record takes late calls now, and waits for the close.
_BEGIN_CLOSING = """
update usage_records r set state = 'closing'
from subscriptions s
where r.business_id = %(business_id)s and r.subscription_id = s.id and s.stripe_id = %(subscription_id)s
  and r.period_end = %(period_end)s and r.period_end <= %(now)s and r.state = 'open' and not r.provisional
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what it is the price of, how much, and for when. ``metered`` None: the line doesn't say."""

    price_id: str | None
    metered: bool | None
    quantity: Decimal
    start: datetime
    end: datetime


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
    period: tuple[datetime, datetime] | None
    lines: tuple[Line, ...]
    complete: bool
    amount_due_cents: int
    currency: str


def read(invoice: Any) -> Invoice | None:
    """A subscription's invoice in the shapes of 2020 to 2026; None for any other, and for a preview without an id."""
    invoice_id, customer_id = identifier(invoice), identifier(below(invoice, "customer"))
    details = below(invoice, "parent", "subscription_details") or below(invoice, "subscription_details")
    subscription_id = identifier(below(invoice, "subscription")) or identifier(below(details, "subscription"))
    status = word(below(invoice, "status"))
    if not isinstance(invoice, Mapping) or invoice.get("object") != "invoice":
        return None
    if invoice_id is None or customer_id is None or subscription_id is None or status not in STATUSES:
        return None
    start, end = instant(invoice.get("period_start")), instant(invoice.get("period_end"))
    return Invoice(
        id=invoice_id,
        owned=Owned(customer_id, named_business(details)),
        subscription_id=subscription_id,
        status=status,
        billing_reason=word(invoice.get("billing_reason")),
        created_at=instant(invoice.get("created")),
        finalizes_at=instant(invoice.get("automatically_finalizes_at")),
        period=(start, end) if start is not None and end is not None and start < end else None,
        lines=tuple(line for row in rows(invoice.get("lines")) if (line := _line(row)) is not None),
        complete=not has_more(invoice.get("lines")),
        amount_due_cents=whole(invoice.get("amount_due")) or 0,
        currency=word(invoice.get("currency")) or "usd",
    )


def _line(row: Mapping[str, Any]) -> Line | None:
    price = row.get("price") or row.get("plan") or below(row, "pricing", "price_details", "price")
    usage_type = usage_type_shown(price)
    start, end = instant(below(row, "period", "start")), instant(below(row, "period", "end"))
    if start is None or end is None:
        return None
    return Line(
        price_id=identifier(price),
        metered=None if usage_type is None else usage_type == "metered",
        quantity=_quantity(row),
        start=start,
        end=end,
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


def apply(
    connection: Connection,
    invoice: Invoice,
    business_id: int,
    *,
    snapshot_at: datetime,
    effects: Effects,
    now: datetime,
) -> None:
    """Make the mirror what this newer snapshot says; a draft makes the record of its period wait for the close.

    The business's lock must be held, and the prices of the lines be mirrored.
    """
    period, quantity = _metered_use(connection, invoice)
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
            "period_start": period[0] if period else None,
            "period_end": period[1] if period else None,
            "quantity": quantity,
            "amount_due_cents": invoice.amount_due_cents,
            "currency": invoice.currency,
            "snapshot_at": snapshot_at,
        },
    )
    if period is not None:
        connection.exec_driver_sql(
            _BEGIN_CLOSING,
            {
                "business_id": business_id,
                "subscription_id": invoice.subscription_id,
                "period_end": period[1],
                "now": now,
            },
        )
        effects.follow_ups |= {"stripe.plan-meter-pushes", "periods.close-due"}


def _metered_use(connection: Connection, invoice: Invoice) -> tuple[tuple[datetime, datetime] | None, int | None]:
    """The period and the minutes of the metered lines, all tiers and stretches together.

    A renewal without any metered line bills nothing of a metered item: its period is then the invoice's own, which
    for a renewal looks back.
    """
    known = _metered(connection, {line.price_id for line in invoice.lines if line.price_id is not None})
    lines = [
        line
        for line in invoice.lines
        if line.start < line.end and (known.get(line.price_id or "", False) if line.metered is None else line.metered)
    ]
    if lines:
        period = min(line.start for line in lines), max(line.end for line in lines)
        return period, int(sum((line.quantity for line in lines), Decimal(0)))
    if invoice.billing_reason == "subscription_cycle" and invoice.period is not None:
        metered = connection.exec_driver_sql(_HAS_METERED_ITEM, (invoice.subscription_id,)).scalar()
        if metered:
            return invoice.period, 0
    return None, None
