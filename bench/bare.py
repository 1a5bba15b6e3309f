"""Yardstick: the pages of the API by a bare ASGI application and psycopg, for whoever asks.

It runs the same statements and makes the same JSON, and has no accounts, no rights, no wall, no cursor and no check of
what is asked.
"""

from collections.abc import Awaitable, Callable
from dataclasses import fields
from typing import Any
from urllib.parse import parse_qs

import orjson
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from starlette.concurrency import run_in_threadpool

from pipeline.reading import businesses, calls
from pipeline.shared.rows import NEWEST_INSTANT
from pipeline.shared.settings import DatabaseSettings, load

_LIMIT = 50
Send = Callable[[dict[str, Any]], Awaitable[None]]


def make() -> Callable[[dict[str, Any], Any, Send], Awaitable[None]]:
    """``/businesses/ID`` and ``/businesses/ID/calls``, with ``started_at`` and ``sid`` of the row before."""
    address = load(DatabaseSettings).sqlalchemy_url.replace("+psycopg", "")
    pool: AsyncConnectionPool[Any] | None = None

    async def application(scope: dict[str, Any], receive: Any, send: Send) -> None:
        nonlocal pool
        if scope["type"] == "lifespan":
            await receive()
            pool = AsyncConnectionPool(
                address, min_size=4, max_size=20, open=False, kwargs={"row_factory": dict_row, "prepare_threshold": 0}
            )
            await pool.open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert pool is not None
        _, _, business_id, *rest = scope["path"].split("/")
        async with pool.connection() as connection:
            if rest:
                asked = parse_qs(scope["query_string"].decode())
                before = (asked["started_at"][0], asked["sid"][0]) if asked else NEWEST_INSTANT
                rows = await (await connection.execute(calls.LIST, _about(int(business_id), before))).fetchall()
                content = {"data": rows[:_LIMIT], "next_cursor": None}
            else:
                about = {"ids": [int(business_id)], "q": "", "before": int(business_id) + 1, "limit": 1}
                (content,) = await (await connection.execute(businesses.NEWEST_OF, about)).fetchall()
        body = orjson.dumps(content)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def make_in_threads() -> Callable[[dict[str, Any], Any, Send], Awaitable[None]]:
    """The same with the driver as it is used here: blocking, in a thread of its own for each request."""
    address = load(DatabaseSettings).sqlalchemy_url.replace("+psycopg", "")
    pool: ConnectionPool[Any] = ConnectionPool(
        address, min_size=4, max_size=20, open=False, kwargs={"row_factory": dict_row}
    )

    def answer(path: str, query: bytes) -> bytes:
        _, _, business_id, *rest = path.split("/")
        with pool.connection() as connection:
            if rest:
                asked = parse_qs(query.decode())
                before = (asked["started_at"][0], asked["sid"][0]) if asked else NEWEST_INSTANT
                rows = connection.execute(calls.LIST, _about(int(business_id), before)).fetchall()
                return orjson.dumps({"data": rows[:_LIMIT], "next_cursor": None})
            about = {"ids": [int(business_id)], "q": "", "before": int(business_id) + 1, "limit": 1}
            return orjson.dumps(connection.execute(businesses.NEWEST_OF, about).fetchone())

    async def application(scope: dict[str, Any], receive: Any, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            pool.open()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            pool.close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body = await run_in_threadpool(answer, scope["path"], scope["query_string"])
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def _about(business_id: int, before: tuple[str, str]) -> dict[str, Any]:
    which = {field.name: "" if field.name == "q" else None for field in fields(calls.CallFilter)}
    return which | {"business_id": business_id, "started_at": before[0], "sid": before[1], "limit": _LIMIT + 1}
