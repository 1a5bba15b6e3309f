"""The lock of a business: who changes anything that is counted for one holds it until the commit.

And work on many businesses: a transaction for each chunk of them, under their locks, until a time is up.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping

import structlog
from sqlalchemy import Connection, Engine

from db.faults import Fault, fault_of
from pipeline.shared import halts

CHUNK = 500

# Sorted, so that two who lock the same businesses don't deadlock; not against each other's foreign keys.
_LOCK = "select id from businesses where id = any(%s::bigint[]) order by id for no key update"
_LOCK_FREE = f"{_LOCK} skip locked"

_log = structlog.get_logger(__name__)


def lock_businesses(connection: Connection, business_ids: Collection[int]) -> None:
    """Take the locks of these businesses, in the one order; every change of a record begins here."""
    if business_ids:
        connection.exec_driver_sql(_LOCK, (sorted(business_ids),))


def free_businesses(connection: Connection, business_ids: Collection[int]) -> set[int]:
    """Which of these businesses nobody holds: those are locked now, without waiting for the others."""
    return set(connection.exec_driver_sql(_LOCK_FREE, (sorted(business_ids),)).scalars())


def under_locks(
    engine: Engine,
    name: str,
    due: str,
    about: Mapping[str, object],
    work: Callable[[Connection, list[int]], Counter[str]],
    *,
    seconds: float,
) -> Counter[str]:
    """Do ``work`` for all businesses that ``due`` names, and give the sum of its counts.

    ``name`` is what the work is called; ``due`` is a query of their ids, in that order; ``about`` its parameters.

    First chunk by chunk, passing over businesses that somebody else holds, so that two workers share the work.
    Those, and the chunks that failed, come after that one by one, waiting for the lock: neither a business whose
    lock is always taken nor one that can't be worked on keeps the others from their turn. Those that fail even so
    are counted as ``failed`` and left for the next run. Where several fail alike and none passes, for a fault of what
    is around them, the work halts (``halts``).
    """
    counts: Counter[str] = Counter()
    with halts.guarded(engine, name) as may:
        if may:
            _work_off(engine, due, about, work, counts, until=time.monotonic() + seconds)
    return counts


def _work_off(
    engine: Engine,
    due: str,
    about: Mapping[str, object],
    work: Callable[[Connection, list[int]], Counter[str]],
    counts: Counter[str],
    *,
    until: float,
) -> None:
    """Add to ``counts`` what was done. Raises the last of several errors that were alike, in a row."""
    left: set[int] = set()
    for ids in _chunks(engine, due, about):
        if time.monotonic() > until:
            return
        try:
            with engine.begin() as connection:
                locked = sorted(free_businesses(connection, ids))
                done = work(connection, locked) if locked else Counter()
        except Exception:  # noqa: BLE001 - whatever it is, each business gets its own turn below
            _log.exception("chunk-failed", businesses=len(ids), next="each of them alone")
            left.update(ids)
        else:
            counts += done
            left.update(set(ids).difference(locked))
    if not left:
        return
    alike: Counter[str] = Counter()
    for ids in _chunks(engine, due, about, size=1):
        if time.monotonic() > until:
            return
        if left.isdisjoint(ids):
            continue
        try:
            with engine.begin() as connection:
                lock_businesses(connection, ids)
                counts += work(connection, ids)
        except Exception as error:  # whatever it is, it must not keep the other businesses waiting
            _log.exception("business-failed", business_id=ids[0], next="the next run tries it again")
            counts["failed"] += 1
            alike[halts.kind_of(error)] += 1
            if fault_of(error) is Fault.ENVIRONMENT and alike[halts.kind_of(error)] >= halts.ALIKE:
                raise
        else:
            alike.clear()


def _chunks(engine: Engine, due: str, about: Mapping[str, object], size: int = CHUNK) -> Iterator[list[int]]:
    with engine.begin() as connection:
        # One array: as many rows take five times the memory.
        ids: list[int] = connection.exec_driver_sql(f"select array({due})", about).scalar_one()
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
