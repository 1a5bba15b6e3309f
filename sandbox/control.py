"""How a simulator steers the sandbox over HTTP: its time, its traffic, and its waiting for webhooks."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.delivery import Delivery
from sandbox.timeline import Timeline
from sandbox.traffic import Business, populate
from sandbox.twilio.account import TwilioAccount

#: Takes the JSON object that was sent (empty if none was) and returns what is answered as JSON.
Action = Callable[[dict[str, Any]], Awaitable[object]]


def steering(path: str, action: Action, *, method: str = "POST") -> Route:
    """A control route: JSON in, JSON out; what ``action`` cannot use is answered 400 with a sentence."""

    async def endpoint(request: Request) -> Response:
        try:
            body = await request.body()
            given = orjson.loads(body) if body else {}
            answer, status = await action(given), 200
        except (KeyError, TypeError, ValueError) as error:
            answer, status = {"error": f"{type(error).__name__}: {error}"}, 400
        return Response(orjson.dumps(answer), status, media_type="application/json")

    return Route(path, endpoint, methods=[method])


def instant_of(given: str) -> datetime:
    """An instant from ISO 8601. Raises ValueError where the offset is missing."""
    value = datetime.fromisoformat(given)
    if value.tzinfo is None:
        raise ValueError(f"{given} has no offset; write 2026-11-05T10:23:45+00:00")
    return value


class Control:
    """The routes below ``/_sandbox`` that belong to neither stand-in.

    - ``GET clock``: ``{"now", "next_stop"}``; the next stop is an instant at which the pipeline needs time, or null,
    - ``POST advance`` with ``to``: moves business time, answers ``{"now", "happened", "next_stop"}``,
    - ``POST drain``: answers ``{"pending": 0}`` when no webhook is on its way any more,
    - ``GET deliveries``: see Delivery.counts,
    - ``POST populate`` with ``businesses`` (see traffic.Business), ``start``, ``end`` and ``seed``: ``{"legs"}``.
    """

    def __init__(self, timeline: Timeline, delivery: Delivery, twilio: TwilioAccount) -> None:
        self._timeline = timeline
        self._delivery = delivery
        self._twilio = twilio
        self.routes = [
            steering("/_sandbox/clock", self._clock, method="GET"),
            steering("/_sandbox/advance", self._advance),
            steering("/_sandbox/drain", self._drain),
            steering("/_sandbox/deliveries", self._deliveries, method="GET"),
            steering("/_sandbox/populate", self._populate),
        ]

    async def _clock(self, _: dict[str, Any]) -> object:
        stop = self._timeline.next_stop()
        return {"now": self._timeline.now.isoformat(), "next_stop": stop and stop.isoformat()}

    async def _advance(self, given: dict[str, Any]) -> object:
        if not self._timeline.owns_time:
            raise ValueError("this sandbox follows the machine's clock; start it with a clock file to move time")
        happened = await self._timeline.advance(instant_of(given["to"]))
        stop = self._timeline.next_stop()
        return {"now": self._timeline.now.isoformat(), "happened": happened, "next_stop": stop and stop.isoformat()}

    async def _drain(self, _: dict[str, Any]) -> object:
        await self._delivery.drain()
        return {"pending": self._delivery.counts()["pending"]}

    async def _deliveries(self, _: dict[str, Any]) -> object:
        return self._delivery.counts()

    async def _populate(self, given: dict[str, Any]) -> object:
        businesses = [Business.from_json(business) for business in given["businesses"]]
        start, end = instant_of(given["start"]), instant_of(given["end"])
        return {"legs": populate(self._twilio, businesses, start, end, given["seed"])}
