"""What the stand-in for Stripe tells the outside: snapshot events, and thin ones for the meters' errors."""

import copy
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime

from sandbox.stripe.account.state import API_VERSION, Object, State, difference, new_id
from sandbox.stripe.api.lists import shown_in_part
from sandbox.stripe.api.old_shapes import reshaped

Deliver = Callable[[Object], Awaitable[None]]


@dataclass(frozen=True)
class Cause:
    """The API request behind a change: events name it, so that the caller recognises its own writes."""

    request_id: str | None = None
    idempotency_key: str | None = None


AUTOMATIC = Cause()

cause: ContextVar[Cause] = ContextVar("cause", default=AUTOMATIC)
"""Set while an API request is worked on; a null request id says that Stripe did it by itself."""


class Events:
    """Makes events at once and hands them over when the change is complete (``flush``)."""

    def __init__(self, state: State, deliver: Deliver) -> None:
        self._state = state
        self._deliver = deliver
        self._waiting: deque[Object] = deque()

    def emit(self, kind: str, subject: Object, previous: Object | None = None) -> None:
        """Record the snapshot event ``kind`` with ``subject`` as it is now."""
        request = cause.get()
        data: Object = {"object": copy.deepcopy(subject)}
        if previous is not None:
            data["previous_attributes"] = copy.deepcopy(previous)
        shown_in_part(data["object"])
        version = self._state.rules.webhook_api_version
        if version != API_VERSION:
            data = reshaped(data, version, self._state.prices)
        event: Object = {
            "id": new_id("evt"),
            "object": "event",
            "api_version": version,
            "created": self._state.now,
            "data": data,
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": request.request_id, "idempotency_key": request.idempotency_key},
            "type": kind,
        }
        self._state.events[event["id"]] = event
        self._waiting.append(event)

    def emit_change(self, kind: str, before: Object, after: Object) -> None:
        """Record ``kind`` with the old values of what changed; nothing when nothing did."""
        previous = difference(before, after)
        if previous:
            self.emit(kind, after, previous)

    def emit_thin(self, kind: str, data: Object, related: Object | None) -> None:
        """Record a thin event: pushed without ``data``, which GET /v2/core/events/{id} gives."""
        event: Object = {
            "id": new_id("evt_test"),
            "object": "v2.core.event",
            "context": None,
            "created": zulu(self._state.timeline.now),
            "livemode": False,
            "reason": None,
            "related_object": related,
            "type": kind,
        }
        self._state.thin_events[event["id"]] = {**event, "data": data}
        self._waiting.append(event)

    async def flush(self) -> None:
        """Hand over what was recorded, oldest first."""
        while self._waiting:
            await self._deliver(copy.deepcopy(self._waiting.popleft()))


def zulu(moment: datetime) -> str:
    """A time as Stripe's v2 API writes it: ``2024-09-26T17:46:22.134Z``."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
