"""A uvicorn on a free loopback port for one ASGI app: beside the test's own loop, or in a thread of its own."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import uvicorn
from starlette.types import ASGIApp

from sandbox.faults import HangUpProtocol


def _server(app: ASGIApp) -> tuple[uvicorn.Server, socket.socket, str]:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app,
        http=HangUpProtocol,
        lifespan="off",
        log_level="error",
        access_log=False,
        date_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config), listening, f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve ``app`` in the running loop; gives its address."""
    server, listening, address = _server(app)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:  # noqa: ASYNC110 -- uvicorn tells it in no other way
        await asyncio.sleep(0.01)
    try:
        yield address
    finally:
        server.should_exit = True
        await task
        listening.close()


@contextlib.contextmanager
def serving_in_thread(app: ASGIApp, config: uvicorn.Config | None = None) -> Iterator[str]:
    """Serve ``app`` in a thread, for clients that block, by a configuration of one's own; gives its address."""
    server, listening, address = _server(app)
    if config is not None:
        server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield address
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
