"""Reading a frozen statement: the calls behind it, by day and by number, and whether its hash still is theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pipeline.closing.statement import calls_hash

_STATEMENT = """
select r.id, r.state, r.statement, r.period_start, r.period_end, r.calls, r.seconds, r.minutes, r.adjustment_minutes
from usage_records r where r.id = %s
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
select c.sid, c.counted, c.counted_seconds, c.counted_minutes, c.seconds, c.minutes,
       coalesce((select sum(a.minutes) from usage_adjustments a
                 where a.call_sid = c.sid and a.origin_record_id = c.usage_record_id), 0)::int as carried
from calls c
where c.usage_record_id = %s
  and (not c.counted or c.seconds is distinct from c.counted_seconds or c.minutes <> c.counted_minutes)
order by c.ended_at, c.sid
"""


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

    @property
    def explained(self) -> bool:
        return self.minutes - self.counted_minutes == self.carried


@dataclass(frozen=True, slots=True)
class Verification:
    """A frozen hash beside the calls as they are. All hashes are SHA-256 in hex."""

    frozen: str
    counted: str
    """Of what the calls counted at the close, as stored now: differs only where somebody changed what is frozen."""
    present: str
    """Of what is known of the same calls now: late corrections make it differ."""
    since: Sequence[Since]

    @property
    def intact(self) -> bool:
        """Whether the frozen calls still are what the statement was made of, and all news of them has been carried."""
        return self.frozen == self.counted and all(each.explained for each in self.since)


def read_statement(connection: Connection, record_id: int) -> Any:
    """The usage record with its statement, which is None while the record has not been closed."""
    return connection.exec_driver_sql(_STATEMENT, (record_id,)).one()


def by_day(connection: Connection, record_id: int, time_zone: str) -> list[dict[str, Any]]:
    """The counted calls, seconds and minutes of each local day on which calls ended."""
    rows = connection.exec_driver_sql(_BY_DAY, {"id": record_id, "time_zone": time_zone})
    return [dict(row) for row in rows.mappings()]


def by_number(connection: Connection, record_id: int) -> list[dict[str, Any]]:
    """The counted calls, seconds and minutes of each number, the most used first; "" for calls of no number."""
    return [dict(row) for row in connection.exec_driver_sql(_BY_NUMBER, {"id": record_id}).mappings()]


def verify_statement(connection: Connection, record_id: int, frozen: str) -> Verification:
    """Hash the record's calls anew, and find what has become known of them since it was closed."""
    counted, present = connection.exec_driver_sql(_HASHES, (record_id,)).one()
    since = [Since(*row) for row in connection.exec_driver_sql(_SINCE, (record_id,))]
    return Verification(frozen, counted, present, since)
