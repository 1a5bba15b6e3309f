"""What was said in the calls of a business: to read, to redact, and to erase."""

from typing import Annotated

from fastapi import Path
from starlette.responses import Response

from api.answers import Json
from api.asking import AskedOfBusiness, in_business
from api.inputs import CallSid
from api.outputs import MessageShown, Page
from api.problems import missing
from api.routers import router_of
from api.routes.calls import tell
from pipeline.calls import transcripts
from pipeline.reading.calls import read_call
from pipeline.reading.transcripts import read_transcript

router = router_of("calls", "/businesses/{business_id:id}/calls/{sid}/transcript")

Reads = Annotated[AskedOfBusiness, in_business("transcripts:read")]
Erases = Annotated[AskedOfBusiness, in_business("transcripts:erase", proven=True)]

Position = Annotated[int, Path(ge=0, le=2**31 - 1)]


@router.get("", response_model=Page[MessageShown])
def show(sid: CallSid, asked: Reads) -> Response:
    """All that was said, in order."""
    _see(asked, sid)
    tell(asked)
    return Json({"data": read_transcript(asked.connection, sid), "next_cursor": None})


@router.delete("/{position:id}", status_code=204)
def redact(sid: CallSid, position: Position, asked: Erases) -> Response:
    """Take out for good what was said in one place; that something was said there stays."""
    _see(asked, sid)
    if not any(each.position == position for each in read_transcript(asked.connection, sid)):
        raise missing("this message")
    if transcripts.redact_message(asked.connection, sid, position):
        asked.note("transcript redact", f"call:{sid}", fields=["content"], detail={"position": position})
    return Response(status_code=204)


@router.delete("", status_code=204)
def erase(sid: CallSid, asked: Erases) -> Response:
    """Take out for good all that was said so far; sent again, it stays out. The call and what it costs stay."""
    _see(asked, sid)
    erased = transcripts.erase_transcript(asked.connection, sid)
    if erased:
        asked.note("transcript erase", f"call:{sid}", fields=["content"], detail={"messages": erased})
    return Response(status_code=204)


def _see(asked: AskedOfBusiness, sid: str) -> None:
    asked.own(read_call(asked.connection, sid), "this call")
