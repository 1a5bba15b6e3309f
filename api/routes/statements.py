"""What was frozen when the periods of a business were closed: as figures, as a page to print, and whether it holds."""

from typing import Annotated

from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page_in_time
from api.asking import AskedOfBusiness, in_business
from api.attachments import HtmlFile
from api.inputs import Id
from api.outputs import Page, StatementShown
from api.problems import Problem
from api.routers import router_of
from api.routes.calls import tell
from api.routes.usage import used_period
from pipeline.closing.statement import Statement
from pipeline.reading import statement_check, statement_page
from pipeline.reading.period_money import period_money
from pipeline.reading.statement_check import Verification
from pipeline.reading.statement_page import Breakdown
from pipeline.reading.usage import UsedPeriod, list_used
from pipeline.usage.records import RecordState

router = router_of("statements", "/businesses/{business_id:id}/statements")

Reads = Annotated[AskedOfBusiness, in_business("billing:read")]


@router.get("", response_model=Page[UsedPeriod])
def list_all(asked: Reads, limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """Its closed periods, the newest first: each has a statement under its id."""
    return page_in_time(
        lambda before, rows: list_used(
            asked.connection, asked.business_id, began_before=before[0], state=RecordState.CLOSED, limit=rows
        ),
        lambda period: (period.period_start, ""),
        limit=limit,
        cursor=cursor,
        filters=["statements", asked.business_id],
    )


@router.get("/{record_id:id}", response_model=StatementShown)
def show(record_id: Id, asked: Reads) -> Response:
    """A statement as it was frozen, and what the period comes to by now."""
    frozen = _frozen(asked, record_id)
    (money,) = period_money(asked.connection, [record_id])
    return Json({"usage_record_id": record_id, "statement": frozen, "money": money})


@router.get("/{record_id:id}/page", response_class=HtmlFile)
def print_page(record_id: Id, asked: Reads) -> Response:
    """The statement as a page of one file, which a browser prints on A4 or as a PDF."""
    frozen = _frozen(asked, record_id)
    days = statement_check.calls_by_day(asked.connection, record_id, frozen["business"]["time_zone"])
    numbers = statement_check.calls_by_number(asked.connection, record_id)
    (money,) = period_money(asked.connection, [record_id])
    page = statement_page.page(record_id, frozen, Breakdown(days, numbers), money)
    return HtmlFile(page, f"statement-{asked.business_id}-{record_id}.html")


@router.get("/{record_id:id}/verification", response_model=Verification)
def verify(record_id: Id, asked: Reads) -> Response:
    """Hash the calls anew: ``counted`` is ``frozen`` while they are what was billed; ``since`` came later."""
    frozen = _frozen(asked, record_id)
    tell(asked)
    return Json(statement_check.verify_statement(asked.connection, record_id, frozen["calls_sha256"]))


def _frozen(asked: AskedOfBusiness, record_id: int) -> Statement:
    state = used_period(asked, record_id).state
    frozen = statement_check.read_statement(asked.connection, record_id).statement
    if frozen is None:
        raise Problem(409, "not-yet", f"this period is {state}: its statement is frozen when it closes")
    if not asked.by_altiora:  # what Twilio charged, and what is nobody's, is Altiora's to know
        frozen.pop("cost", None)
        frozen.pop("dead_of_nobody", None)
    return frozen
