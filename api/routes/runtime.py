"""What the phone platform asks and tells, with its service key, over all businesses."""

from typing import Annotated

from fastapi import Header
from pydantic import Field
from starlette.responses import Response

from api.answers import Json
from api.asking import Asked, needs
from api.inputs import CallSid, Input, Instant, Language, Number, Text
from api.outputs import Appended, RuntimeShown
from api.problems import missing
from api.routers import router_of
from pipeline.calls import transcripts
from pipeline.calls.transcripts import MOST_AT_ONCE, MOST_MESSAGES, Message, Speaker
from pipeline.reading.runtime import read_runtime
from pipeline.shared.clock import business_clock

router = router_of("phone platform", "/runtime")

Reads = Annotated[Asked, needs("runtime:read")]
Writes = Annotated[Asked, needs("transcripts:write")]


class NewMessage(Input):
    """What was said, and in which place: 0 is said first."""

    position: Annotated[int, Field(ge=0, lt=MOST_MESSAGES, strict=True)]
    speaker: Speaker
    content: Text
    said_at: Instant | None = None
    language: Language | None = None


class NewMessages(Input):
    """Some of what was said in a call."""

    messages: Annotated[list[NewMessage], Field(min_length=1, max_length=MOST_AT_ONCE)]


@router.get("/numbers/{number}", response_model=RuntimeShown)
def show_number(
    number: Number,
    asked: Reads,
    known: Annotated[
        str | None, Header(alias="If-None-Match", max_length=1_000, description="The `ETag` of what you have.")
    ] = None,
) -> Response:
    """Who answers a number, and how. With ``If-None-Match`` 304 while that is as it was."""
    found = read_runtime(asked.connection, number, business_clock().now())
    if found is None:
        raise missing("this number")
    answer = Json(found)
    if known == answer.etag:
        return Response(status_code=304, headers={"ETag": answer.etag})
    return answer


@router.post("/calls/{sid}/messages", response_model=Appended)
def append(sid: CallSid, body: NewMessages, asked: Writes) -> Response:
    """Add to a call's transcript. What is sent again is there once; a call that is not known yet is a 409."""
    messages = [
        Message(each.position, each.speaker, each.content, each.said_at, each.language) for each in body.messages
    ]
    appended = transcripts.append_messages(asked.connection, sid, messages)
    if appended:
        asked.note("transcript append", f"call:{sid}", detail={"messages": appended})
    return Json({"appended": appended})
