"""The nightly check that every usage record's figures are the sums of what they are made of."""

import time
from datetime import datetime

from sqlalchemy import Connection, Engine

from pipeline import drifts

CHUNK = 2_000
KIND = "record-sum"
SECONDS = 40.0

# One statement reads one moment: counting changes calls, adjustments and records in one transaction.
_CHECK = """
with r as (select * from usage_records where id < %(before)s order by id desc limit %(limit)s)
select r.id, r.business_id,
       jsonb_build_object('calls', r.calls, 'seconds', r.seconds, 'minutes', r.minutes,
                          'adjustments', r.adjustment_minutes, 'pushed', r.pushed_minutes) as stored,
       jsonb_build_object('calls', c.calls, 'seconds', c.seconds, 'minutes', c.minutes + a.minutes,
                          'adjustments', a.minutes, 'pushed', p.minutes) as summed
from r
cross join lateral (
  select count(*) as calls, coalesce(sum(counted_seconds), 0) as seconds, coalesce(sum(counted_minutes), 0) as minutes
  from calls where usage_record_id = r.id and counted) c
cross join lateral (
  select coalesce(sum(minutes), 0) as minutes from usage_adjustments where usage_record_id = r.id) a
cross join lateral (
  select coalesce(sum(minutes), 0) as minutes from meter_pushes
  where business_id = r.business_id and timestamp >= r.period_start and timestamp < r.period_end and state = 'sent') p
order by r.id desc
"""

_AGREED = """
update drifts set resolved_at = %(now)s
where kind = %(kind)s and resolved_at is null and not subject = any(%(wrong)s::text[])
  and split_part(subject, ':', 2)::bigint >= %(last)s and split_part(subject, ':', 2)::bigint < %(before)s
"""


def resum(engine: Engine, now: datetime) -> dict[str, int]:
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


def _check_chunk(connection: Connection, before: int, now: datetime) -> tuple[list[int], int]:
    rows = connection.exec_driver_sql(_CHECK, {"before": before, "limit": CHUNK}).all()
    if not rows:
        return [], 0
    wrong = [row for row in rows if row.stored != row.summed]
    for row in wrong:
        drifts.report(
            connection,
            KIND,
            f"record:{row.id}",
            business_id=row.business_id,
            expected=str(row.summed),
            actual=str(row.stored),
            evidence={"summed": row.summed, "stored": row.stored},
            now=now,
        )
    agreed = {
        "now": now,
        "kind": KIND,
        "wrong": [f"record:{row.id}" for row in wrong],
        "before": before,
        "last": rows[-1].id,
    }
    connection.exec_driver_sql(_AGREED, agreed)
    return [row.id for row in rows], len(wrong)
