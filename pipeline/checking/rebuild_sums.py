"""Whether records are the sums of their calls and adjustments, and every adjustment that of a call or a settlement."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.checking.rebuild_calls import Difference
from pipeline.checking.record_sums import SETTLEMENT, TO_SETTLE
from pipeline.shared.drifts import DriftKind
from pipeline.usage.record_figures import PARTS

# Sums: a record beside its calls and adjustments; what its settlement carried beside what it should have.
_SUMS = f"""
select r.id, r.period_start, r.calls, r.seconds, r.minutes, r.adjustment_minutes, counted.calls as calls_sum,
       counted.seconds as seconds_sum, counted.minutes + carried.minutes as minutes_sum,
       carried.minutes as adjustments_sum, settlement.minutes as settlement, {TO_SETTLE} as to_settle
from usage_records r
{PARTS}
{SETTLEMENT}
where r.id = any(%(ids)b::bigint[])
order by r.id
"""  # noqa: S608 - put together from fragments of ours

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
