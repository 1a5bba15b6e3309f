"""The audit trail: of a business to who runs it, and all of it to staff."""

from datetime import datetime
from typing import Annotated

from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, AskedOfBusiness, in_business, needs
from api.inputs import Since, Until
from api.outputs import EntryShown, Page
from api.routers import router_of
from pipeline.reading.audit import list_entries

router = router_of("audit entries", "")

Reads = Annotated[AskedOfBusiness, in_business("audit:read")]
ReadsAll = Annotated[Asked, needs("audit:read")]


@router.get("/businesses/{business_id:id}/audit-entries", response_model=Page[EntryShown])
def list_of_business(
    asked: Reads,
    since: Since = None,
    until: Until = None,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Who did what in a business, the newest first."""
    return _page(asked, since, until, limit, cursor)


@router.get("/audit-entries", response_model=Page[EntryShown])
def list_all(
    asked: ReadsAll,
    since: Since = None,
    until: Until = None,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Who did what anywhere, the newest first."""
    return _page(asked, since, until, limit, cursor)


def _page(asked: Asked, since: datetime | None, until: datetime | None, limit: int, cursor: str | None) -> Json:
    return page(
        lambda before, rows: list_entries(asked.connection, asked.business_id, rows, before, since=since, until=until),
        lambda entry: entry.id,
        lambda entry: entry,
        limit=limit,
        cursor=cursor,
        filters=["audit-entries", asked.business_id, since, until],
    )
