"""What must be fetched from Stripe or Twilio, once per object however many events told of a change.

A request gives its object a new mark; the object is due while its mark is larger than the one that stood before
its last fetch. So a change that comes during a fetch is not forgotten by it, and nothing is fetched twice for it.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog
from sqlalchemy import Connection, Engine

from db.faults import Fault, fault_of

log = structlog.get_logger()

#: A fetch that has not come back after so many seconds of machine time is tried by somebody else.
LEASE_SECONDS = 60
#: Fetches that wait for their provider at the same time, in one process.
THREADS = 4
#: No new fetch begins after so many seconds; what is left is for the next run.
MAX_SECONDS = 20.0

_REQUEST = """
insert into refreshes as r (kind, object_id, reason, due_at)
values (%(kind)s, %(object_id)s, %(reason)s, now() + %(seconds)s * interval '1 second')
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason,
    marked_at = case when r.mark = r.fetched_mark then now() else r.marked_at end,  -- since when it waits
    due_at = case when r.mark = r.fetched_mark then excluded.due_at
                  when r.attempts > 0 then r.due_at  -- its provider is in trouble: events don't hurry it
                  else least(r.due_at, excluded.due_at) end
"""

# Claim: the longest due, leased rather than locked, since no transaction is open while somebody fetches.
_CLAIM = """
update refreshes r set due_at = now() + %(lease)s * interval '1 second'
from (select kind, object_id from refreshes
      where mark > fetched_mark and due_at <= now() and kind = any(%(kinds)s::text[])
      order by due_at limit 1 for update skip locked) due
where r.kind = due.kind and r.object_id = due.object_id
returning r.kind, r.object_id, r.mark
"""

_SETTLE = """
update refreshes set fetched_mark = greatest(fetched_mark, %(mark)s), attempts = 0, error = null
where kind = %(kind)s and object_id = %(object_id)s
"""

# Later and later, at most every quarter of an hour; with some chance in it, so that they don't all come at once.
_FAIL = """
update refreshes
set attempts = attempts + %(attempts)s, error = %(error)s,
    due_at = now() + least(900, 5 * 2 ^ least(attempts, 10)) * (0.75 + random() / 2) * interval '1 second'
where kind = %(kind)s and object_id = %(object_id)s and fetched_mark < %(mark)s
"""

_FETCHED = """
select object_id from refreshes where kind = %s and fetched_mark > 0 and object_id = any(%s::text[])
"""

# Release: events that wait for what was fetched go on at once; those that somebody works on see it themselves.
_RELEASE = """
update webhook_events set due_at = now()
where id in (select id from webhook_events
             where state = 'pending' and reason = %(reason)s and due_at > now() and starts_with(key, %(prefix)s)
             for update skip locked)
"""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One object to fetch, and the mark that stood when it was claimed."""

    kind: str
    object_id: str
    mark: int


class FetchError(Exception):
    """The object could not be fetched now, in the provider's words.

    ``costs_attempt`` is false where that says nothing of the object: a rate limit, a key that is refused.
    """

    def __init__(self, words: str, *, costs_attempt: bool = True) -> None:
        super().__init__(words)
        self.costs_attempt = costs_attempt


def request_fetch(connection: Connection, kind: str, object_id: str, reason: str, *, due_in_seconds: int = 0) -> None:
    """Have an object fetched, and no sooner than in so many seconds of machine time.

    ``kind`` is call, customer, subscription, invoice, payment, price, meter or event; ``reason`` says why, for whoever
    reads the table.
    """
    connection.exec_driver_sql(
        _REQUEST, {"kind": kind, "object_id": object_id, "reason": reason, "seconds": due_in_seconds}
    )


def request_fetches(
    connection: Connection,
    wanted: Mapping[tuple[str, str], str],
    *,
    delays: Mapping[tuple[str, str], int] | None = None,
    settled: FetchRequest | None = None,
) -> None:
    """Have objects fetched: ``(kind, object_id)`` to reason, some only after a delay; and settle one that was.

    The last locks of a transaction, and all in one order: prices belong to no business, so two drains or fetches meet
    here. A fetch that settled its own object first deadlocked with another that found the same price changed.
    """
    own = {} if settled is None else {(settled.kind, settled.object_id): settled}
    for key in sorted({*wanted, *own}):
        if key in own:
            mark_fetched(connection, own[key])
        if key in wanted:
            request_fetch(connection, *key, wanted[key], due_in_seconds=(delays or {}).get(key, 0))


def fetched_before(connection: Connection, kind: str, object_ids: Collection[str]) -> set[str]:
    """Which of these objects have been fetched already."""
    return {found for (found,) in connection.exec_driver_sql(_FETCHED, (kind, list(object_ids)))}


def claim_request(engine: Engine, kinds: Collection[str]) -> FetchRequest | None:
    """Take a lease on the object that has been due for the longest."""
    with engine.begin() as connection:
        row = connection.exec_driver_sql(_CLAIM, {"kinds": list(kinds), "lease": LEASE_SECONDS}).first()
    return None if row is None else FetchRequest(*row)


def mark_fetched(connection: Connection, due: FetchRequest) -> None:
    """Record that the object was fetched, as of the mark that stood before; a later mark stays due."""
    connection.exec_driver_sql(_SETTLE, {"kind": due.kind, "object_id": due.object_id, "mark": due.mark})


def release_events(connection: Connection, reason: str, key_prefix: str = "") -> bool:
    """Make the events due that wait for this reason, and whose keys begin so; returns whether there were any."""
    return connection.exec_driver_sql(_RELEASE, {"reason": reason, "prefix": key_prefix}).rowcount > 0


def fetch_due(engine: Engine, handlers: Mapping[str, Callable[[FetchRequest], None]]) -> dict[str, int]:
    """Fetch what is due, each object by the handler of its kind, until nothing is left or MAX_SECONDS have passed.

    A handler fetches outside any transaction, applies and settles in one, and raises FetchError when its provider
    did not give the object; whatever else it raises is taken for the same, so that one object can't stop the others.
    Returns how many were ``fetched`` and how many ``failed``.
    """
    deadline = time.monotonic() + MAX_SECONDS
    counts: Counter[str] = Counter()

    def work(_: int) -> None:
        while time.monotonic() < deadline and (due := claim_request(engine, handlers.keys())) is not None:
            try:
                handlers[due.kind](due)
                counts["fetched"] += 1
            except Exception as error:  # noqa: BLE001 - one bad object must not keep the others from being fetched
                _fail(engine, due, error)
                counts["failed"] += 1

    with ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as pool:
        list(pool.map(work, range(THREADS)))
    return dict(counts)


def _is_its_own(error: Exception) -> bool:
    """Whether the failure says something of the object, rather than of a connection that is lost or a lock (82)."""
    return fault_of(error) not in {Fault.CONNECTION, Fault.WAIT}


def _fail(engine: Engine, due: FetchRequest, error: Exception) -> None:
    expected = isinstance(error, FetchError)
    log.warning("fetch-failed", kind=due.kind, object_id=due.object_id, error=str(error), exc_info=not expected)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            _FAIL,
            {
                "kind": due.kind,
                "object_id": due.object_id,
                "mark": due.mark,
                "attempts": 1 if (error.costs_attempt if isinstance(error, FetchError) else _is_its_own(error)) else 0,
                "error": f"{type(error).__name__}: {error}"[:1000],
            },
        )
