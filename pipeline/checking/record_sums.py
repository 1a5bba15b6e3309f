"""The nightly check that every usage record's figures are the sums of what they are made of, and that nothing is lost.

Beside the sums: every counted call ended inside its record (``misplaced``), every minute of a call is counted or stands
in adjustments of that call (``unaccounted``), and what was carried at the settlement is the difference to the invoice.
"""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine

from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage.record_figures import PARTS, PUSHED

CHUNK = 2_000
SECONDS = 40.0

#: The minutes that settling ``r`` carried, and those that it should have: the difference to its invoice. While it is
#: unsettled, since its invoice was voided, what had been carried and billed by then stays where it is.
SETTLEMENT = """
cross join lateral (
  select coalesce(sum(a.minutes), 0)::int as minutes,
         coalesce(sum(a.minutes) filter (where billed.id is not null), 0)::int as billed
  from usage_adjustments a
  left join usage_records billed on billed.id = a.usage_record_id and billed.state = 'closed'
  where a.call_sid is null
    and (a.settlement_record_id = r.id or a.origin_record_id = r.id and a.settlement_record_id is null)) settlement
"""
TO_SETTLE = "case when r.settled_at is null then settlement.billed else r.minutes - r.invoiced_minutes end"

# One statement reads one moment: counting changes calls, adjustments and records in one transaction.
_CHECK = f"""
with r as (
  select * from usage_records
  where id < %(before)s and (%(business_id)s::bigint is null or business_id = %(business_id)s)
  order by id desc limit %(limit)s)
select r.id, r.business_id,
       jsonb_build_object('calls', r.calls, 'seconds', r.seconds, 'minutes', r.minutes,
                          'adjustments', r.adjustment_minutes, 'pushed', r.pushed_minutes,
                          'misplaced', 0, 'unaccounted', 0, 'settlement', {TO_SETTLE}) as stored,
       jsonb_build_object('calls', counted.calls, 'seconds', counted.seconds,
                          'minutes', counted.minutes + carried.minutes, 'adjustments', carried.minutes,
                          'pushed', pushed.minutes, 'misplaced', counted.misplaced, 'unaccounted', u.minutes,
                          'settlement', settlement.minutes) as summed
from r
{PARTS}
{PUSHED}
{SETTLEMENT}
cross join lateral (
  select coalesce(sum(abs(coalesce(call.minutes - call.counted_minutes, 0) - coalesce(late.minutes, 0))), 0) as minutes
  from (select sid, minutes, counted_minutes from calls where usage_record_id = r.id) call
  full join (
    select call_sid, sum(minutes) as minutes from usage_adjustments
    where origin_record_id = r.id and call_sid is not null
    group by call_sid) late on late.call_sid = call.sid) u
order by r.id desc
"""  # noqa: S608 - put together from fragments of ours


def check_sums(engine: Engine, now: datetime) -> dict[str, int]:
    """Compare all records, the latest first; returns how many were ``checked`` and how many ``differ``.

    A record that differs is a drift, which the check that finds it right again resolves. ``unchecked`` is 1 when the
    time was up before the oldest.
    """
    until = time.monotonic() + SECONDS
    before = 2**63 - 1
    checked = differ = 0
    while time.monotonic() < until:
        with engine.begin() as connection:
            ids, wrong = _check_chunk(connection, before, now)
        if not ids:
            return {"checked": checked, "differ": differ, "unchecked": 0}
        before, checked, differ = ids[-1], checked + len(ids), differ + wrong
    return {"checked": checked, "differ": differ, "unchecked": 1}


def sum_differences(connection: Connection, business_id: int | None = None) -> list[Any]:
    """The records that differ, as rows with ``id``, ``business_id``, ``stored`` and ``summed``; nothing is written."""
    found: list[Any] = []
    before = 2**63 - 1
    while rows := _rows(connection, before, business_id):
        found += [row for row in rows if row.stored != row.summed]
        before = rows[-1].id
    return found


def _rows(connection: Connection, before: int, business_id: int | None = None) -> Sequence[Any]:
    about = {"before": before, "limit": CHUNK, "business_id": business_id}
    return connection.exec_driver_sql(_CHECK, about).all()


def _check_chunk(connection: Connection, before: int, now: datetime) -> tuple[list[int], int]:
    rows = _rows(connection, before)
    if not rows:
        return [], 0
    wrong = [row for row in rows if row.stored != row.summed]
    for row in wrong:
        drifts.report(
            connection,
            DriftKind.RECORD_SUM,
            f"record:{row.id}",
            business_id=row.business_id,
            expected=str(row.summed),
            actual=str(row.stored),
            evidence={"summed": row.summed, "stored": row.stored},
            now=now,
        )
    subjects = {f"record:{row.id}" for row in wrong}
    drifts.resolve_others(connection, DriftKind.RECORD_SUM, subjects, range(rows[-1].id, before), now)
    return [row.id for row in rows], len(wrong)
