"""The audit trail: of a business to who runs it, and all of it to staff."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, needs
from api.idempotency import Route
from api.inputs import Id
from api.outputs import EntryShown, Page
from pipeline.reading.audit import list_entries

router = APIRouter(route_class=Route, tags=["audit entries"])

Reads = Annotated[Asked, Depends(needs("audit:read"))]


@router.get("/businesses/{business_id}/audit-entries", response_model=Page[EntryShown])
def list_of_business(
    business_id: Id,
    asked: Reads,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Who did what in a business, the newest first."""
    return _page(asked, business_id, limit, cursor)


@router.get("/audit-entries", response_model=Page[EntryShown])
def list_all(
    asked: Reads,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Who did what anywhere, the newest first."""
    return _page(asked, None, limit, cursor)


def _page(asked: Asked, business_id: int | None, limit: int, cursor: str | None) -> Json:
    return page(
        lambda before, rows: list_entries(asked.connection, business_id, rows, before),
        lambda entry: entry.id,
        lambda entry: entry,
        limit=limit,
        cursor=cursor,
        filters=business_id,
    )
