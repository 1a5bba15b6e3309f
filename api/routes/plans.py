"""The plans: those that are sold to everybody, all of them to staff."""

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from api.answers import Json
from api.asking import Asked, anybody, engine_of, needs
from api.outputs import Page
from api.routers import router_of
from pipeline.reading.plans import ListedPlan, SoldPlan, list_plans, sold_plans

router = router_of("plans", "/plans")

Reads = Annotated[Asked, needs("plans:read")]


@router.get("", response_model=Page[SoldPlan], dependencies=[anybody()])
def list_sold(request: Request) -> Response:
    """The plans that can be had."""
    with engine_of(request).connect() as connection:
        return Json({"data": sold_plans(connection), "next_cursor": None})


@router.get("/all", response_model=Page[ListedPlan])
def list_all(asked: Reads) -> Response:
    """Every plan, retired ones too, with who is on it and Stripe's prices that stand for it."""
    return Json({"data": list_plans(asked.connection), "next_cursor": None})
