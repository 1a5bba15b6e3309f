"""Events whose worker died: how that is known, and when such an event is given up (80).

A worker leaves a trace, a row committed by another connection before the effect. Whoever locks a pending row that
stands in somebody's trace knows that its claimer died: a living one holds the lock, and one that failed took its trace
away first. A trace of before the server's own start tells of no death: the server took the lock itself.

A batch that died is tried in ever smaller parts; an event that was alone in one is a suspect. Only after three such
deaths, with time between them, is it dead, ``kills-its-worker``: a worker may have been killed for something else.
"""

import os
import socket
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

#: A batch that died is tried again in parts of this share: a hang costs a worker's time limit at each step, and a
#: killer must be dead within 15 minutes.
SHARE = 10
#: So many workers must have died of an event alone.
LONE_DEATHS = 3
#: After its first lone death an event waits so long, and twice as long after each further one.
LONE_WAIT_SECONDS = 60

_DEAD_TRACES = """
select id, event_ids, server_started_at <> pg_postmaster_start_time() as restarted
from claims where event_ids && %(ids)b::bigint[] for update skip locked
"""

# Isolate: rows of a batch that died go to the back of the line, to be tried with a part of the others.
_ISOLATE = """
update webhook_events
set attempts = attempts + 1, batch_limit = %(batch_limit)s, due_at = now()
where id in (select id from webhook_events
             where id = any(%(ids)b::bigint[]) and state = 'pending' for update skip locked)
"""

_SUSPECT = """
update webhook_events
set attempts = attempts + 1, lone_deaths = lone_deaths + 1, batch_limit = 1,
    state = case when lone_deaths + 1 < %(deaths)s then state else 'dead' end,
    reason = case when lone_deaths + 1 < %(deaths)s then reason else 'kills-its-worker' end,
    processed_at = case when lone_deaths + 1 < %(deaths)s then processed_at else now() end,
    due_at = now() + %(wait)s * power(2, lone_deaths) * interval '1 second'
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
    for trace_id, traced, restarted in traces:
        if not restarted and len(traced) == 1:
            about = {"ids": traced, "deaths": LONE_DEATHS, "wait": LONE_WAIT_SECONDS}
            connection.exec_driver_sql(_SUSPECT, about)
        elif not restarted:
            connection.exec_driver_sql(_ISOLATE, {"ids": traced, "batch_limit": max(1, len(traced) // SHARE)})
        remove_trace(connection, trace_id)
    return bool(traces)
