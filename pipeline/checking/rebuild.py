"""Rebuilding usage records from the stored webhook events, and applying again the events of calls that differ.

One record: the calls that are stored in it, and those that its events tell of. All of them: every event by its key,
so that those of a call lie together; then the calls without events; then the sums of the records. Chunk by chunk,
each in one snapshot, whatever is stored: memory does not grow with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine

from pipeline.checking import rebuild_sums
from pipeline.checking.rebuild_calls import CallCheck, Difference, Rules, check_calls
from pipeline.events import queue
from pipeline.events.retention import KEPT_MONTHS, kept_since
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from pipeline.usage.records import RecordState

CHUNK = 1_000
#: Raw events are kept so long, by when they were received.

_RECORD = """
select r.id, r.business_id, b.name as business, r.period_start, r.period_end, r.state, r.calls, r.seconds, r.minutes,
       r.adjustment_minutes
from usage_records r join businesses b on b.id = r.business_id
where r.id = %s
"""

# Calls of the record, calls that ended in its period and count nowhere, and calls that were carried in or out.
_SIDS_STORED = """
select sid from calls where usage_record_id = %(id)s
union
select sid from calls
where usage_record_id is null and ended_at is not null and business_id = %(business_id)s
  and ended_at >= %(start)s and ended_at < %(end)s
union
select call_sid from usage_adjustments
where (usage_record_id = %(id)s or origin_record_id = %(id)s) and call_sid is not null
"""

# Calls that events tell of, stored or not: a number stands in a body by its digits, however the body is encoded.
# A callback comes within moments, the listing within two days.
_SIDS_TOLD = """
select distinct split_part(e.key, ':', 1)
from webhook_events e
where e.provider = 'twilio'
  and e.received_at >= %(start)s::timestamptz - interval '1 day'
  and e.received_at < %(end)s::timestamptz + interval '7 days'
  and exists (
    select from phone_number_assignments a
    where a.business_id = %(business_id)s
      and a.held && tstzrange(%(start)s::timestamptz - interval '1 day', %(end)s)
      and position(convert_to(ltrim(a.number, '+'), 'UTF8') in e.body) > 0)
"""

# What adjustments carried into the record, and out of it: by call, or by the record whose settlement made them.
_CARRIED = """
select call_sid, coalesce(settlement_record_id, origin_record_id) as settlement_record_id,
       coalesce(sum(minutes) filter (where usage_record_id = %(id)s), 0)::int as into_this
from usage_adjustments
where usage_record_id = %(id)s or origin_record_id = %(id)s or settlement_record_id = %(id)s
group by 1, 2
"""

_KEYS = "select key from webhook_events where provider = 'twilio' and key > %(after)s order by key limit %(limit)s"

_UNHEARD = """
select sid, exists (
  select from webhook_events e where e.provider = 'twilio'
    and e.key >= (c.sid || ':') collate "C" and e.key < (c.sid || ';') collate "C") as heard
from (select sid from calls where sid > %(after)s order by sid limit %(limit)s) c
order by sid
"""

_RECORD_IDS = "select id from usage_records where id > %(after)s order by id limit %(limit)s"

# Their rank is put below any other, or their own events would change nothing: no report is better than the stored
# one. Not of closed records, whose calls stay as they are.
_UNRANK = """
update calls c set rank = -1
where c.sid = any(%(sids)b::text[])
  and not exists (select from usage_records r where r.id = c.usage_record_id and r.state = 'closed')
"""

_HOLDERS = "select business_id from calls where sid = any(%b::text[]) and business_id is not null"


@dataclass(slots=True)
class Tally:
    """What was looked at: calls, records, calls with events still to be applied, records older than the events."""

    calls: int = 0
    records: int = 0
    waiting: int = 0
    old: int = 0


@dataclass(slots=True)
class Rebuilt:
    """A record beside what its events come to."""

    record: Any
    calls: int = 0
    seconds: int = 0
    minutes: int = 0
    adjustments: int = 0
    tally: Tally = field(default_factory=Tally)
    differences: list[Difference] = field(default_factory=list)


class TooOldError(Exception):
    """The events of this period are no longer stored in full, so it can't be rebuilt."""


class NotRebuiltError(Exception):
    """Nothing was applied again; the message says why."""


def rebuild_record(engine: Engine, record_id: int, rules: Rules, now: datetime) -> Rebuilt:
    """Rebuild one record, to the call. Raises TooOldError."""
    with _snapshot(engine) as connection:
        record = connection.exec_driver_sql(_RECORD, (record_id,)).one()
        if record.period_start < kept_since(now):
            raise TooOldError(
                f"the period from {record.period_start:%Y-%m-%d} can't be rebuilt: events are kept for"
                f" {KEPT_MONTHS} months, those before {kept_since(now):%Y-%m-%d} have been pruned"
            )
        rebuilt = Rebuilt(record)
        about = {
            "id": record.id,
            "business_id": record.business_id,
            "start": record.period_start,
            "end": record.period_end,
        }
        queue.plan_by_index(connection)
        sids = {sid for sql in (_SIDS_STORED, _SIDS_TOLD) for (sid,) in connection.exec_driver_sql(sql, about)}
        carried = connection.exec_driver_sql(_CARRIED, about).all()
        by_call: dict[str, int] = {}
        for row in carried:
            if row.call_sid is not None:
                by_call[row.call_sid] = by_call.get(row.call_sid, 0) + row.into_this
        rebuilt.adjustments = sum(row.into_this for row in carried)
        in_order = sorted(sids)
        for begin in range(0, len(in_order), CHUNK):
            for check in check_calls(connection, in_order[begin : begin + CHUNK], rules):
                _take(rebuilt, check, by_call)
        settled = {row.settlement_record_id: row.into_this for row in carried if row.call_sid is None and row.into_this}
        _take_sums(connection, rebuilt, settled)
        rebuilt.minutes += rebuilt.adjustments
    return rebuilt


