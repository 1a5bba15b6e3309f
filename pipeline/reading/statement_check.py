"""Reading a frozen statement: the calls behind it, by day and by number, and whether its hash still is theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection

from pipeline.closing.statement import Statement, calls_hash
from pipeline.shared.rows import typed_row, typed_rows

_STATEMENT = """
select id, state, statement from usage_records where id = %s
"""

_BY_DAY = """
select (ended_at at time zone %(time_zone)s)::date as day, count(*) as calls,
       sum(counted_seconds)::bigint as seconds, sum(counted_minutes)::int as minutes
from calls where usage_record_id = %(id)s and counted
group by 1 order by 1
"""

_BY_NUMBER = """
select coalesce(number, '') as number, count(*) as calls,
       sum(counted_seconds)::bigint as seconds, sum(counted_minutes)::int as minutes
from calls where usage_record_id = %(id)s and counted
group by 1 order by minutes desc, 1
"""

_HASHES = f"""
select {calls_hash("counted_seconds", "counted_minutes")} as counted, {calls_hash("seconds", "minutes")} as present
from calls call where call.usage_record_id = %s and call.counted
"""  # noqa: S608 - put together from fragments of ours

# What has become known of the record's calls since it was closed, and what of it has been carried.
_SINCE = """
select c.sid as call, c.counted, c.counted_seconds, c.counted_minutes, c.seconds, c.minutes, of_call.carried,
       c.minutes - c.counted_minutes = of_call.carried as explained
from calls c
cross join lateral (
  select coalesce(sum(a.minutes), 0)::int as carried from usage_adjustments a
  where a.call_sid = c.sid and a.origin_record_id = c.usage_record_id) of_call
where c.usage_record_id = %s
  and (not c.counted or c.seconds is distinct from c.counted_seconds or c.minutes <> c.counted_minutes)
order by c.ended_at, c.sid
"""


@dataclass(frozen=True, slots=True)
class FrozenRecord:
    """A usage record with its statement, which is None while the record has not been closed."""

    id: int
    state: str
    statement: Statement | None


@dataclass(frozen=True, slots=True)
class DayOfCalls:
    """The counted calls, seconds and minutes of one local day."""

    day: date
    calls: int
    seconds: int
    minutes: int


@dataclass(frozen=True, slots=True)
class NumbersCalls:
    """The counted calls, seconds and minutes of one number; "" for calls of no number."""

    number: str
    calls: int
    seconds: int
    minutes: int


@dataclass(frozen=True, slots=True)
class Since:
    """A call that is known better, or at all, only since its period was closed."""

    call: str
    counted: bool
    counted_seconds: int
    counted_minutes: int
    seconds: int | None
    minutes: int
    carried: int
    """Minutes that its adjustments carry to other periods, or write off."""
    explained: bool
    """They are all that has become known since."""


@dataclass(frozen=True, slots=True)
class Verification:
    """A frozen hash beside the calls as they are. All hashes are SHA-256 in hex."""

    frozen: str
    counted: str
    """Of what the calls counted at the close, as stored now: differs only where somebody changed what is frozen."""
    present: str
    """Of what is known of the same calls now: late corrections make it differ."""
    since: Sequence[Since]
    intact: bool
    """The frozen calls still are what the statement was made of, and all news of them has been carried."""


def read_statement(connection: Connection, record_id: int) -> FrozenRecord:
    """The usage record with its statement. Raises LookupError when there is no such record."""
    record = typed_row(FrozenRecord, connection.exec_driver_sql(_STATEMENT, (record_id,)))
    if record is None:
        raise LookupError(f"there is no usage record {record_id}")
    return record


def calls_by_day(connection: Connection, record_id: int, time_zone: str) -> list[DayOfCalls]:
    """The counted calls of each local day on which calls ended."""
    about = {"id": record_id, "time_zone": time_zone}
    return typed_rows(DayOfCalls, connection.exec_driver_sql(_BY_DAY, about))


def calls_by_number(connection: Connection, record_id: int) -> list[NumbersCalls]:
    """The counted calls of each number, the most used first."""
    return typed_rows(NumbersCalls, connection.exec_driver_sql(_BY_NUMBER, {"id": record_id}))


def verify_statement(connection: Connection, record_id: int, frozen: str) -> Verification:
    """Hash the record's calls anew, and find what has become known of them since it was closed."""
    counted, present = connection.exec_driver_sql(_HASHES, (record_id,)).one()
    since = typed_rows(Since, connection.exec_driver_sql(_SINCE, (record_id,)))
    intact = frozen == counted and all(each.explained for each in since)
    return Verification(frozen, counted, present, since, intact)
