"""The receiver as an ASGI application, without a web framework: any ASGI server can run ``receiver.app:make``.

The answers: 200 stored or seen before; 400 no readable body; 403 the signature; 404, 405, 413, 415; 503 when it could
not be stored, so that the sender tries again. Never a 500.

Only /webhooks/ belongs on the internet: /health and /metrics answer without authentication.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
import structlog
from prometheus_client import CONTENT_TYPE_LATEST

from pipeline.shared.clock import Clock, business_clock
from pipeline.shared.settings import (
    BrokerSettings,
    DatabaseSettings,
    PublicSettings,
    StripeWebhookSettings,
    TwilioSettings,
    load,
)
from pipeline.shared.version import VERSION, commit
from receiver import metrics
from receiver.health import DatabaseAwayError, Health
from receiver.receive import TWILIO_PATH, Answer, StripeWebhook, TwilioWebhook, Webhook, receive, refusal
from receiver.store import Store
from tasks.nudge import Nudge

#: Seconds for a body to arrive: whoever sends it by drops must not keep a place for ever.
BODY_TIMEOUT = 10.0
#: Seconds between two looks for those that take longer.
LOOK = 0.25
#: Bytes of bodies that are not complete, of all together; beyond it the oldest is given up (91).
UNFINISHED = 32_000_000
#: Bytes of a refused body that are still taken and thrown away: a sender that is cut off while it sends sees a broken
#: connection, and not the answer.
DISCARDED = 16_000_000

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_log = structlog.get_logger(__name__)


class _UnreadableError(Exception):
    """The request ended, or took too long, before its body was there, or there is no room for it."""

    def __init__(self, words: str, status: int = 400) -> None:
        super().__init__(words)
        self.status = status


@dataclass(slots=True)
class _Reading:
    """A body that is being read: until when, by the loop's clock, and how much of it is there."""

    until: float
    size: int = 0
    given_up: _UnreadableError | None = None


class Response(NamedTuple):
    status: int
    body: bytes
    content_type: bytes
    allow: bytes = b""


def _text(status: int, words: str) -> Response:
    return Response(status, words.encode(), b"text/plain; charset=utf-8")


def _json(status: int, content: Mapping[str, object]) -> Response:
    return Response(status, orjson.dumps(content), b"application/json")


