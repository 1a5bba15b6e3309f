"""What a usage record counts, and the only code that changes it: calls, seconds, minutes, what was pushed and invoiced.

Each figure is a sum of rows: of counted calls, of adjustments (minutes that were carried into the record), of sent
pushes. Where rows change one by one the figure moves by the difference; where bounds move it is summed anew. The
business's lock is held.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.plan_limits import BILLS_OVERAGE, Use
from pipeline.shared.rows import typed_rows

#: Joins the sums of what ``r``, a usage record, is made of: ``counted`` calls and ``carried`` minutes.
PARTS = """
cross join lateral (
  select count(*)::int as calls, coalesce(sum(counted_seconds), 0)::bigint as seconds,
         coalesce(sum(counted_minutes), 0)::int as minutes,
         count(*) filter (where ended_at < r.period_start or ended_at >= r.period_end)::int as misplaced
  from calls where usage_record_id = r.id and counted) counted
cross join lateral (
  select coalesce(sum(minutes), 0)::int as minutes from usage_adjustments where usage_record_id = r.id) carried
"""

#: Joins ``pushed``, the minutes that Stripe has of the period of ``r``. By the pushes' timestamps, not by the record
#: that they were planned for: a cut may have moved the bounds since.
PUSHED = """
cross join lateral (
  select coalesce(sum(minutes), 0)::int as minutes from meter_pushes
  where business_id = r.business_id and timestamp >= r.period_start and timestamp < r.period_end and state = 'sent'
) pushed
"""

_ADD_CALLS = f"""
update usage_records r
set calls = r.calls + d.calls, seconds = r.seconds + d.seconds, minutes = r.minutes + d.minutes
from unnest(%(record_ids)b::bigint[], %(calls)b::int[], %(seconds)b::bigint[], %(minutes)b::int[])
     as d(record_id, calls, seconds, minutes)
join subscription_plans p on true
where r.id = d.record_id and p.id = r.plan_id
returning r.id as record_id, r.business_id, {BILLS_OVERAGE} as bills_overage, r.included_minutes as included,
          r.minutes - r.adjustment_minutes - d.minutes as before, r.minutes - r.adjustment_minutes as after
"""  # noqa: S608 - put together from fragments of ours

_ADD_CARRIED = """
update usage_records set minutes = minutes + %(minutes)s, adjustment_minutes = adjustment_minutes + %(minutes)s
where id = %(record_id)s
"""

_SUM = f"""
update usage_records r
set calls = summed.calls, seconds = summed.seconds, minutes = summed.minutes, adjustment_minutes = summed.carried
from (select r.id, counted.calls, counted.seconds, counted.minutes + carried.minutes as minutes,
             carried.minutes as carried
      from usage_records r {PARTS} where r.id = any(%(ids)s::bigint[])) summed,
     subscription_plans p
where r.id = summed.id and p.id = r.plan_id
returning r.id as record_id, r.business_id, {BILLS_OVERAGE} as bills_overage, r.included_minutes as included,
          null as before, r.minutes - r.adjustment_minutes as after
"""  # noqa: S608 - put together from fragments of ours

_RECOUNT = f"""
update usage_records r set pushed_minutes = recounted.minutes
from (select r.id, pushed.minutes from usage_records r {PUSHED} where r.id = any(%(ids)s::bigint[])) recounted
where r.id = recounted.id and r.pushed_minutes <> recounted.minutes
"""  # noqa: S608 - as above

_ADD_PUSHED = """
update usage_records set pushed_minutes = pushed_minutes + %(minutes)s
where business_id = %(business_id)s and period_start <= %(timestamp)s and %(timestamp)s < period_end
"""

_SET_INVOICED = """
update usage_records set invoiced_minutes = %(minutes)s, invoice_id = %(invoice_id)s, settled_at = %(now)s
where id = %(record_id)s
"""

_SET_UNSETTLED = "update usage_records set invoiced_minutes = null, invoice_id = null, settled_at = null where id = %s"


@dataclass(slots=True)
class CallDifference:
    """What counting adds to one usage record; negative where calls leave it."""

    calls: int = 0
    seconds: int = 0
    minutes: int = 0

    def add(self, sign: int, seconds: int, minutes: int) -> None:
        """One call comes (1) or goes (-1)."""
        self.calls += sign
        self.seconds += sign * seconds
        self.minutes += sign * minutes


def add_calls(connection: Connection, differences: Mapping[int, CallDifference]) -> list[Use]:
    """Move the figures of these records, by id, by what came and went; returns each one's use before and after."""
    moved = sorted(
        (record_id, each.calls, each.seconds, each.minutes)
        for record_id, each in differences.items()
        if each.calls or each.seconds or each.minutes
    )
    if not moved:
        return []
    names = ("record_ids", "calls", "seconds", "minutes")
    about = dict(zip(names, map(list, zip(*moved, strict=True)), strict=True))
    return typed_rows(Use, connection.exec_driver_sql(_ADD_CALLS, about))


def add_carried(connection: Connection, record_id: int, minutes: int) -> None:
    """Count minutes (negative: a correction) that an adjustment carries into the record."""
    connection.exec_driver_sql(_ADD_CARRIED, {"record_id": record_id, "minutes": minutes})


def sum_anew(connection: Connection, record_ids: Collection[int]) -> list[Use]:
    """Sum these records from their calls and adjustments, after calls or bounds have moved; returns each one's use."""
    return typed_rows(Use, connection.exec_driver_sql(_SUM, {"ids": sorted(record_ids)}))


def recount_pushed(connection: Connection, record_ids: Collection[int]) -> None:
    """Bring ``pushed_minutes`` in line with the pushes by timestamp; for records whose bounds have moved."""
    connection.exec_driver_sql(_RECOUNT, {"ids": sorted(record_ids)})


def add_pushed(connection: Connection, business_id: int, minutes: int, timestamp: datetime) -> None:
    """Count minutes that Stripe has now, in the record that holds their timestamp."""
    about = {"minutes": minutes, "business_id": business_id, "timestamp": timestamp}
    connection.exec_driver_sql(_ADD_PUSHED, about)


def set_invoiced(connection: Connection, record_id: int, minutes: int, invoice_id: str | None, now: datetime) -> None:
    """Settle a closed record: its final invoice bills so many minutes; without one, none are."""
    about = {"record_id": record_id, "minutes": minutes, "invoice_id": invoice_id, "now": now}
    connection.exec_driver_sql(_SET_INVOICED, about)


def set_unsettled(connection: Connection, record_id: int) -> None:
    """The invoice that settled it bills nothing any more: another one may, or a person decides."""
    connection.exec_driver_sql(_SET_UNSETTLED, (record_id,))
