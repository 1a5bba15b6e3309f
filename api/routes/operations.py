"""What waits, for Altiora's staff: the backlog, what Stripe is told, and what each period brings in and costs."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import Query
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, needs
from api.inputs import Since, Until
from api.outputs import BacklogShown, Page
from api.routers import router_of
from pipeline.meter.push_states import PushState
from pipeline.reading.backlog import backlog
from pipeline.reading.period_money import MonthRow, month_rows
from pipeline.reading.pushes import MeterPush, list_pushes
from pipeline.shared.clock import business_clock

router = router_of("operations", "")

Reads = Annotated[Asked, needs("operations:read")]
ReadsMargins = Annotated[Asked, needs("margins:read")]
OfBusiness = Annotated[int | None, Query(alias="business_id", ge=1, le=2**63 - 1, description="Only of this business.")]


@router.get("/backlog", response_model=Page[BacklogShown])
def show_backlog(asked: Reads) -> Response:
    """What is stored and not done yet, by kind, and how old the oldest is."""
    rows = backlog(asked.connection, business_clock().now())
    shown = [
        {"kind": row.kind, "count": row.count, "oldest_seconds": row.oldest_seconds, "overdue": row.overdue}
        for row in rows
    ]
    return Json({"data": shown, "next_cursor": None})


@router.get("/meter-pushes", response_model=Page[MeterPush])
def list_meter_pushes(
    asked: Reads,
    state: Annotated[PushState | None, Query(description="Only those in this state.")] = None,
    whose: OfBusiness = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """What Stripe is told and was told, the newest first."""
    return page(
        lambda before, rows: list_pushes(
            asked.connection, state=state, business_id=whose, since=since, until=until, before=before, limit=rows
        ),
        lambda push: push.id,
        lambda push: push,
        limit=limit,
        cursor=cursor,
        filters=["meter-pushes", state, whose, since, until],
    )


@router.get("/margins", response_model=Page[MonthRow])
def list_margins(
    asked: ReadsMargins,
    month: Annotated[
        str, Query(pattern=r"^20[0-9]{2}-(0[1-9]|1[0-2])$", description="Periods that begin in it, by UTC: 2026-11.")
    ],
    whose: OfBusiness = None,
) -> Response:
    """What each period brings in, and what Twilio charged for its calls; by business."""
    start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    end = (start + timedelta(days=32)).replace(day=1)
    return Json({"data": month_rows(asked.connection, start, end, whose), "next_cursor": None})
