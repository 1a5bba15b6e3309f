"""What goes wrong on purpose: which request of a stand-in fails and how, by rate or by script."""

import asyncio
import fnmatch
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

HANG_UP = "altiora.hang_up"
"""Where the ASGI scope's extensions hold the function that drops the connection (see HangUpProtocol)."""

FAULT = "altiora.fault"
"""Where the ASGI scope holds the fault that the stand-in acts on itself (see FaultyDoor)."""

WORDS = frozenset({"ok", "401", "409", "429", "500", "500_done", "slow", "lose_answer", "down"})
"""``500`` does nothing and answers 500, ``500_done`` does it and answers 500, ``slow:2`` waits two seconds,
``lose_answer`` does it and drops the connection, ``down`` drops the connection and does nothing."""


@dataclass
class Faults:
    """The faults of both stand-ins and of their webhooks. Rates are shares of all requests, from 0 to 1.

    One object is shared, and seeded, so that a run can be repeated. ``duplicate``, ``shuffle`` and
    ``drop_callback`` are read by the delivery of webhooks, the others by FaultyDoor.
    """

    rate_401: float = 0.0
    rate_429: float = 0.0
    rate_500: float = 0.0
    rate_slow: float = 0.0
    rate_lost_answer: float = 0.0
    duplicate: float = 0.0
    shuffle: float = 0.0
    drop_callback: float = 0.0
    slow_seconds: float = 1.0
    random: Random = field(default_factory=lambda: Random(1))
    _down_until: dict[str, float] = field(default_factory=dict, init=False)
    _scripts: dict[str, deque[str]] = field(default_factory=dict, init=False)

    def set_rates(self, **rates: float) -> None:
        """Change the rates by name. Raises ValueError for a name that is no rate or a share outside 0 to 1."""
        names = {f"rate_{kind}" for kind in ("401", "429", "500", "slow", "lost_answer")}
        names |= {"duplicate", "shuffle", "drop_callback"}
        for name, rate in rates.items():
            if name == "slow_seconds" and rate >= 0:
                self.slow_seconds = rate
            elif name in names and 0 <= rate <= 1:
                setattr(self, name, rate)
            else:
                raise ValueError(f"{name}={rate}: rates are {', '.join(sorted(names))}, each from 0 to 1")

    def script(self, request: str, faults: list[str]) -> None:
        """Let the next requests like ``"POST /v1/billing/meter_events"`` meet these faults, one each, in order.

        ``request`` may hold ``*``. A script goes before the rates; ``"ok"`` lets one request through untouched.
        """
        for fault in faults:
            word, _, seconds = fault.partition(":")
            if word not in WORDS or (seconds and (word != "slow" or float(seconds) < 0)):
                raise ValueError(f"{fault}: a fault is one of {', '.join(sorted(WORDS))}, or slow:SECONDS")
        self._scripts.setdefault(request, deque()).extend(faults)

    def take_down(self, service: str, seconds: float) -> None:
        """Let ``stripe`` or ``twilio`` drop every connection for so many seconds of the machine's time."""
        self._down_until[service] = time.monotonic() + seconds

    def is_down(self, service: str) -> bool:
        """Whether the service drops every connection now."""
        return time.monotonic() < self._down_until.get(service, 0.0)

    def next(self, service: str, method: str, path: str) -> str:
        """The fault that this request meets: a word of WORDS, ``slow`` always with its seconds."""
        if self.is_down(service):
            return "down"
        for pattern, faults in self._scripts.items():
            if faults and fnmatch.fnmatchcase(f"{method} {path}", pattern):
                fault = faults.popleft()
                return f"slow:{self.slow_seconds}" if fault == "slow" else fault
        draw = self.random.random()
        server_error = self.random.choice(["500", "500_done"])  # always drawn: the sequence stays the same for a seed
        for rate, fault in (
            (self.rate_401, "401"),
            (self.rate_429, "429"),
            (self.rate_500, server_error),
            (self.rate_lost_answer, "lose_answer"),
            (self.rate_slow, f"slow:{self.slow_seconds}"),
        ):
            if draw < rate:
                return fault
            draw -= rate
        return "ok"


class HangUpProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which also lets the application drop the connection without an answer.

    ASGI has no message for that: an application that answers nothing makes uvicorn answer 500. Serve a stand-in with
    ``uvicorn.Config(app, http=HangUpProtocol)``.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        served = self.app

        async def app(scope: Any, receive: Any, send: Any) -> None:
            scope.setdefault("extensions", {})[HANG_UP] = self.transport.abort
            await served(scope, receive, send)

        self.app = app


async def hang_up(scope: Scope, receive: Receive) -> None:
    """Drop the connection of this request, so that the client sees an error of the connection and no answer."""
    try:
        drop: Callable[[], None] = scope["extensions"][HANG_UP]
    except KeyError as error:
        raise RuntimeError("to lose answers, serve this app with uvicorn.Config(app, http=HangUpProtocol)") from error
    drop()
    while (await receive())["type"] != "http.disconnect":  # uvicorn answers 500 unless it has seen the connection go
        pass


class FaultyDoor:
    """ASGI wrapper that lets each request under one of ``paths`` meet its fault before ``app`` sees it.

    ``refuse(status)`` makes the service's own answer for 401, 409 (Stripe's), 429 and 500. The words in ``inside`` are
    not acted on here: ``app`` finds them in ``scope[FAULT]`` and acts where it matters (Stripe stores a 500 under its
    idempotency key).
    """

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        *,
        service: str,
        paths: tuple[str, ...],
        refuse: Callable[[int], Response],
        inside: frozenset[str] = frozenset(),
    ) -> None:
        self._app = app
        self._faults = faults
        self._service = service
        self._paths = paths
        self._refuse = refuse
        self._inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._paths):
            await self._app(scope, receive, send)
            return
        fault = self._faults.next(self._service, scope["method"], scope["path"])
        word, _, seconds = fault.partition(":")
        scope[FAULT] = fault if word in self._inside else "ok"
        if word in self._inside or word == "ok":
            await self._app(scope, receive, send)
        elif word == "slow":
            await asyncio.sleep(float(seconds))
            await self._app(scope, receive, send)
        elif word == "down":
            await hang_up(scope, receive)
        elif word == "lose_answer":
            await self._app(scope, receive, _discard)
            await hang_up(scope, receive)
        else:
            if word == "500_done":
                await self._app(scope, receive, _discard)
            await self._refuse(int(word[:3]))(scope, receive, send)


async def _discard(message: Message) -> None:
    """Take an answer that nobody will read."""
