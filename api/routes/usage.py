"""What a business used: by period, taken apart down to the call; by day, agent and number; and as CSV."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import Query, Request
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page_in_time
from api.asking import AskedOfBusiness, in_business
from api.attachments import Csv
from api.inputs import Id, Instant
from api.outputs import Page
from api.problems import Problem, missing
from api.routers import router_of
from api.routes.calls import tell
from pipeline.reading import explanation
from pipeline.reading.csv_tables import csv_lines
from pipeline.reading.explanation import Explanation, Figure
from pipeline.reading.usage import UsedPeriod, list_used, read_used
from pipeline.reading.usage_breakdown import By, UsedPart, read_breakdown

router = router_of("usage", "/businesses/{business_id:id}")

Reads = Annotated[AskedOfBusiness, in_business("usage:read")]
ReadsCalls = Annotated[AskedOfBusiness, in_business("calls:read")]
_LONGEST: Final = timedelta(days=400)


@router.get("/usage-records", response_model=Page[UsedPeriod])
def list_all(asked: Reads, limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """Its billing periods, the newest first."""
    return page_in_time(
        lambda before, rows: list_used(asked.connection, asked.business_id, began_before=before[0], limit=rows),
        lambda period: (period.period_start, ""),
        limit=limit,
        cursor=cursor,
        filters=["usage-records", asked.business_id],
    )


@router.get("/usage-records/{record_id:id}", response_model=UsedPeriod)
def show(record_id: Id, asked: Reads) -> Response:
    """One billing period."""
    return Json(used_period(asked, record_id))


@router.get("/usage-records/{record_id:id}/explanation", response_model=Explanation)
def explain(
    request: Request,
    record_id: Id,
    asked: ReadsCalls,
    figure: Annotated[Figure | None, Query(description="Only this figure.")] = None,
    limit: Annotated[
        int, Query(ge=0, le=200, description="List so many counted calls, and as many others; the rest under calls.")
    ] = 20,
) -> Response:
    """A period taken apart: its bounds, sums that add up, calls and their events, carried minutes, pushes, invoice.

    The invoice is shown to who may see invoices.
    """
    used_period(asked, record_id)
    tell(asked)
    told = explanation.explain(
        asked.connection, record_id, limit=limit, bill_child_legs=request.app.state.bill_child_legs, figure=figure
    )
    if not asked.may("billing:read"):
        told = replace(told, invoice=None, money=None if told.money is None else replace(told.money, invoice=None))
    return Json(told)


@router.get("/usage", response_model=Page[UsedPart])
def break_down(
    asked: Reads,
    since: Annotated[Instant, Query(alias="from", description="Calls that ended then or later.")],
    until: Annotated[Instant, Query(alias="to", description="And before then, at most 400 days later.")],
    by: By = By.DAY,
) -> Response:
    """What is counted, by local day, by agent, or by number."""
    return Json({"data": _parts(asked, by, since, until), "next_cursor": None})


@router.get("/usage.csv", response_class=Csv)
def break_down_as_csv(
    asked: Reads,
    since: Annotated[Instant, Query(alias="from", description="Calls that ended then or later.")],
    until: Annotated[Instant, Query(alias="to", description="And before then, at most 400 days later.")],
    by: By = By.DAY,
) -> Response:
    """The same for a spreadsheet."""
    agents = ["agent_id"] if by is By.AGENT else []
    head = [by.value, *agents, "calls", "seconds", "minutes"]
    rows = [
        [each.part, *([each.agent_id] if agents else []), each.calls, each.seconds, each.minutes]
        for each in _parts(asked, by, since, until)
    ]
    return Csv([csv_lines([head, *rows])], f"usage-by-{by}.csv")


def used_period(asked: AskedOfBusiness, record_id: int) -> UsedPeriod:
    """The period with this id, if it is of this business. Raises Problem (404)."""
    found = read_used(asked.connection, asked.business_id, record_id)
    if found is None:
        raise missing("this usage record")
    return found


def _parts(asked: AskedOfBusiness, by: By, since: datetime, until: datetime) -> Sequence[UsedPart]:
    if not timedelta(0) < until - since <= _LONGEST:
        invalid = [("to", "later than from, and at most 400 days")]
        raise Problem(422, "invalid", "see invalid_parameters", invalid=invalid)
    return read_breakdown(asked.connection, asked.business_id, by, since, until)
