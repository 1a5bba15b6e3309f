"""Writing calls: what a report replaces, what it leaves, and what its call counted before.

The upsert leaves the former figures in the row (``was_*``) and returns them: a separate read would be older than what
the upsert replaced (read that way, 1,090 minutes were off after 41,631 shuffled events with three workers).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pipeline.calls.call_owner import Candidate
from pipeline.calls.call_reports import CallReport
from pipeline.usage.records import Record, RecordState

_COLUMNS = (
    ("sid", "text"),
    ("parent_sid", "text"),
    ("business_id", "bigint"),
    ("number", "text"),
    ("direction", "text"),
    ("from_number", "text"),
    ("to_number", "text"),
    ("status", "text"),
    ("rank", "bigint"),
    ("started_at", "timestamptz"),
    ("ended_at", "timestamptz"),
    ("estimated", "boolean"),
    ("seconds", "int"),
    ("minutes", "int"),
    ("counted", "boolean"),
    ("usage_record_id", "bigint"),
    ("price", "numeric"),
    ("price_unit", "text"),
    ("event_id", "bigint"),
    ("agent_id", "bigint"),
)
_NAMES = ", ".join(name for name, _ in _COLUMNS)
#: What a call counts follows from the others.
_COUNTS = "case when counted then minutes else 0 end, case when counted then seconds else 0 end"
#: Arrays travel in binary (%b): as text they took three quarters of a batch's time in this process.
_ARRAYS = ", ".join(f"%({name})b::{type_}[]" for name, type_ in _COLUMNS)
#: What an earlier report said is kept where the better one is silent.
_KEPT = ("parent_sid", "business_id", "number", "direction", "from_number", "to_number", "price", "price_unit")
_REPLACED = (
    "status",
    "rank",
    "started_at",
    "ended_at",
    "estimated",
    "seconds",
    "minutes",
    "counted",
    "counted_minutes",
    "counted_seconds",
    "usage_record_id",
    "event_id",
)

# Its agent is the one of the number that was called: a leg that another one opened has none, and one that turns out to
# be another business's has none of that one's.
# Upsert: a report that outranks the stored one replaces it; an orphan takes its business. By SID: the lock order.
_UPSERT = f"""
insert into calls as c ({_NAMES}, counted_minutes, counted_seconds)
select {_NAMES}, {_COUNTS} from unnest({_ARRAYS}) as reports({_NAMES}) order by sid
on conflict (sid) do update set
  was_business_id = c.business_id, was_usage_record_id = c.usage_record_id, was_counted = c.counted,
  was_minutes = c.minutes, was_counted_minutes = c.counted_minutes, was_counted_seconds = c.counted_seconds,
  {", ".join(f"{name} = coalesce(excluded.{name}, c.{name})" for name in _KEPT)},
  agent_id = case
    when coalesce(excluded.parent_sid, c.parent_sid) is not null then null
    when excluded.number is not null then excluded.agent_id
    when excluded.business_id is null or excluded.business_id = c.business_id then c.agent_id end,
  {", ".join(f"{name} = excluded.{name}" for name in _REPLACED)}
where excluded.rank > c.rank or (c.business_id is null and excluded.business_id is not null)
returning sid, was_business_id, was_usage_record_id, was_counted, was_counted_minutes, was_counted_seconds
"""  # noqa: S608 - names of columns, all from the tuples above

# Of a call whose record has closed only the truth about it moves on; what it counted there is frozen.
_UPDATE_FROZEN = """
update calls c
set was_minutes = c.minutes, status = r.status, rank = r.rank, seconds = r.seconds, minutes = r.minutes,
    price = coalesce(r.price, c.price), price_unit = coalesce(r.price_unit, c.price_unit), event_id = r.event_id
from unnest(%(sid)b::text[], %(status)b::text[], %(rank)b::bigint[], %(seconds)b::int[], %(minutes)b::int[],
            %(price)b::numeric[], %(price_unit)b::text[], %(event_id)b::bigint[])
     as r(sid, status, rank, seconds, minutes, price, price_unit, event_id)
where c.sid = r.sid and r.rank > c.rank
returning c.sid, c.usage_record_id, c.minutes - c.was_minutes
"""

# Not a join: planned while the tables were new and empty, it read all calls by their record, batch after batch.
_FROZEN = """
select c.sid from calls c
where c.sid = any(%b::text[])
  and (select r.state from usage_records r where r.id = c.usage_record_id) = 'closed'
"""

_RANKED = """
select sid, rank, status, seconds, case when not estimated then ended_at end
from calls where sid = any(%b::text[])
"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a report makes its call count: billable minutes, and where."""

    minutes: int = 0
    seconds: int = 0
    record: Record | None = None

    @property
    def in_record(self) -> bool:
        return self.record is not None and self.record.state != RecordState.CLOSED


def frozen(connection: Connection, sids: Sequence[str]) -> set[str]:
    """Those of these calls that count in a closed record."""
    return {sid for (sid,) in connection.exec_driver_sql(_FROZEN, (list(sids),))}


def upsert(connection: Connection, calls: Iterable[tuple[Candidate, Counted]]) -> Sequence[Any]:
    """Insert these calls, sorted by SID, or replace what they outrank; returns what the changed ones were."""
    columns = zip(*(_row(candidate, counted) for candidate, counted in calls), strict=True)
    parameters = {name: list(values) for (name, _), values in zip(_COLUMNS, columns, strict=True)}
    return connection.exec_driver_sql(_UPSERT, parameters).all()


def update_frozen(connection: Connection, reports: Sequence[CallReport], minutes: Sequence[int]) -> Sequence[Any]:
    """The truth about calls of closed records; returns by how many minutes each changed, and its record."""
    names = ("sid", "status", "rank", "seconds", "price", "price_unit", "event_id")
    parameters: dict[str, Any] = {name: [getattr(report, name) for report in reports] for name in names}
    return connection.exec_driver_sql(_UPDATE_FROZEN, {**parameters, "minutes": list(minutes)}).all()


def ranked(connection: Connection, sids: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """The rank of each of these calls, and its content, as CallReport.content has it."""
    return {row.sid: tuple(row)[1:] for row in connection.exec_driver_sql(_RANKED, (list(sids),))}


def _row(candidate: Candidate, counted: Counted) -> tuple[Any, ...]:
    report = candidate.report
    return (
        report.sid,
        report.parent_sid,
        candidate.business_id,
        candidate.number,
        report.direction,
        report.from_number,
        report.to_number,
        report.status,
        report.rank,
        report.started_at,
        report.ended_at,
        report.estimated,
        report.seconds,
        counted.minutes,
        counted.in_record,
        counted.record.id if counted.record else None,
        report.price,
        report.price_unit,
        report.event_id,
        candidate.agent_id,
    )
