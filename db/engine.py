"""Engines: how processes of ours connect to PostgreSQL."""

import time
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from db import schema_version
from db.faults import Fault, fault_of

#: Milliseconds. A stuck lock ends before the statement, the statement before the task's soft limit (60 s).
LOCK_TIMEOUT_MS = 2_000
STATEMENT_TIMEOUT_MS = 45_000
IDLE_IN_TRANSACTION_TIMEOUT_MS = 50_000


def make_engine(
    sqlalchemy_url: str, *, pool_size: int = 5, pooler: bool = False, trusted_seconds: float | None = None
) -> Engine:
    """An engine whose sessions run in UTC and give up on locks, statements and idle transactions in time.

    ``pooler``: PgBouncer in transaction mode stands before the database. It hands each transaction to another session,
    so that nothing may be prepared in one, and takes no options; the login's own limits count (db/roles.py).
    ``trusted_seconds``: a connection that was used so lately is not asked whether it lives, which costs a round trip.

    Connecting raises SchemaError where this code and the database's tables don't fit.
    """
    limits = (
        f"-c timezone=UTC -c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS}"
        f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_MS}"
    )
    made = create_engine(
        sqlalchemy_url,
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=trusted_seconds is None,
        pool_recycle=1800,
        # The one used last: it has its statements prepared. In turn, each of five did so by itself.
        pool_use_lifo=True,
        connect_args={
            **({"prepare_threshold": None} if pooler else {"options": limits}),
            "application_name": "altiora",
            "connect_timeout": 5,
        },
    )
    event.listen(made, "handle_error", _throw_away)
    event.listen(made, "connect", _see_that_it_fits)
    if trusted_seconds is not None:
        _ping_the_idle(made, trusted_seconds)
    return made


def _ping_the_idle(made: Engine, seconds: float) -> None:
    def note(_: object, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    def ping(connection: Any, record: ConnectionPoolEntry, _: object) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < seconds:
            return
        try:
            made.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise InvalidatePoolError(str(error)) from error

    event.listen(made, "checkin", note)
    event.listen(made, "checkout", ping)


def _see_that_it_fits(connection: psycopg.Connection, _: object) -> None:
    try:
        found = connection.execute(schema_version.ASK).fetchone()
    except psycopg.errors.UndefinedTable:
        found = None
    connection.rollback()
    try:
        schema_version.check(*(found or (None, None)))
    except schema_version.SchemaError:
        connection.close()
        raise


def _throw_away(context: ExceptionContext) -> None:
    """Let no connection that is worth nothing go back to the pool, nor those beside it that were made before it.

    SQLAlchemy knows those that were closed; one to a node that has become read-only looks healthy to it.
    """
    if fault_of(context.original_exception) is Fault.CONNECTION:
        context.is_disconnect = True
