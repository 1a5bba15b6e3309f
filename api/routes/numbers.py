"""The numbers of a business: which agent answers each."""

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Json, Limit
from api.asking import Asked, AskedOfBusiness, in_business, needs
from api.inputs import E164, Input, Instant, Label, Number, OwnId, Q, Reason
from api.outputs import NumberShown, Page
from api.problems import missing
from api.routers import router_of
from pipeline.businesses import registration
from pipeline.businesses.registration import NumberHeld
from pipeline.reading.numbers import (
    FreeNumber,
    HeldNumber,
    KnownNumber,
    free_numbers_like,
    know_number,
    list_numbers,
    read_number,
)
from pipeline.shared.clock import business_clock

router = router_of("numbers", "/businesses/{business_id:id}")
staff_router = router_of("numbers", "/numbers")

Reads = Annotated[AskedOfBusiness, in_business("numbers:read")]
Writes = Annotated[AskedOfBusiness, in_business("numbers:write")]
Holds = Annotated[AskedOfBusiness, in_business("numbers:hold")]
Knows = Annotated[Asked, needs("numbers:read")]
Moves = Annotated[Asked, needs("numbers:move", proven=True)]


class ChangedNumber(Input):
    """What of a number may be changed; what is not named stays. ``agent_id`` null: nobody answers it."""

    agent_id: OwnId | None = None
    label: Label | None = None


class TakenNumber(Input):
    """A number that can be had, and which agent answers it."""

    number: E164
    agent_id: OwnId | None = None
    label: Label = ""


class MovedNumber(Input):
    """To which business, from when on (left out: from now on), and why.

    ``confirm`` names the business that holds it, from which it is taken; null where nobody does.
    """

    business_id: OwnId
    confirm: OwnId | None
    since: Annotated[Instant | None, Field(alias="from")] = None
    reason: Reason


@router.get("/available-numbers", response_model=Page[FreeNumber])
def list_available(asked: Reads, q: Q = "", limit: Limit = USUAL_LIMIT) -> Response:
    """Numbers that can be had, in order; ``q`` is a part of them, since no more than a page is shown."""
    found = free_numbers_like(asked.connection, q, business_clock().now(), limit)
    return Json({"data": found, "next_cursor": None})


@router.post("/numbers", status_code=201, response_model=NumberShown)
def take(body: TakenNumber, asked: Holds) -> Response:
    """Take a number that can be had, from now on, if the plan allows another one."""
    asked.see_living()
    now = business_clock().now()
    registration.take_number(asked.connection, asked.business_id, body.number, now)
    registration.describe_number(asked.connection, asked.business_id, body.number, body.agent_id, body.label, now)
    asked.note("number take", f"business:{asked.business_id}", detail={"number": body.number})
    location = f"/v1/businesses/{asked.business_id}/numbers/{body.number}"
    return Json(_one(asked, body.number), 201, {"Location": location})


@router.delete("/numbers/{number}", status_code=204)
def release(number: Number, asked: Holds) -> Response:
    """Let a number go, from now on. Calls of before stay; somebody else can have it in thirty days."""
    asked.see_living()
    _one(asked, number)
    registration.remove_number(asked.connection, asked.business_id, number, business_clock().now())
    asked.note("number release", f"business:{asked.business_id}", detail={"number": number})
    return Response(status_code=204)


@staff_router.get("/{number}", response_model=KnownNumber)
def know(number: Number, asked: Knows) -> Response:
    """A number, and all who ever held it."""
    found = know_number(asked.connection, number)
    if found is None:
        raise missing("this number")
    return Json(found)


@staff_router.post("/{number}/moves", response_model=NumberHeld)
def move(number: Number, body: MovedNumber, asked: Moves) -> Response:
    """Give a number to a business, or take it from the one that ``confirm`` names. Calls of before stay where they are.

    Calls from then on that were counted for the former one stay there, and are told as ``counted_before``.
    """
    asked.see_others(body.business_id, body.confirm)
    if know_number(asked.connection, number) is None:
        raise missing("this number")
    held = registration.add_number(
        asked.connection,
        body.business_id,
        number,
        body.since,
        business_clock().now(),
        from_business_id=body.confirm,
    )
    # From whom, and why, is Altiora's to know: the one business is not told of the other.
    moved = {"from": held.former_business_id, "to": body.business_id}
    asked.note("number move", f"number:{number}", reason=body.reason, detail=moved)
    for whose in filter(None, (held.former_business_id, body.business_id)):
        asked.note("number move", f"business:{whose}", business_id=whose, detail={"number": number})
    return Json(held)


@router.get("/numbers", response_model=Page[NumberShown])
def list_all(asked: Reads, q: Q = "") -> Response:
    """Its numbers, in order; a business has as many as its plan allows."""
    return Json({"data": list_numbers(asked.connection, asked.business_id, q), "next_cursor": None})


@router.get("/numbers/{number}", response_model=NumberShown)
def show(number: Number, asked: Reads) -> Response:
    """One number."""
    return Json(_one(asked, number))


@router.patch("/numbers/{number}", response_model=NumberShown)
def change(number: Number, body: ChangedNumber, asked: Writes) -> Response:
    """Have another agent answer from now on, or call the number otherwise."""
    asked.see_living()
    present = _one(asked, number)
    given = body.model_fields_set
    agent_id = body.agent_id if "agent_id" in given else present.agent_id
    label = present.label if body.label is None else body.label
    now = business_clock().now()
    registration.describe_number(asked.connection, asked.business_id, number, agent_id, label, now)
    asked.note("number change", f"business:{asked.business_id}", fields=sorted(given), detail={"number": number})
    return Json(_one(asked, number))


def _one(asked: AskedOfBusiness, number: str) -> HeldNumber:
    return asked.own(read_number(asked.connection, number), "this number")
