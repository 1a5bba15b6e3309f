"""The queue of record: claiming events, and marking how they ended.

A claim is a row lock (``FOR UPDATE SKIP LOCKED``): who dies gives it back.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from pipeline.events.outcomes import EventState, Outcome
from pipeline.events.worker_deaths import isolate_the_dead
from pipeline.shared import trail

BATCH = 500
#: Of these, Stripe's: each takes some ten queries, and a long batch would hold its businesses beyond lock_timeout.
STRIPE_BATCH = 50

_STORE = """
insert into webhook_events (provider, key, type, received_at, content_type, body, recovered)
values (%(provider)s, %(key)s, %(type)s, %(now)s, %(content_type)s, %(body)s, %(recovered)s)
on conflict (provider, key) do nothing
returning id
"""

# Claim: the longest due first; rows that somebody else works on are passed over. Suspects, which a worker has died of,
# come apart from the others.
_CLAIM_DUE = """
select id, provider, key, type, content_type, body, received_at, attempts, batch_limit
from webhook_events
where state = 'pending' and due_at <= now() and batch_limit is {suspects}null
order by due_at, id
limit %(limit)s
for update skip locked
"""
_CLAIM_HEALTHY, _CLAIM_SUSPECTS = _CLAIM_DUE.format(suspects=""), _CLAIM_DUE.format(suspects="not ")

# One worker at a time has suspects, until its transaction ends: the others go on with what is healthy.
_ONE_AT_A_TIME = "select pg_try_advisory_xact_lock(hashtext('altiora: suspects'))"

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


_REPLAY = """
with former as (
  select id, state, reason, attempts from webhook_events
  where id = any(%(ids)b::bigint[]) and state = any(%(states)b::text[])
  order by id for update)
update webhook_events e
set state = 'pending', reason = null, attempts = 0, lone_deaths = 0, due_at = now(), processed_at = null,
    batch_limit = case when former.reason in ('kills-its-worker', 'dismissed kills-its-worker') then 1 end
from former where e.id = former.id
returning former.id, former.state, former.reason, former.attempts
"""


# Why it was dead stays behind the first word; why it is dismissed is the trail's to tell.
_DISMISS = """
update webhook_events set state = 'ignored', reason = 'dismissed ' || reason
where id = %s and state = 'dead'
returning id
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
    """Lock what is due, at most ``limit`` rows, of Stripe's at most STRIPE_BATCH; the rest stays for the next claim."""
    while (events := _claim(connection, _CLAIM_HEALTHY, limit)) is None:
        plan_by_index(connection)
    beyond = set([event.id for event in events if event.provider == "stripe"][STRIPE_BATCH:])
    return [event for event in events if event.id not in beyond]


def claim_suspects(connection: Connection) -> list[StoredEvent]:
    """Lock rows of which a worker has died, as many together as that allows; none while somebody else has some."""
    while connection.exec_driver_sql(_ONE_AT_A_TIME).scalar_one():
        events = _claim(connection, _CLAIM_SUSPECTS, BATCH)
        if events is not None:
            allowed = events[0].batch_limit or 1 if events else 0
            return [event for event in events if event.batch_limit == allowed][:allowed]
        plan_by_index(connection)
    return []


def _claim(connection: Connection, query: str, limit: int) -> list[StoredEvent] | None:
    """Lock rows; None where a dead worker had left a trace on some, which is committed: claim again."""
    events = [StoredEvent(*row) for row in connection.exec_driver_sql(query, {"limit": limit}).all()]
    if events and isolate_the_dead(connection, [event.id for event in events]):
        connection.commit()
        return None
    return events


def claim_these(connection: Connection, event_ids: Collection[int]) -> list[StoredEvent]:
    """Lock these rows again, those of them that are still pending and free."""
    return [StoredEvent(*row) for row in connection.exec_driver_sql(_CLAIM_THESE, {"ids": list(event_ids)}).all()]


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


class Replayed(NamedTuple):
    """An event that is applied again, and how it had ended."""

    id: int
    state: str
    reason: str | None
    attempts: int


def replay(connection: Connection, event_ids: Collection[int]) -> list[Replayed]:
    """Let ended events be applied again, with fresh attempts; returns which. Their effect is once all the same.

    One that killed its workers is tried alone.
    """
    return _replay(connection, event_ids, [state for state in EventState if state is not EventState.PENDING])


def dismiss(connection: Connection, event_id: int) -> bool:
    """Have a dead event be done with, since somebody says so; False where it is not dead. A replay undoes it."""
    return connection.exec_driver_sql(_DISMISS, (event_id,)).first() is not None


def revive_resent(connection: Connection) -> int:
    """Apply again what is dead and was sent again, as Stripe's Resend does (89); returns how many."""
    resent = connection.exec_driver_sql("delete from resent_events returning event_id").scalars().all()
    revived = _replay(connection, resent, [EventState.DEAD]) if resent else []
    note_replayed(connection, trail.STRIPE, "resend", revived)
    return len(revived)


def note_replayed(
    connection: Connection,
    who: str,
    what: str,
    replayed: Collection[Replayed],
    *,
    businesses: Mapping[int, int] | None = None,
    by_right: str | None = None,
    request_id: str | None = None,
) -> None:
    """Keep in the trail how these events had ended, of which nothing is left on them.

    ``businesses`` by event, of those that are about one.
    """
    trail.note(
        connection,
        *(
            trail.Entry(
                who,
                what,
                f"event:{each.id}",
                (businesses or {}).get(each.id),
                reason=each.reason,
                detail={"state": each.state, "attempts": each.attempts},
                by_right=by_right,
                request_id=request_id,
            )
            for each in replayed
        ),
    )


def _replay(connection: Connection, event_ids: Collection[int], states: Collection[EventState]) -> list[Replayed]:
    rows = connection.exec_driver_sql(_REPLAY, {"ids": list(event_ids), "states": list(states)})
    return sorted(Replayed(*row) for row in rows)


def replay_orphans(connection: Connection) -> int:
    """Apply again what told of child legs whose parent is known by now; returns how many.

    A child and its parent that two workers apply at the same time don't see each other; this finds them.
    """
    orphans = connection.exec_driver_sql(
        "select child.event_id from calls child join calls parent on parent.sid = child.parent_sid"
        " where child.business_id is null and parent.business_id is not null"
    )
    return len(replay(connection, [event_id for (event_id,) in orphans]))


def overdue(connection: Connection) -> int:
    """How many events have been due for over five seconds without anybody working on them."""
    counted = connection.exec_driver_sql(
        "select count(*) from (select from webhook_events"
        " where state = 'pending' and due_at < now() - interval '5 seconds' for update skip locked) as free"
    )
    return int(counted.scalar_one())
