"""The invoices of a business as Stripe last told of them, the newest first."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import typed_row, typed_rows

_FIELDS = """
i.id, i.business_id, i.number, i.status, i.billing_reason, i.created_at, i.finalized_at, i.currency,
i.discount_cents as discount, i.tax_cents as tax, i.total_cents as total, i.amount_due_cents as amount_due,
coalesce((select sum(l.minutes) from stripe_invoice_lines l where l.invoice_id = i.id), 0)::bigint as minutes,
i.snapshot_at
"""
_LIST = f"""
select {_FIELDS} from stripe_invoices i
where i.business_id = %(business_id)s and (%(status)s::text is null or i.status = %(status)s)
  and (%(since)s::timestamptz is null or i.created_at >= %(since)s)
  and (%(until)s::timestamptz is null or i.created_at < %(until)s)
  and (i.created_at, i.id) < (%(created_at)s, %(id)s)
order by i.created_at desc, i.id desc limit %(limit)s
"""  # noqa: S608 - a constant
_ONE = f"select {_FIELDS} from stripe_invoices i where i.id = %s"  # noqa: S608 - as above


@dataclass(frozen=True, slots=True)
class ListedInvoice:
    """An invoice; amounts in its currency's smallest unit, ``total`` None where Stripe has not told it yet.

    ``amount_due`` is the total less the customer's balance; ``minutes`` are those that it bills.
    """

    id: str
    business_id: int
    number: str | None
    status: str
    billing_reason: str | None
    created_at: datetime
    finalized_at: datetime | None
    currency: str
    discount: int | None
    tax: int | None
    total: int | None
    amount_due: int
    minutes: int
    snapshot_at: datetime


def list_invoices(
    connection: Connection,
    business_id: int,
    status: str | None,
    made_before: tuple[str, str],
    limit: int,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[ListedInvoice]:
    """The newest first, of ``[since, until)``, made before that: an instant in RFC 3339, and an id."""
    about = {
        "business_id": business_id,
        "status": status,
        "since": since,
        "until": until,
        "created_at": made_before[0],
        "id": made_before[1],
        "limit": limit,
    }
    return typed_rows(ListedInvoice, connection.exec_driver_sql(_LIST, about))


def find_invoice(connection: Connection, invoice_id: str) -> ListedInvoice | None:
    """One invoice, by Stripe's id."""
    return typed_row(ListedInvoice, connection.exec_driver_sql(_ONE, (invoice_id,)))
