"""The numbers of a business: which agent answers each."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from api.answers import Json
from api.asking import AskedOfBusiness, in_business
from api.idempotency import Route
from api.inputs import Input, Label, Number, Q
from api.outputs import NumberShown, Page
from pipeline.businesses import registration
from pipeline.reading.numbers import HeldNumber, list_numbers, read_number
from pipeline.shared.clock import business_clock

router = APIRouter(route_class=Route, prefix="/businesses/{business_id:int}/numbers", tags=["numbers"])

Reads = Annotated[AskedOfBusiness, in_business("numbers:read")]
Writes = Annotated[AskedOfBusiness, in_business("numbers:write")]


class ChangedNumber(Input):
    """What of a number may be changed; what is not named stays. ``agent_id`` null: nobody answers it."""

    agent_id: Annotated[int, Field(ge=1, le=2**63 - 1, strict=True)] | None = None
    label: Label | None = None


@router.get("", response_model=Page[NumberShown])
def list_all(asked: Reads, q: Q = "") -> Response:
    """Its numbers, in order; a business has as many as its plan allows."""
    return Json({"data": list_numbers(asked.connection, asked.business_id, q), "next_cursor": None})


@router.get("/{number}", response_model=NumberShown)
def show(number: Number, asked: Reads) -> Response:
    """One number."""
    return Json(_one(asked, number))


@router.patch("/{number}", response_model=NumberShown)
def change(number: Number, body: ChangedNumber, asked: Writes) -> Response:
    """Have another agent answer from now on, or call the number otherwise."""
    asked.see_living()
    present = _one(asked, number)
    given = body.model_fields_set
    agent_id = body.agent_id if "agent_id" in given else present.agent_id
    label = present.label if body.label is None else body.label
    now = business_clock().now()
    registration.describe_number(asked.connection, asked.business_id, number, agent_id, label, now)
    asked.note("number change", f"business:{asked.business_id}", fields=sorted(given))
    return Json(_one(asked, number))


def _one(asked: AskedOfBusiness, number: str) -> HeldNumber:
    return asked.own(read_number(asked.connection, number), "this number")
