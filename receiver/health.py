"""Health: can events be stored, and does what is stored get done?

On connections of its own, so that whoever asks never waits for the events, nor they for him; and with an answer in
time also when the database hangs.
"""

import asyncio
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from pipeline.reading.backlog import BACKLOG_SQL, Backlog, from_rows
from receiver.pool import Pool

#: Seconds until a question counts as unanswered.
TIMEOUT = 3.0


class DatabaseAwayError(Exception):
    """The database did not answer in time, or can't be reached."""


class Health:
    """Asks the database at ``libpq_url``. Belongs to one event loop, like the store."""

    def __init__(self, libpq_url: str) -> None:
        # A question that takes its time must not hold up the one whether events can be stored.
        self._pool = Pool(libpq_url, 2)
        self._asking: set[asyncio.Task[list[TupleRow]]] = set()

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def ready(self) -> None:
        """Return when events can be stored; a standby that only reads can't. Raises DatabaseAwayError."""
        ((read_only,),) = await self.ask(b"select current_setting('transaction_read_only')")
        if read_only == "on":
            await self._pool.drain()  # after a failover these lead to the node that follows
            raise DatabaseAwayError("the database is read-only")

    async def backlog(self, now: datetime) -> list[Backlog]:
        """What waits, of each kind; ``now`` is business time. Raises DatabaseAwayError."""
        return from_rows(await self.ask(BACKLOG_SQL.encode(), {"business_now": now}))

    async def ask(self, query: bytes, params: dict[str, Any] | None = None) -> list[TupleRow]:
        """The rows of a query. Raises DatabaseAwayError."""
        asking = asyncio.create_task(self._fetch(query, params))
        # A query to a server that hangs can't be cancelled at once, so it is left to end by itself.
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        await asyncio.wait({asking}, timeout=TIMEOUT)
        if not asking.done():
            asking.cancel()
            raise DatabaseAwayError(f"the database has not answered for {TIMEOUT:.0f} s")
        try:
            return asking.result()
        except psycopg.Error as error:
            misfit = self._pool.misfit if isinstance(error, PoolTimeout) else None
            words = misfit or f"the database can't be asked: {type(error).__name__}"
            raise DatabaseAwayError(str(words)) from error

    async def _fetch(self, query: bytes, params: dict[str, Any] | None) -> list[TupleRow]:
        async def fetch(connection: psycopg.AsyncConnection[TupleRow]) -> list[TupleRow]:
            return await (await connection.execute(query, params)).fetchall()

        return await self._pool.use(fetch)
