"""Whether records are the sums of their calls and adjustments, and every adjustment that of a call or a settlement."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.checking.rebuild_calls import Difference
from pipeline.shared.drifts import DriftKind

# Sums: a record beside its calls and adjustments; what its settlement carried beside what it should have.
_SUMS = """
select r.id, r.period_start, r.calls, r.seconds, r.minutes, r.adjustment_minutes, c.calls as calls_sum,
       c.seconds as seconds_sum, c.minutes + a.minutes as minutes_sum, a.minutes as adjustments_sum,
       o.settlement, case when r.settled_at is null then 0 else r.minutes - r.invoiced_minutes end as to_settle
from usage_records r
cross join lateral (
  select count(*)::int as calls, coalesce(sum(counted_seconds), 0)::bigint as seconds,
         coalesce(sum(counted_minutes), 0)::int as minutes
  from calls where usage_record_id = r.id and counted) c
cross join lateral (
  select coalesce(sum(minutes), 0)::int as minutes from usage_adjustments where usage_record_id = r.id) a
cross join lateral (
  select coalesce(sum(minutes), 0)::int as settlement
  from usage_adjustments where origin_record_id = r.id and call_sid is null) o
where r.id = any(%(ids)b::bigint[])
order by r.id
"""

# By origin, so that each is found once.
_STRAY_ADJUSTMENTS = """
select a.id, a.minutes, a.call_sid, a.origin_record_id
from usage_adjustments a
where a.origin_record_id = any(%(ids)b::bigint[]) and a.call_sid is not null
  and not exists (select from calls c where c.sid = a.call_sid)
order by a.id
"""


@dataclass(frozen=True, slots=True)
class RecordSums:
    """A record, and what of its sums differs."""

    record_id: int
    period_start: datetime
    settled_too_much: int
    """Minutes that adjustments without a call carried beyond the difference to its invoice."""
    differences: Sequence[Difference]


def stray_adjustments(connection: Connection, ids: Sequence[int]) -> list[Difference]:
    """Adjustments of these records' minutes that name a call which is not stored."""
    return [
        Difference(
            "adjustment",
            row.origin_record_id,
            row.call_sid,
            f"adjustment {row.id} carries {row.minutes:+} minutes of the call",
            "no such call is stored",
        )
        for row in connection.exec_driver_sql(_STRAY_ADJUSTMENTS, {"ids": ids})
    ]


def record_sums(connection: Connection, ids: Sequence[int]) -> Iterator[RecordSums]:
    """Each of these records beside the sums of its parts."""
    for row in connection.exec_driver_sql(_SUMS, {"ids": list(ids)}):
        found = []
        stored = (row.calls, row.seconds, row.minutes, row.adjustment_minutes)
        summed = (row.calls_sum, row.seconds_sum, row.minutes_sum, row.adjustments_sum)
        if stored != summed:
            found.append(
                Difference(DriftKind.RECORD_SUM, row.id, None, _figures(stored), f"{_figures(summed)}, by its calls")
            )
        if row.settlement != row.to_settle:
            carried = f"{row.settlement:+} minutes carried by adjustments without a call"
            found.append(Difference("adjustment", row.id, None, carried, f"{row.to_settle:+} by its settlement"))
        yield RecordSums(row.id, row.period_start, row.settlement - row.to_settle, found)


def _figures(figures: tuple[int, int, int, int]) -> str:
    return "{:,} calls, {:,} s, {:,} minutes, of which {:,} carried".format(*figures)
