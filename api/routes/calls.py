"""The calls of a business: as pages, as CSV, and each with why it costs what it costs."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import astuple, fields
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from sqlalchemy import Connection
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page_in_time
from api.asking import Asked, AskedOfBusiness, in_business, needs
from api.attachments import Csv
from api.inputs import CallSid, Instant, Q
from api.outputs import CallShown, Page
from api.problems import missing
from api.routers import router_of
from pipeline.providers.twilio_words import CallStatus
from pipeline.reading.call_explanation import CallExplanation, explain_call
from pipeline.reading.calls import CallFilter, ListedCall, list_calls, read_call
from pipeline.reading.csv_tables import csv_lines
from pipeline.shared.rows import NEWEST_INSTANT

router = router_of("calls", "/businesses/{business_id:id}")
staff_router = router_of("calls", "/calls")

Reads = Annotated[AskedOfBusiness, in_business("calls:read")]
Finds = Annotated[Asked, needs("calls:read")]
#: Calls of a CSV that are read at a time, each time in a transaction of its own.
_BATCH: Final = 5_000


async def _which(
    since: Annotated[Instant | None, Query(alias="from", description="Began then or later.")] = None,
    until: Annotated[Instant | None, Query(alias="to", description="Began before.")] = None,
    number: Annotated[str | None, Query(max_length=16, pattern=r"^\+[0-9]*$")] = None,
    agent_id: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    status: Annotated[CallStatus | None, Query(description="As Twilio calls it.")] = None,
    usage_record_id: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Those in this period.")] = None,
    counted: Annotated[bool | None, Query(description="Those that are counted, or are not.")] = None,
    q: Q = "",
) -> CallFilter:
    return CallFilter(since, until, number, agent_id, status, usage_record_id, counted, q)


Which = Annotated[CallFilter, Depends(_which)]


@router.get("/calls", response_model=Page[CallShown])
def list_all(asked: Reads, which: Which, limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """Its calls, the newest first. ``q`` is a SID, or part of a number that called or was called."""
    tell(asked)
    return page_in_time(
        lambda before, rows: list_calls(asked.connection, asked.business_id, which, before, rows),
        lambda call: (call.started_at, call.sid),
        limit=limit,
        cursor=cursor,
        filters=[asked.business_id, which],
    )


@router.get("/calls.csv", response_class=Csv)
def list_as_csv(asked: Reads, which: Which) -> Response:
    """All of them for a spreadsheet, however many, the newest first."""
    tell(asked)
    return Csv(_lines(asked.again, asked.business_id, which), "calls.csv")


@router.get("/calls/{sid}", response_model=CallShown)
def show(sid: CallSid, asked: Reads) -> Response:
    """One call leg."""
    call = asked.own(read_call(asked.connection, sid), "this call")
    tell(asked)
    return Json(call)


@router.get("/calls/{sid}/explanation", response_model=CallExplanation)
def explain(request: Request, sid: CallSid, asked: Reads) -> Response:
    """Why it costs what it costs: what became of it, its rounding, its place in its period, and the events behind."""
    asked.own(read_call(asked.connection, sid), "this call")
    tell(asked)
    return Json(explain_call(asked.connection, sid, bill_child_legs=request.app.state.bill_child_legs))


@staff_router.get("/{sid}", response_model=CallShown)
def find(sid: CallSid, asked: Finds) -> Response:
    """One call leg, whosever it is, for Altiora's staff."""
    call = read_call(asked.connection, sid)
    if call is None:
        raise missing("this call")
    if (whose := call.business_id) is not None:
        asked.note("calls read", f"business:{whose}", business_id=whose)
    return Json(call)


def tell(asked: AskedOfBusiness) -> None:
    """Whoever works for Altiora and looks at somebody's calls leaves an entry that they see."""
    if asked.by_altiora:
        asked.note("calls read", f"business:{asked.business_id}")


def _lines(
    begin: Callable[[], AbstractContextManager[Connection]], business_id: int, which: CallFilter
) -> Iterator[str]:
    """No transaction stays open while a part is sent, however slowly it is taken."""
    yield csv_lines([[field.name for field in fields(ListedCall)]])
    before = NEWEST_INSTANT
    while True:
        with begin() as connection:
            calls = list_calls(connection, business_id, which, before, _BATCH)
        if calls:
            yield csv_lines(map(astuple, calls))
        if len(calls) < _BATCH:
            return
        before = (calls[-1].started_at.isoformat(), calls[-1].sid)
