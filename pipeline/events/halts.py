"""Halts: work that has stopped because everything in it failed alike. One row, which alarms while it stands.

A bad release, a missing column or a full disk makes every event fail. None of them is given up for that: the work
stops, tries one a minute, and goes on by itself when that one passes.
"""

import structlog
from sqlalchemy import Connection

TRY_EVERY_SECONDS = 60

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
        log.error("halted", work=work, error=error, next=f"one is tried every {TRY_EVERY_SECONDS} s; repair the cause")


def is_halted(connection: Connection, work: str) -> bool:
    return connection.exec_driver_sql("select from halts where work = %s", (work,)).first() is not None


def may_try(connection: Connection, work: str) -> bool:
    """Whether it is the caller who tries one now, of work that has stopped."""
    return connection.exec_driver_sql(_TRY, {"work": work, "seconds": TRY_EVERY_SECONDS}).rowcount > 0


def go_on(connection: Connection, work: str) -> None:
    """One has passed: everybody goes on."""
    if connection.exec_driver_sql("delete from halts where work = %s", (work,)).rowcount:
        log.warning("goes-on", work=work)
