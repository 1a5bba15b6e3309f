"""Around every request: its id, the size of its body, what no answer goes without, and one line in the log."""

import re
import secrets
import time
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from api.problems import Problem

#: Bytes of the largest body.
LARGEST: Final = 1_000_000
_TOO_LARGE: Final = f"a body here has at most {LARGEST} bytes"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

_ALWAYS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}

_log = structlog.get_logger(__name__)


class Door:
    """ASGI middleware around the whole application. Whatever happens inside, the answer is a problem, and no trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = secrets.token_urlsafe(12)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added["X-Request-Id"] = request_id
                for name, value in _ALWAYS.items():
                    added.setdefault(name, value)
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            stated = headers.get("content-length", "0")
            if stated.isascii() and stated.isdigit() and int(stated) > LARGEST:
                await Problem(413, "too-large", _TOO_LARGE).response()(scope, receive, answer)
            else:
                await self._app(scope, _bounded(receive), answer)
        except Exception:  # noqa: BLE001 - whoever asks gets an answer, whatever happened
            _log.exception("failed", route=_route(scope), method=scope["method"])
            if not status:
                problem = Problem(500, "failed", "it is in our log, under this request's id")
                await problem.response()(scope, receive, answer)
        finally:
            structlog.contextvars.unbind_contextvars("request_id")
            seconds = time.perf_counter() - began
            metrics.count_answer(_route(scope), scope["method"], status, seconds)
            _log.info(
                "answered",
                method=scope["method"],
                route=_route(scope),
                status=status,
                ms=round(seconds * 1000),
                request_id=request_id,
                actor=scope["state"].get("actor"),
            )


def _bounded(receive: Receive) -> Receive:
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > LARGEST:
            raise HTTPException(413, _TOO_LARGE)
        return message

    return bounded


def _route(scope: Scope) -> str:
    """The template of the route, never the path: that may hold a number, or what somebody typed."""
    return getattr(scope.get("route"), "path_format", None) or "unknown"
