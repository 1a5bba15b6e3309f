"""The receiver served by uvicorn: one process, one event loop; more of them behind a proxy share the database.

Anybody may connect, and need not go on: of what is only begun there is never more than so much (91).
"""

import asyncio
import gc
import resource
import signal
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pipeline.shared import logs
from receiver import app

#: Seconds that a stopping receiver has to answer what it has received; then it ends.
STOP_TIMEOUT = 8
#: Connections. One more closes that which has waited longest for (the rest of) its request.
CONNECTIONS = 1_000
#: Files beside them: to PostgreSQL and the broker, the log, what is accepted and closed at once.
_OTHER_FILES = 200
#: Bytes of a request's line and headers; Stripe's and Twilio's have one or two thousand.
_HEAD = 32_768
#: Seconds for a request's line and headers to arrive, and between two requests of a connection.
_HEAD_TIMEOUT = 10.0

_log = structlog.get_logger(__name__)


class Connection(HttpToolsProtocol):
    """Uvicorn's, which can be closed while its request is not complete."""

    #: Those that wait for a request, or the rest of one, in the order in which they began; since when, by the loop.
    waiting: "dict[Connection, float]" = {}  # noqa: RUF012 - of all of them

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        #: Bytes of the head so far; none when it is there.
        self._head: int | None = 0
        self._wait()
        if len(self.connections) > CONNECTIONS:
            oldest = next(iter(self.waiting))
            _log.warning("closed-unfinished", connections=len(self.connections), waiting=len(self.waiting))
            oldest.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > _HEAD:
            self.close()

    def on_headers_complete(self) -> None:
        self._head = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self.waiting.pop(self, None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._head = 0
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self.waiting.pop(self, None)
        self.waiting[self] = self.loop.time()

    def close(self) -> None:
        """End it without an answer: whoever only begins requests reads none."""
        self.waiting.pop(self, None)
        self.transport.abort()

    @property
    def has_headers(self) -> bool:
        """Whether the app has the request, and looks after the time that its body takes."""
        return self._head is None


class Server(uvicorn.Server):
    """Uvicorn's, which ends what waits for too long."""

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:  # of ten in a second
            long_ago = asyncio.get_running_loop().time() - _HEAD_TIMEOUT
            for each in [each for each, since in Connection.waiting.items() if since < long_ago]:
                if not each.has_headers:
                    each.close()
        return await super().on_tick(counter)


def run(host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. Raises SettingsError before anything is started."""
    logs.configure()
    made = app.make()
    # As in the worker (tasks/app.py): looking for cycles among what requests leave took 9 % of their time.
    gc.freeze()
    gc.set_threshold(50_000)
    _allow_files()
    for each in (signal.SIGTERM, signal.SIGINT):  # uvicorn ends in order, and then raises what ended it once more
        signal.signal(each, lambda *_: None)
    Server(config(made, host=host, port=port)).run()


def config(application: Any, *, host: str, port: int) -> uvicorn.Config:
    """How the receiver is served; its log goes where ours goes."""
    return uvicorn.Config(
        application,
        host=host,
        port=port,
        loop="uvloop",
        http=Connection,
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=STOP_TIMEOUT,
    )


def _allow_files() -> None:
    """A file for each connection, which many systems don't allow unless a process asks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            _log.warning("few-files", allowed=allowed, wanted=wanted, next="raise the limit (ulimit -n)")
