"""Whose fault a failure is, and so what becomes of what was being done: the one table for it (case 82).

By SQLSTATE, as PostgreSQL and the driver tell it ("PostgreSQL Error Codes", appendix A of its manual); what has none
failed before the server said anything, or is an exception of Python's.
"""

from enum import StrEnum
from typing import Final


class Fault(StrEnum):
    """Whose fault it is, and what follows."""

    CONNECTION = "connection"
    """The connection is worth nothing, or leads to the wrong server: throw it away, and do the same on another."""
    WAIT = "wait"
    """Somebody holds what is needed, or was served first: later, and it costs no attempt."""
    EVENT = "event"
    """What was being applied can't be: it alone fails, again and again."""
    ENVIRONMENT = "environment"
    """Perhaps everything fails like this: a missing column, a full disk. Whether it does, others will show."""


#: The first that fits: whole states before their classes. What is not here is of the environment.
_BY_SQLSTATE: Final = {
    "25006": Fault.CONNECTION,  # read_only_sql_transaction: a failover left us on the node that follows
    "25P03": Fault.CONNECTION,  # idle_in_transaction_session_timeout: we were paused
    "57P01": Fault.CONNECTION,  # admin_shutdown
    "57P02": Fault.CONNECTION,  # crash_shutdown
    "57P03": Fault.CONNECTION,  # cannot_connect_now
    "57P04": Fault.CONNECTION,  # database_dropped
    "57P05": Fault.CONNECTION,  # idle_session_timeout
    "08": Fault.CONNECTION,  # connection exceptions
    "55P03": Fault.WAIT,  # lock_not_available
    "57014": Fault.WAIT,  # query_canceled: by statement_timeout, or by a person
    "40": Fault.WAIT,  # serialization failures and deadlocks
    "0A": Fault.EVENT,  # not supported; but see the plan below
    "22": Fault.EVENT,  # data exceptions
    "23": Fault.EVENT,  # integrity constraint violations
    "54": Fault.EVENT,  # program limits exceeded
    "P0": Fault.EVENT,  # raised by our own functions
}

#: A migration changed what a statement that was prepared before it returns; a new connection prepares it anew.
_CACHED_PLAN: Final = "cached plan must not change result type"


def fault_of(error: BaseException) -> Fault:
    """Whose fault this is; ``error`` as the driver or SQLAlchemy raised it, or anything else."""
    origin = getattr(error, "orig", None) or error
    state: str | None = getattr(origin, "sqlstate", None)
    if state is not None:
        if state == "0A000" and _CACHED_PLAN in str(origin):
            return Fault.CONNECTION
        return _BY_SQLSTATE.get(state) or _BY_SQLSTATE.get(state[:2]) or Fault.ENVIRONMENT
    if type(origin).__module__.partition(".")[0] in {"psycopg", "psycopg_pool"}:
        return Fault.CONNECTION  # it was lost, or never made
    if isinstance(origin, MemoryError | OSError):
        return Fault.ENVIRONMENT
    return Fault.EVENT
