"""Events whose worker died: how that is known, and when such an event is given up.

A worker leaves a trace, a row committed by another connection before the effect. Whoever locks a pending row that
stands in somebody's trace knows that its claimer died: a living one holds the lock, and one that failed took its trace
away first. A batch that died is tried in halves; an event that was alone in one is dead, ``kills-its-worker``.
"""

import os
import socket
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

_DEAD_TRACES = "select id, event_ids from claims where event_ids && %(ids)b::bigint[] for update skip locked"

# Isolate: rows of a batch that died go to the back of the line, to be tried with half as many others.
_ISOLATE = """
update webhook_events
set attempts = attempts + 1, batch_limit = %(batch_limit)s, due_at = now()
where id in (select id from webhook_events
             where id = any(%(ids)b::bigint[]) and state = 'pending' for update skip locked)
"""

_BURY = """
update webhook_events
set attempts = attempts + 1, state = 'dead', reason = 'kills-its-worker', processed_at = now()
where id in (select id from webhook_events
             where id = any(%(ids)b::bigint[]) and state = 'pending' for update skip locked)
"""


def leave_trace(engine: Engine, event_ids: Sequence[int]) -> int:
    """Commit, on a connection of its own, who is about to work on what; returns the trace's id."""
    with engine.begin() as connection:
        # A trace need not survive a crash of PostgreSQL, only one of ours: don't wait for the disk.
        connection.exec_driver_sql("set local synchronous_commit = off")
        made = connection.exec_driver_sql(
            "insert into claims (worker, event_ids) values (%s, %b::bigint[]) returning id",
            (f"{socket.gethostname()}:{os.getpid()}", list(event_ids)),
        )
        return int(made.scalar_one())


def remove_trace(connection: Connection, trace_id: int) -> None:
    """Take the trace away, in the transaction that has the effect."""
    connection.exec_driver_sql("delete from claims where id = %s", (trace_id,))


def isolate_the_dead(connection: Connection, event_ids: Sequence[int]) -> bool:
    """Deal with traces that dead workers left on these locked rows; returns whether there were any."""
    traces = connection.exec_driver_sql(_DEAD_TRACES, {"ids": event_ids}).all()
    for trace_id, traced in traces:
        if len(traced) == 1:
            connection.exec_driver_sql(_BURY, {"ids": traced})
        else:
            connection.exec_driver_sql(_ISOLATE, {"ids": traced, "batch_limit": max(1, len(traced) // 2)})
        connection.exec_driver_sql("delete from claims where id = %s", (trace_id,))
    return bool(traces)
