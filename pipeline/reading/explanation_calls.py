"""The calls behind a figure: summed by what became of them, the first ones listed with their webhook events."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection

from pipeline.calls.billable_leg import WHY_NOT_BILLED
from pipeline.providers.twilio_words import CallStatus
from pipeline.usage.rounding import billable_minutes_sql

#: Why a call is counted, or is not. A call that is not counted may have no record, and is found by when it ended.
_WHY = f"""
case when c.counted then 'counted'
     when c.usage_record_id is not null then 'late'
     else coalesce({WHY_NOT_BILLED}, 'nowhere') end
"""

#: In words; a status is its own word. ``nowhere`` never is: a completed call of known length that no record has.
WHYS = {
    "counted": "counted",
    "late": "not counted here: known only after the period was closed",
    "unknown-seconds": "not counted: completed, and its seconds are not known yet",
    "child-leg": "not counted: a child leg, whose parent is billed",
    "nowhere": "counted nowhere: its events are to be applied again",
}

_OF_PERIOD = f"""
select c.*, {_WHY} as why from calls c where c.usage_record_id = %(id)s
union all
select c.*, {_WHY} as why from calls c
where c.usage_record_id is null and c.ended_at is not null and c.business_id = %(business_id)s
  and c.ended_at >= %(start)s and c.ended_at < %(end)s
"""  # noqa: S608 - put together from fragments of ours

_GROUPS = f"""
select why, count(*) as calls, coalesce(sum(counted_seconds), 0)::bigint as seconds,
       coalesce(sum(counted_minutes), 0)::int as minutes,
       coalesce(sum(minutes - counted_minutes), 0)::int as since,
       count(*) filter (where counted and counted_minutes =
         {billable_minutes_sql("counted_seconds", "%(step)s")}) as rounded
from ({_OF_PERIOD}) c
group by why order by why = 'counted' desc, why
"""  # noqa: S608 - as above

# A callback's key begins with the call's SID, so its events are a range of the unique index.
_LISTED = f"""
select c.sid, c.parent_sid, c.number, c.direction, c.status, c.started_at, c.ended_at, c.estimated, c.seconds,
       c.minutes, c.counted, c.counted_seconds, c.counted_minutes, c.why, events.events
from (select * from ({_OF_PERIOD}) c where (why = 'counted') = %(counted)s
      order by ended_at, sid limit %(limit)s) c
cross join lateral (
  select coalesce(jsonb_agg(jsonb_build_object(
           'id', e.id, 'key', e.key, 'type', e.type, 'state', e.state, 'reason', e.reason,
           'received_at', e.received_at, 'recovered', e.recovered, 'decided', e.id = c.event_id) order by e.id),
         '[]') as events
  from webhook_events e
  where e.provider = 'twilio'
    and e.key >= (c.sid || ':') collate "C" and e.key < (c.sid || ';') collate "C"
) events
order by c.ended_at, c.sid
"""  # noqa: S608 - as above

# By the events that decided about the calls: nearly the order in which they were counted. A call that was corrected
# since stands where it was corrected.
_CROSSING = """
select sid, ended_at, counted_minutes as minutes, after - counted_minutes as before, after
from (
  select c.*, sum(counted_minutes) over (order by event_id nulls first, sid)::int as after
  from calls c where usage_record_id = %(id)s and counted
) summed
where after >= %(threshold)s and counted_minutes > 0
order by after limit 1
"""


def call_groups(connection: Connection, record: Any, *, bill_child_legs: bool) -> list[dict[str, Any]]:
    """The calls that ended in the period or count in the record, summed by why they do or do not.

    ``since`` is what became known after it was counted; ``rounded`` how many are their seconds rounded as they should.
    """
    rows = connection.exec_driver_sql(
        _GROUPS, {**_about(record, bill_child_legs=bill_child_legs), "step": record.increment_seconds}
    )
    return [dict(row) for row in rows.mappings()]


def listed_calls(
    connection: Connection, record: Any, limit: int, *, counted: bool, bill_child_legs: bool
) -> list[dict[str, Any]]:
    """The first ``limit`` of the counted calls, or of the others, each with its stored events."""
    about = {**_about(record, bill_child_legs=bill_child_legs), "limit": limit, "counted": counted}
    return [
        {**row, "rounding": _rounding(row, record.increment_seconds), "said": said_of(row["why"])}
        for row in connection.exec_driver_sql(_LISTED, about).mappings()
    ]


def crossing_call(connection: Connection, record_id: int, threshold: int) -> dict[str, Any] | None:
    """The call that brought the record's own minutes to the threshold; None when its calls don't reach it (now)."""
    row = connection.exec_driver_sql(_CROSSING, {"id": record_id, "threshold": threshold}).mappings().first()
    return dict(row) if row else None


def said_of(why: str) -> str:
    """The reason in words."""
    return WHYS.get(why, f"not counted: {why}")


def total_of(groups: Sequence[dict[str, Any]], name: str, *, counted: bool | None = None) -> int:
    """The sum of one of the groups' figures; ``counted`` chooses the counted calls or the others."""
    return sum(each[name] for each in groups if counted is None or (each["why"] == "counted") is counted)


def _about(record: Any, *, bill_child_legs: bool) -> dict[str, Any]:
    return {
        "id": record.id,
        "business_id": record.business_id,
        "start": record.period_start,
        "end": record.period_end,
        "bill_child_legs": bill_child_legs,
    }


def _rounding(call: Any, step: int) -> str:
    """How seconds become minutes, as "61 s -> 2 minutes, in steps of 60 s"."""
    if call["status"] != CallStatus.COMPLETED or call["seconds"] is None:
        return ""
    seconds, minutes = (
        (call["counted_seconds"], call["counted_minutes"]) if call["counted"] else (call["seconds"], call["minutes"])
    )
    told = f"{seconds} s -> {minutes} {'minute' if minutes == 1 else 'minutes'}, in steps of {step} s"
    if call["counted"] and (call["seconds"], call["minutes"]) != (seconds, minutes):
        told += f"; corrected since to {call['seconds']} s, {call['minutes']} minutes"
    return told