def _take(rebuilt: Rebuilt, check: CallCheck, carried: Mapping[str, int]) -> None:
    """Add a call's share to the record, and what differs of it if it concerns the record."""
    calls, seconds, minutes = check.share(rebuilt.record)
    rebuilt.calls += calls
    rebuilt.seconds += seconds
    rebuilt.minutes += minutes
    if not check.concerns(rebuilt.record.id) and check.sid not in carried:
        return
    rebuilt.adjustments -= check.carried_too_much(carried.get(check.sid, 0))
    rebuilt.tally.calls += 1
    rebuilt.tally.waiting += check.waiting
    difference = check.difference()
    if difference is not None:
        rebuilt.differences.append(difference)


def _take_sums(connection: Connection, rebuilt: Rebuilt, settled: Mapping[int, int]) -> None:
    """Compare the record with the sums of its parts, and what settlements carried into it with their invoices.

    ``settled`` are the minutes of adjustments without a call, by the record whose settlement should have made them.
    """
    ids = sorted({rebuilt.record.id, *settled})
    rebuilt.differences += rebuild_sums.stray_adjustments(connection, ids)
    for each in rebuild_sums.record_sums(connection, ids):
        own = each.record_id == rebuilt.record.id
        rebuilt.tally.records += own
        if settled.get(each.record_id):
            rebuilt.adjustments -= each.settled_too_much
        rebuilt.differences += [found for found in each.differences if own or found.kind == "adjustment"]


def rebuild_all(engine: Engine, rules: Rules, now: datetime, tally: Tally) -> Iterator[Difference]:
    """The differences of every record, as they are found; what was looked at is added to ``tally``."""
    since = kept_since(now) + timedelta(days=1)  # an older call may have lost some of its events
    for sids in _told_sids(engine):
        with _snapshot(engine) as connection:
            yield from _differences(check_calls(connection, sids, rules), since, tally)
    for sids in _unheard_sids(engine):
        with _snapshot(engine) as connection:
            yield from _differences(check_calls(connection, sids, rules), since, tally)
    after = 0
    while True:
        with _snapshot(engine) as connection:
            about = {"after": after, "limit": CHUNK}
            ids = list(connection.exec_driver_sql(_RECORD_IDS, about).scalars())
            if not ids:
                return
            queue.plan_by_index(connection)
            yield from rebuild_sums.stray_adjustments(connection, ids)
            for each in rebuild_sums.record_sums(connection, ids):
                tally.records += 1
                tally.old += each.period_start < kept_since(now)
                yield from each.differences
        after = ids[-1]


def reapply(connection: Connection, rebuilt: Rebuilt) -> int:
    """Let the events of calls that differ be applied again, by the drain; returns how many events.

    Raises NotRebuiltError for a closed record, and where the record is not the sum of its calls: applying events
    moves it by differences, so it would be as wrong afterwards.
    """
    record = rebuilt.record
    if record.state == RecordState.CLOSED:
        raise NotRebuiltError(
            f"record {record.id} is closed, and stays as it was frozen; what became known since is carried by"
            " adjustments. --dry-run shows what differs"
        )
    if any(each.kind in {DriftKind.RECORD_SUM, "adjustment"} for each in rebuilt.differences):
        raise NotRebuiltError(
            f"record {record.id} is not the sum of its calls and adjustments: applying events again moves it by"
            " differences and would not repair it. Stop worker-stripe, and show this to whoever maintains it"
        )
    differing = [each for each in rebuilt.differences if each.call is not None and each.event_ids and not each.frozen]
    sids = [each.call for each in differing]
    if not sids:
        return 0
    holders = connection.exec_driver_sql(_HOLDERS, (sids,)).scalars()
    lock_businesses(connection, {record.business_id, *holders})
    connection.exec_driver_sql(_UNRANK, {"sids": sids})
    return len(queue.replay(connection, [event_id for each in differing for event_id in each.event_ids]))


def _snapshot(engine: Engine) -> Any:
    """A transaction that reads one moment: events are applied and counted in one transaction, too."""
    return engine.execution_options(isolation_level="REPEATABLE READ").begin()


def _differences(checks: Sequence[CallCheck], since: datetime, tally: Tally) -> Iterator[Difference]:
    for check in checks:
        if check.at is not None and check.at < since:
            continue
        tally.calls += check.known
        tally.waiting += check.waiting
        difference = check.difference()
        if difference is not None:
            yield difference


def _told_sids(engine: Engine) -> Iterator[list[str]]:
    """The calls that events tell of, by the order of the keys: a call's events lie between ``sid:`` and ``sid;``."""
    after = ""
    while True:
        with engine.begin() as connection:
            keys = connection.exec_driver_sql(_KEYS, {"after": after, "limit": 4 * CHUNK}).scalars().all()
        if not keys:
            return
        sids = list(dict.fromkeys(key.partition(":")[0] for key in keys))
        yield sids
        after = f"{sids[-1]};"


def _unheard_sids(engine: Engine) -> Iterator[list[str]]:
    """The stored calls that no event tells of."""
    after = ""
    while True:
        with engine.begin() as connection:
            rows = connection.exec_driver_sql(_UNHEARD, {"after": after, "limit": 4 * CHUNK}).all()
        if not rows:
            return
        unheard = [row.sid for row in rows if not row.heard]
        if unheard:
            yield unheard
        after = rows[-1].sid
