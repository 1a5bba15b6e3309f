"""Halts: work that has stopped because everything in it failed alike. One row, which alarms while it stands.

A bad release, a missing column or a full disk makes everything fail. Nothing is given up for that: the work stops,
tries once a minute, and goes on by itself when that passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from sqlalchemy import Connection, Engine

from db.faults import Fault, fault_of
from pipeline.shared import restores

TRY_EVERY_SECONDS = 60
#: So many in a row that fail alike, for no fault of their own as far as can be told, halt their work.
ALIKE = 3

#: The work of applying events.
DRAIN = "drain"

_HALT = """
insert into halts (work, error, next_try_at) values (%(work)s, %(error)s, now() + %(seconds)s * interval '1 second')
on conflict (work) do nothing
"""

# Of those that look at the same time one may try.
_TRY = """
update halts set next_try_at = now() + %(seconds)s * interval '1 second' where work = %(work)s and next_try_at <= now()
"""

log = structlog.get_logger(__name__)


def halt(connection: Connection, work: str, error: str) -> None:
    """Stop this work for everybody. ``error`` says in what everything failed, without its values."""
    about = {"work": work, "error": error, "seconds": TRY_EVERY_SECONDS}
    if connection.exec_driver_sql(_HALT, about).rowcount:
        log.error("halted", work=work, error=error, next=f"tried every {TRY_EVERY_SECONDS} s; repair the cause")


def is_halted(connection: Connection, work: str) -> bool:
    return connection.exec_driver_sql("select from halts where work = %s", (work,)).first() is not None


def may_try(connection: Connection, work: str) -> bool:
    """Whether it is the caller who tries one now, of work that has stopped."""
    return connection.exec_driver_sql(_TRY, {"work": work, "seconds": TRY_EVERY_SECONDS}).rowcount > 0


def go_on(connection: Connection, work: str) -> None:
    """One has passed: everybody goes on."""
    if connection.exec_driver_sql("delete from halts where work = %s", (work,)).rowcount:
        log.warning("goes-on", work=work)


@contextmanager
def guarded(engine: Engine, work: str) -> Iterator[bool]:
    """Run the block, if it is told True: not while this work is halted, but for once a minute.

    Nor while the database is behind (``restores``).
    What the environment makes the block raise halts the work, and is raised no further; a block that passes ends a
    halt.
    """
    with engine.begin() as connection:
        halted = is_halted(connection, work)
        may = not restores.is_behind(connection) and (not halted or may_try(connection, work))
    if not may:
        yield False
        return
    try:
        yield True
    except Exception as error:
        if fault_of(error) is not Fault.ENVIRONMENT:
            raise
        with engine.begin() as connection:
            halt(connection, work, kind_of(error))
    else:
        if halted:
            with engine.begin() as connection:
                go_on(connection, work)


def kind_of(error: BaseException) -> str:
    """The kind of an error, without the values that its text may show."""
    return type(getattr(error, "orig", None) or error).__name__
