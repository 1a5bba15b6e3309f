"""How a resource's routes are put together.

Each router has its whole address, and its routes are handed to the application as they are: what ``include_router``
gives is matched through every router, twice (half of a request's time with some hundred routes).
"""

from typing import Any

from fastapi import APIRouter
from starlette.convertors import Convertor, register_url_convertor

from api.idempotency import Route
from api.outputs import ProblemShown


class IdConvertor(Convertor[int]):
    """An id in an address: what has more digits than PostgreSQL can hold is none. (Python refuses 4,301 at once.)"""

    regex = "[0-9]{1,19}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("id", IdConvertor())


def router_of(tag: str, prefix: str, *dependencies: Any) -> APIRouter:
    """The router of one resource, below /v1."""
    return APIRouter(
        prefix=f"/v1{prefix}",
        tags=[tag],
        dependencies=list(dependencies),
        route_class=Route,
        responses={"default": {"model": ProblemShown}},
    )
