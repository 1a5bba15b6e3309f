"""How a resource's routes are put together.

Each router has its whole address, and its routes are handed to the application as they are: what ``include_router``
gives is matched through every router, twice (half of a request's time with some hundred routes).
"""

from typing import Any

from fastapi import APIRouter

from api.idempotency import Route
from api.outputs import ProblemShown


def router_of(tag: str, prefix: str, *dependencies: Any) -> APIRouter:
    """The router of one resource, below /v1."""
    return APIRouter(
        prefix=f"/v1{prefix}",
        tags=[tag],
        dependencies=list(dependencies),
        route_class=Route,
        responses={"default": {"model": ProblemShown}},
    )
