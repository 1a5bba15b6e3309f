"""The queue of record: claiming events, leaving traces, and marking how they ended.

A claim is a row lock (``FOR UPDATE SKIP LOCKED``), and its trace a row committed by another connection before
the effect. Whoever locks a pending row that stands in somebody's trace knows that its claimer died: a living one
holds the lock, and one that failed took its trace away first.
"""

import os
import socket
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Engine

from pipeline.events.outcomes import EventState, Outcome

BATCH = 500
#: Of these, Stripe's: each takes some ten queries, and a long batch would hold its businesses beyond lock_timeout.
STRIPE_BATCH = 50

_STORE = """
insert into webhook_events (provider, key, type, received_at, content_type, body, recovered)
values (%(provider)s, %(key)s, %(type)s, %(now)s, %(content_type)s, %(body)s, %(recovered)s)
on conflict (provider, key) do nothing
returning id
"""

# Claim: the longest due first; rows that somebody else works on are passed over.
_CLAIM_DUE = """
select id, provider, key, type, content_type, body, received_at, attempts, batch_limit
from webhook_events
where state = 'pending' and due_at <= now()
order by due_at, id
limit %(limit)s
for update skip locked
"""

# Claim again, by id: a half of a batch that failed, or all of it with more businesses locked.
_CLAIM_THESE = """
select id, provider, key, type, content_type, body, received_at, attempts, batch_limit
from webhook_events
where id = any(%(ids)b::bigint[]) and state = 'pending'
order by due_at, id
for update skip locked
"""

# What PostgreSQL last counted of these tables is older than the rows of a busy queue: a plan that was made for an
# empty table scans or sorts a full one (47 ms for each batch's look at the stored calls). All of it has an index.
_BY_INDEX = "select set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true)"

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

_MARK_PROCESSED = """
update webhook_events set state = 'processed', reason = null, batch_limit = null, processed_at = now()
where id = any(%(ids)b::bigint[])
"""

_MARK_OTHERS = """
update webhook_events e
set state = o.state, reason = o.reason, batch_limit = null,
    processed_at = case when o.state = 'pending' then null else now() end,
    due_at = case when o.state = 'pending' then now() + o.retry_seconds * interval '1 second' else e.due_at end
from unnest(%(ids)b::bigint[], %(states)b::text[], %(reasons)b::text[], %(retries)b::int[])
     as o(id, state, reason, retry_seconds)
where e.id = o.id
"""


class StoredEvent(NamedTuple):
    """A pending row of webhook_events, locked by this claim."""

    id: int
    provider: str
    key: str
    type: str | None
    content_type: str
    body: bytes
    received_at: datetime
    attempts: int
    batch_limit: int | None


def store_event(
    connection: Connection,
    *,
    provider: str,
    key: str,
    type: str | None,  # noqa: A002 - the column's name
    body: bytes,
    content_type: str,
    now: datetime,
    recovered: bool = False,
) -> bool:
    """Store an event that we fetched ourselves; returns whether it is new. ``now`` is business time."""
    stored = connection.exec_driver_sql(
        _STORE,
        {
            "provider": provider,
            "key": key,
            "type": type,
            "now": now,
            "content_type": content_type,
            "body": body,
            "recovered": recovered,
        },
    )
    return stored.first() is not None


def plan_by_index(connection: Connection) -> None:
    """Have this transaction's statements use indexes, whatever the statistics say."""
    connection.exec_driver_sql(_BY_INDEX)


def claim_due(connection: Connection, limit: int = BATCH) -> list[StoredEvent]:
    """Lock what is due, at most ``limit`` rows, of Stripe's at most STRIPE_BATCH; the others stay for the next claim.

    Rows of batches that died come only with their own kind.
    """
    while True:
        events = [StoredEvent(*row) for row in connection.exec_driver_sql(_CLAIM_DUE, {"limit": limit}).all()]
        if not events or not _isolate_the_dead(connection, [event.id for event in events]):
            break
        connection.commit()
        plan_by_index(connection)
    healthy = [event for event in events if event.batch_limit is None]
    if healthy or not events:
        beyond = set([event.id for event in healthy if event.provider == "stripe"][STRIPE_BATCH:])
        return [event for event in healthy if event.id not in beyond]
    allowed = events[0].batch_limit or 1
    return [event for event in events if event.batch_limit == allowed][:allowed]


def claim_these(connection: Connection, event_ids: Collection[int]) -> list[StoredEvent]:
    """Lock these rows again, those of them that are still pending and free."""
    return [StoredEvent(*row) for row in connection.exec_driver_sql(_CLAIM_THESE, {"ids": list(event_ids)}).all()]


def _isolate_the_dead(connection: Connection, event_ids: Sequence[int]) -> bool:
    """Deal with traces that dead workers left on these locked rows; returns whether there were any."""
    traces = connection.exec_driver_sql(_DEAD_TRACES, {"ids": event_ids}).all()
    for trace_id, traced in traces:
        if len(traced) == 1:
            connection.exec_driver_sql(_BURY, {"ids": traced})
        else:
            connection.exec_driver_sql(_ISOLATE, {"ids": traced, "batch_limit": max(1, len(traced) // 2)})
        connection.exec_driver_sql("delete from claims where id = %s", (trace_id,))
    return bool(traces)


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


def mark(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Write how each event ended, in the transaction that has its effect."""
    processed = [outcome.event_id for outcome in outcomes if outcome.state is EventState.PROCESSED]
    if processed:
        connection.exec_driver_sql(_MARK_PROCESSED, {"ids": processed})
    others = [outcome for outcome in outcomes if outcome.state is not EventState.PROCESSED]
    if others:
        connection.exec_driver_sql(
            _MARK_OTHERS,
            {
                "ids": [outcome.event_id for outcome in others],
                "states": [outcome.state for outcome in others],
                "reasons": [outcome.reason for outcome in others],
                "retries": [outcome.retry_seconds for outcome in others],
            },
        )


def count_attempt(connection: Connection, event_id: int) -> None:
    """Note that this event alone could not be applied once more."""
    connection.exec_driver_sql("update webhook_events set attempts = attempts + 1 where id = %s", (event_id,))


def replay(connection: Connection, event_ids: Collection[int]) -> int:
    """Let ended events be applied again, with fresh attempts; returns how many. Their effect is once all the same."""
    done = connection.exec_driver_sql(
        "update webhook_events set state = 'pending', reason = null, attempts = 0, batch_limit = null,"
        " due_at = now(), processed_at = null"
        " where id = any(%b::bigint[]) and state <> 'pending'",
        (list(event_ids),),
    )
    return done.rowcount


def replay_orphans(connection: Connection) -> int:
    """Apply again what told of child legs whose parent is known by now; returns how many.

    A child and its parent that two workers apply at the same time don't see each other; this finds them.
    """
    orphans = connection.exec_driver_sql(
        "select child.event_id from calls child join calls parent on parent.sid = child.parent_sid"
        " where child.business_id is null and parent.business_id is not null"
    )
    return replay(connection, [event_id for (event_id,) in orphans])


def overdue(connection: Connection) -> int:
    """How many events have been due for over five seconds without anybody working on them."""
    counted = connection.exec_driver_sql(
        "select count(*) from (select from webhook_events"
        " where state = 'pending' and due_at < now() - interval '5 seconds' for update skip locked) as free"
    )
    return int(counted.scalar_one())
