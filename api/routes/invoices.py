"""The invoices of a business, as Stripe last told of them."""

from typing import Annotated

from fastapi import Path, Query
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page_in_time
from api.asking import AskedOfBusiness, in_business
from api.inputs import Since, Until
from api.outputs import Page
from api.routers import router_of
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.reading.invoices import ListedInvoice, find_invoice, list_invoices
from pipeline.reading.period_money import PeriodInvoice, read_charges

router = router_of("invoices", "/businesses/{business_id:id}/invoices")

Reads = Annotated[AskedOfBusiness, in_business("billing:read")]
InvoiceId = Annotated[str, Path(pattern=r"^in_[0-9A-Za-z_]{1,250}$")]


@router.get("", response_model=Page[ListedInvoice])
def list_all(
    asked: Reads,
    status: Annotated[InvoiceStatus | None, Query(description="As Stripe calls it.")] = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Its invoices, the newest first."""
    return page_in_time(
        lambda before, rows: list_invoices(
            asked.connection, asked.business_id, status, before, rows, since=since, until=until
        ),
        lambda invoice: (invoice.created_at, invoice.id),
        limit=limit,
        cursor=cursor,
        filters=["invoices", asked.business_id, status, since, until],
    )


@router.get("/{invoice_id}", response_model=PeriodInvoice)
def show(invoice_id: InvoiceId, asked: Reads) -> Response:
    """One invoice, line by line."""
    asked.own(find_invoice(asked.connection, invoice_id), "this invoice")
    return Json(read_charges(asked.connection, invoice_id))
