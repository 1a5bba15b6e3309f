"""Health: can events be stored, and does what is stored get done?

On connections of its own, so that whoever asks never waits for the events, nor they for him; and with an answer in
time also when the database hangs.
"""

import asyncio
import os
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import TupleRow
from psycopg_pool import PoolTimeout

from pipeline.reading.backlog import BACKLOG_SQL, Backlog, from_rows
from receiver.pool import Pool

#: Seconds until a question counts as unanswered.
TIMEOUT = 3.0

# An event as they come, larger than what a full disk still has in the table's own pages; under an id that none has, so
# that no number of theirs is used up.
_PROOF_BYTES = 64_000
_PROOF = b"""
insert into webhook_events (id, provider, key, received_at, content_type, body) overriding system value
values (-pg_backend_pid(), 'stripe', 'proof:' || pg_backend_pid(), now(), 'text/plain', %(body)b)
"""


class DatabaseAwayError(Exception):
    """The database did not answer in time, or can't be reached."""


class Health:
    """Asks the database at ``libpq_url``. Belongs to one event loop, like the store."""

    def __init__(self, libpq_url: str, *, pooler: bool = False) -> None:
        # A question that takes its time must not hold up the one whether events can be stored.
        self._pool = Pool(libpq_url, 2, pooler=pooler)
        self._asking: set[asyncio.Task[list[TupleRow]]] = set()

    async def open(self) -> None:
        await self._pool.open()

    async def close(self) -> None:
        await self._pool.close()

    async def ready(self) -> None:
        """Return when the database can be written; a standby that only reads can't. Raises DatabaseAwayError."""
        ((read_only,),) = await self.ask(b"select current_setting('transaction_read_only')")
        if read_only == "on":
            await self._pool.drain()  # after a failover these lead to the node that follows
            raise DatabaseAwayError("the database is read-only")

    async def prove(self) -> None:
        """Return when an event could be stored now: one is, and taken back. Raises DatabaseAwayError."""
        await self._answer_of(self._pool.use(_store_and_take_back), "no event can be stored")

    async def backlog(self, now: datetime) -> list[Backlog]:
        """What waits, of each kind; ``now`` is business time. Raises DatabaseAwayError."""
        return from_rows(await self.ask(BACKLOG_SQL.encode(), {"business_now": now}))

    async def ask(self, query: bytes, params: dict[str, Any] | None = None) -> list[TupleRow]:
        """The rows of a query. Raises DatabaseAwayError."""

        async def fetch(connection: psycopg.AsyncConnection[TupleRow]) -> list[TupleRow]:
            return await (await connection.execute(query, params)).fetchall()

        return await self._answer_of(self._pool.use(fetch), "the database can't be asked")

    async def _answer_of(self, question: Coroutine[Any, Any, list[TupleRow]], failed: str) -> list[TupleRow]:
        asking = asyncio.create_task(question)
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
            words = misfit or f"{failed}: {type(error).__name__}"
            raise DatabaseAwayError(str(words)) from error


async def _store_and_take_back(connection: psycopg.AsyncConnection[TupleRow]) -> list[TupleRow]:
    async with connection.transaction(force_rollback=True):
        await connection.execute(_PROOF, {"body": os.urandom(_PROOF_BYTES)})
    return []
