"""The audit trail: of a business to who runs it, and all of it to staff."""

from typing import Annotated

from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, AskedOfBusiness, in_business, needs
from api.outputs import EntryShown, Page
from api.routers import router_of
from pipeline.reading.audit import list_entries

router = router_of("audit entries", "")

Reads = Annotated[AskedOfBusiness, in_business("audit:read")]
ReadsAll = Annotated[Asked, needs("audit:read")]


@router.get("/businesses/{business_id:id}/audit-entries", response_model=Page[EntryShown])
def list_of_business(
    asked: Reads,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Who did what in a business, the newest first."""
    return _page(asked, limit, cursor)


@router.get("/audit-entries", response_model=Page[EntryShown])
def list_all(
    asked: ReadsAll,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Who did what anywhere, the newest first."""
    return _page(asked, limit, cursor)


def _page(asked: Asked, limit: int, cursor: str | None) -> Json:
    return page(
        lambda before, rows: list_entries(asked.connection, asked.business_id, rows, before),
        lambda entry: entry.id,
        lambda entry: entry,
        limit=limit,
        cursor=cursor,
        filters=asked.business_id,
    )
