"""Stored webhook events, for Altiora's staff: what each said, how it ended, and what is to become of it."""

from typing import Annotated, Final, Literal

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, needs
from api.inputs import Id, Input, OwnId, Reason
from api.outputs import EventShown, Page, Replayed, Status
from api.problems import Problem, missing
from api.routers import router_of
from api.routes.operations import OfBusiness
from pipeline.events import fetch_requests, queue
from pipeline.events.outcomes import EventState
from pipeline.reading.events import ListedEvent, businesses_of, ended_events, list_events, read_event

router = router_of("operations", "/webhook-events")

Reads = Annotated[Asked, needs("operations:read")]
Acts = Annotated[Asked, needs("operations:write")]

#: Events that are applied again by one request: few enough for no worker to wait long.
_BATCH: Final = 5_000

_BEGINS: Final = {
    "call": "CA",
    "customer": "cus_",
    "subscription": "sub_",
    "invoice": "in_",
    "price": "price_",
    "meter": "mtr_",
}

_Reason = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class WantedObject(Input):
    """What is to be fetched again from Stripe or Twilio: a call by its SID, anything else by Stripe's id."""

    kind: Literal["call", "customer", "subscription", "invoice", "price", "meter"]
    object_id: Annotated[
        str, Field(pattern=r"^(CA[0-9a-f]{32}|(cus|sub|in|price|mtr)_[A-Za-z0-9_]{1,250})$", examples=["cus_Nff7"])
    ]
    reason: Reason


class WantedReplay(Input):
    """Which events: by ``ids``, or all that ended in a ``state`` or for a ``reason`` (or its first word)."""

    ids: Annotated[list[OwnId], Field(max_length=500)] = Field(default_factory=list)
    state: Literal[EventState.DEAD, EventState.IGNORED] | None = None
    reason: _Reason | None = None


class WantedDismissal(Input):
    """Why nothing is lost by it."""

    reason: Reason


@router.get("", response_model=Page[ListedEvent])
def list_all(
    asked: Reads,
    state: Annotated[EventState | None, Query(description="Only those in this state.")] = None,
    reason: Annotated[
        _Reason | None, Query(description="Only those that ended, or wait, for it or its first word.")
    ] = None,
    call: Annotated[
        str | None, Query(pattern=r"^[A-Z]{2}[0-9a-f]{32}$", description="Only those of this call.")
    ] = None,
    whose: OfBusiness = None,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Stored events without their bodies, the newest first."""
    return page(
        lambda before, rows: list_events(
            asked.connection, state, rows, reason=reason, call=call, business_id=whose, before=before
        ),
        lambda event: event.id,
        lambda event: event,
        limit=limit,
        cursor=cursor,
        filters=[state, reason, call, whose],
    )


@router.post("", status_code=202, response_model=Status)
def fetch_again(body: WantedObject, asked: Acts) -> Response:
    """Have it fetched again from whoever owns it: what it says comes in as an event, or into the mirror."""
    if not body.object_id.startswith(_BEGINS[body.kind]):
        invalid = [("object_id", f"that of a {body.kind} begins with {_BEGINS[body.kind]}")]
        raise Problem(422, "invalid", "see invalid_parameters", invalid=invalid)
    fetch_requests.request_fetch(asked.connection, body.kind, body.object_id, "wanted")
    asked.note("fetch", f"{body.kind}:{body.object_id}", reason=body.reason)
    return Json({"status": "it is fetched within a minute"}, 202)


@router.post("/replays", response_model=Replayed)
def replay(body: WantedReplay, asked: Acts) -> Response:
    """Let ended events be applied again: what they did already is not done twice. At most 5,000 at a time."""
    if bool(body.ids) == bool(body.state or body.reason):
        invalid = [("body", "say which events: ids, or a state, or a reason")]
        raise Problem(422, "invalid", "see invalid_parameters", invalid=invalid)
    found = sorted(set(body.ids)) or ended_events(asked.connection, body.reason, body.state)
    found, left = found[:_BATCH], len(found[_BATCH:])
    about = businesses_of(asked.connection, found)
    asked.see_others(*{whose for _, whose in about})
    done = queue.replay(asked.connection, found)
    if body.ids and len(done) < len(found):
        known = {each.id for each in done}
        others = ", ".join(str(each) for each in found if each not in known)
        raise Problem(409, "conflict", f"nothing was replayed: {others} is not there, or waits already")
    queue.note_replayed(
        asked.connection,
        asked.actor.who,
        "events replay",
        done,
        businesses=dict(about),
        by_right=asked.right,
        request_id=asked.request_id,
    )
    return Json({"replayed": len(done), "left": left})


@router.get("/{event_id:id}", response_model=EventShown)
def show(event_id: Id, asked: Reads) -> Response:
    """One event, with what it said."""
    event = read_event(asked.connection, event_id)
    if event is None:
        raise missing("this event")
    for _, whose in businesses_of(asked.connection, [event_id]):
        asked.note("calls read", f"business:{whose}", business_id=whose)
    shown = {name: getattr(event, name) for name in EventShown.model_fields}
    try:
        return Json(shown)
    except TypeError:  # numbers beyond 64 bits, half a character: it is shown as it came
        return Json(shown | {"said": event.body.decode("utf-8", "backslashreplace")})


@router.post("/{event_id:id}/dismissals", response_model=Status)
def dismiss(event_id: Id, body: WantedDismissal, asked: Acts) -> Response:
    """Be done with a dead event that nobody needs; a replay undoes it."""
    if read_event(asked.connection, event_id) is None:
        raise missing("this event")
    businesses = [whose for _, whose in businesses_of(asked.connection, [event_id])]
    asked.see_others(*businesses)
    if not queue.dismiss(asked.connection, event_id):
        raise Problem(409, "conflict", "only a dead event can be dismissed")
    # Why is Altiora's to know: the words may name others.
    asked.note("events dismiss", f"event:{event_id}", reason=body.reason)
    for whose in businesses:
        asked.note("events dismiss", f"event:{event_id}", business_id=whose)
    return Json({"status": "it is done with"})