class App:
    """Answers requests. ``start`` and ``stop`` are called by the server's lifespan events."""

    def __init__(self, webhooks: Mapping[str, Webhook], store: Store, health: Health, clock: Clock) -> None:
        self._webhooks = webhooks
        self._store = store
        self._health = health
        self._clock = clock
        self._build = {"version": VERSION, "commit": commit()}
        #: Who reads a body, in the order in which they began.
        self._readers: dict[asyncio.Task[Any], _Reading] = {}
        self._unfinished = 0
        self._giving_up: asyncio.Task[None] | None = None
        self._pages: dict[str, Callable[[], Awaitable[Response]]] = {
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/health/backlog": self._backlog,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive_message: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive_message, send)
            return
        began = time.perf_counter()
        path = _known(scope["path"], self._webhooks, self._pages)
        try:
            response = await self._respond(scope, receive_message)
        except Exception:  # noqa: BLE001 - the sender gets an answer that it understands, whatever happened
            # Not known to be stored, so the sender should send it again.
            _log.exception("failed", path=path)
            response = _text(503, "something went wrong here, send it again")
        metrics.count_answer(path, response.status, time.perf_counter() - began)
        if response.status >= 400:
            _log.warning("refused", path=path, status=response.status, words=response.body.decode())
        headers = [(b"content-length", str(len(response.body)).encode())]
        if response.body:
            headers.append((b"content-type", response.content_type))
        if response.allow:
            headers.append((b"allow", response.allow))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    async def _respond(self, scope: Scope, receive_message: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        webhook = self._webhooks.get(path)
        if webhook is not None:
            if method != "POST":
                return _text(405, "webhooks are POSTed")._replace(allow=b"POST")
            return _text(*await self._webhook(webhook, scope, receive_message))
        page = self._pages.get(path)
        if page is None:
            return _text(404, f"nothing is here; webhooks go to {' and '.join(self._webhooks)}")
        if method != "GET":
            return _text(405, "this is only read")._replace(allow=b"GET")
        return await page()

    async def _webhook(self, webhook: Webhook, scope: Scope, receive_message: Receive) -> Answer:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        stated = headers.get("content-length", "0")
        if not (stated.isascii() and stated.isdigit()):
            return Answer(400, "Content-Length is no number")
        # Before the body is read: a sender that asks whether to go on (Expect: 100-continue) is told no.
        refused = refusal(webhook, headers, int(stated))
        if refused is not None:
            if "expect" not in headers and int(stated) <= DISCARDED:
                await _discard(receive_message)
            return refused
        try:
            body = await self._read(receive_message, webhook.limit)
        except _UnreadableError as error:
            return Answer(error.status, str(error))
        query = scope["query_string"].decode("latin-1")
        return await receive(webhook, self._store, headers, query, body, self._clock.now())

    async def _read(self, receive_message: Receive, limit: int) -> bytes:
        """The body, or its first bytes beyond ``limit``: a longer one is never held whole. Raises _UnreadableError."""
        task = asyncio.current_task()
        assert task is not None
        if self._giving_up is None:  # here, since a server without lifespan events starts nothing
            self._giving_up = asyncio.create_task(self._give_up_the_slow())
        reading = self._readers[task] = _Reading(asyncio.get_running_loop().time() + BODY_TIMEOUT)
        parts: list[bytes] = []
        try:
            while True:
                message = await receive_message()
                if message["type"] == "http.disconnect":
                    raise _UnreadableError("the body ended early")
                part = message.get("body", b"")
                parts.append(part)
                reading.size += len(part)
                self._unfinished += len(part)
                if reading.size > limit or not message.get("more_body"):
                    return b"".join(parts)
                while self._unfinished > UNFINISHED and self._readers:
                    words = f"{UNFINISHED} bytes of unfinished bodies are here already, send it again"
                    self._give_up(next(iter(self._readers)), _UnreadableError(words, 503))
        except asyncio.CancelledError:
            if reading.given_up is None:
                raise
            task.uncancel()
            raise reading.given_up from None
        finally:
            if self._readers.pop(task, None) is not None:
                self._unfinished -= reading.size

    def _give_up(self, task: asyncio.Task[Any], error: _UnreadableError) -> None:
        reading = self._readers.pop(task)
        self._unfinished -= reading.size
        reading.given_up = error
        task.cancel()

    async def _give_up_the_slow(self) -> None:
        """End what has been reading a body for too long: one look at them all is cheaper than a timer for each."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK)
            for task in [task for task, reading in self._readers.items() if reading.until <= loop.time()]:
                self._give_up(task, _UnreadableError(f"the body took longer than {BODY_TIMEOUT:.0f} s"))

    async def _live(self) -> Response:
        return _json(200, {"status": "ok", **self._build})

    async def _ready(self) -> Response:
        try:
            await self._health.ready()
            if not self._store.able:
                await self._health.prove()
                self._store.able = True
        except DatabaseAwayError as error:
            return _json(503, {"status": "unavailable", "reasons": [str(error)]})
        return _json(200, {"status": "ok"})

    async def _backlog(self) -> Response:
        try:
            backlog = await self._health.backlog(self._clock.now())
        except DatabaseAwayError as error:
            return _json(503, {"status": "unavailable", "reasons": [str(error)]})
        reasons = [waiting.reason for waiting in backlog if waiting.overdue]
        rows = [{"kind": row.kind, "count": row.count, "oldest_seconds": row.oldest_seconds} for row in backlog]
        status = "overdue" if reasons else "ok"
        return _json(503 if reasons else 200, {"status": status, "reasons": reasons, "backlog": rows})

    async def _metrics(self) -> Response:
        try:
            backlog = await self._health.backlog(self._clock.now())
            rows = await self._health.ask(metrics.METRICS_SQL)
        except DatabaseAwayError:
            return Response(200, metrics.render_without_database(), CONTENT_TYPE_LATEST.encode())
        return Response(200, metrics.render(backlog, rows), CONTENT_TYPE_LATEST.encode())

    async def start(self) -> None:
        await self._store.open()
        await self._health.open()

    async def stop(self) -> None:
        """Store what was received, and disconnect."""
        if self._giving_up is not None:
            self._giving_up.cancel()
        await self._store.close()
        await self._health.close()

    async def _lifespan(self, receive_message: Receive, send: Send) -> None:
        await receive_message()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive_message()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def make() -> App:
    """The application with the settings of this process. Raises SettingsError."""
    database = load(DatabaseSettings)
    webhooks: dict[str, Webhook] = {
        "/webhooks/stripe": StripeWebhook.from_settings(load(StripeWebhookSettings)),
        TWILIO_PATH: TwilioWebhook.from_settings(load(PublicSettings), load(TwilioSettings)),
    }
    nudge = Nudge(load(BrokerSettings).broker_url.get_secret_value())
    url, pooler = database.libpq_url, database.database_pooler
    store = Store(url, stored=lambda: nudge.send("events.drain"), pooler=pooler)
    return App(webhooks, store, Health(url, pooler=pooler), business_clock())


async def _discard(receive_message: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(BODY_TIMEOUT):
            while (await receive_message()).get("more_body"):
                pass


def _known(path: str, *known: Mapping[str, object]) -> str:
    """The path for the log, where only paths of ours may stand."""
    return path if any(path in paths for paths in known) else "unknown"
