"""The calls of a business."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page_in_time
from api.asking import AskedOfBusiness, in_business
from api.idempotency import Route
from api.inputs import CallSid, Instant, Q
from api.outputs import CallShown, Page
from pipeline.providers.twilio_words import CallStatus
from pipeline.reading.calls import NEWEST_CALL, CallFilter, list_calls, read_call

router = APIRouter(route_class=Route, prefix="/businesses/{business_id:int}/calls", tags=["calls"])

Reads = Annotated[AskedOfBusiness, in_business("calls:read")]


@router.get("", response_model=Page[CallShown])
def list_all(
    asked: Reads,
    since: Annotated[Instant | None, Query(alias="from", description="Began then or later.")] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Began before.")] = None,
    number: Annotated[str | None, Query(max_length=16, pattern=r"^\+[0-9]*$")] = None,
    agent_id: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    status: Annotated[CallStatus | None, Query(description="As Twilio calls it.")] = None,
    q: Q = "",
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Its calls, the newest first. ``q`` is a SID, or part of a number that called or was called."""
    which = CallFilter(since, until, number, agent_id, status, q)
    tell(asked)
    return page_in_time(
        lambda before, rows: list_calls(asked.connection, asked.business_id, which, before, rows),
        lambda call: (call.started_at, call.sid),
        NEWEST_CALL,
        limit=limit,
        cursor=cursor,
        filters=[asked.business_id, which],
    )


@router.get("/{sid}", response_model=CallShown)
def show(sid: CallSid, asked: Reads) -> Response:
    """One call leg."""
    call = asked.own(read_call(asked.connection, sid), "this call")
    tell(asked)
    return Json(call)


def tell(asked: AskedOfBusiness) -> None:
    """Whoever works for Altiora and looks at somebody's calls leaves an entry that they see."""
    if asked.by_altiora:
        asked.note("calls read", f"business:{asked.business_id}")
