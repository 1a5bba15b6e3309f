"""The receiver's connections: few, each statement a transaction of its own, and never one that is worth nothing."""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psycopg
import structlog
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from db import schema_version
from db.faults import Fault, fault_of
from db.schema_version import SchemaError

_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)

# It tells of every connection lent and returned.
logging.getLogger("psycopg.pool").setLevel(logging.WARNING)


class Pool(AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]]):
    """A pool, not yet open, of ``size`` connections in autocommit to a database whose tables this code fits (84)."""

    misfit: SchemaError | None = None
    """Why the last connection that was made was not taken."""

    def __init__(self, libpq_url: str, size: int, *, pooler: bool = False) -> None:
        """``pooler``: PgBouncer stands before the database, as for db/engine.py."""
        limits = {"options": "-c timezone=UTC -c statement_timeout=10000"}
        super().__init__(
            libpq_url,
            kwargs={
                "autocommit": True,
                "connect_timeout": 2,
                "application_name": "altiora-receiver",
                **({"prepare_threshold": None} if pooler else limits),
                # A server that vanished without a word is noticed after some seconds, not after hours.
                "keepalives_idle": 5,
                "keepalives_interval": 2,
                "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
            configure=self._see_that_it_fits,
            min_size=size,
            max_size=size,
            open=False,
            timeout=2.0,
            # Then the next request tries again, so that an event that comes just after the server's return is stored.
            reconnect_timeout=1.0,
        )

    async def use(self, work: Callable[[psycopg.AsyncConnection[TupleRow]], Awaitable[_Result]]) -> _Result:
        """What ``work`` returns on one of them; it may be done on several, one after another.

        After a restart of the server, or a failover, every connection is worth nothing, which only using it shows.
        """
        for _ in range(self.max_size):
            try:
                async with self.connection() as connection:
                    return await work(connection)
            except psycopg.Error as error:
                if isinstance(error, PoolTimeout) or fault_of(error) is not Fault.CONNECTION:
                    raise
                _log.warning("connection-lost", error=type(error).__name__)
                await self.drain()
        async with self.connection() as connection:
            return await work(connection)

    async def _see_that_it_fits(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        try:
            found = await (await connection.execute(schema_version.ASK)).fetchone()
        except psycopg.errors.UndefinedTable:
            found = None
        self.misfit = None
        try:
            schema_version.check(*(found or (None, None)))
        except SchemaError as error:
            self.misfit = error
            raise
