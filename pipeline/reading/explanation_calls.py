"""The calls behind a figure: summed by what became of them, the first ones listed with their webhook events."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection

from pipeline.calls.billable_leg import WHY_NOT_BILLED
from pipeline.providers.twilio_words import CallStatus
from pipeline.shared.rows import typed_row
from pipeline.usage.rounding import billable_minutes_sql

#: Why a call is counted, or is not. A call that is not counted may have no record, and is found by when it ended.
_WHY = f"""
case when c.counted then 'counted'
     when c.usage_record_id is not null then 'late'
     else coalesce({WHY_NOT_BILLED}, 'nowhere') end
"""

COUNTED = "counted"
NOWHERE = "nowhere"

#: In words; a status is its own word. ``nowhere`` never is: a completed call of known length that no record has.
WHYS = {
    COUNTED: "counted",
    "late": "not counted here: known only after the period was closed",
    "unknown-seconds": "not counted: completed, and its seconds are not known yet",
    "child-leg": "not counted: a child leg, whose parent is billed",
    NOWHERE: "counted nowhere: its events are to be applied again",
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

_FIELDS = """
c.sid, c.parent_sid, c.number, c.direction, c.status, c.started_at, c.ended_at, c.estimated, c.seconds, c.minutes,
c.counted, c.counted_seconds, c.counted_minutes, c.why, events.events
"""

# A callback's key begins with the call's SID, so its events are a range of the unique index.
_EVENTS = """
cross join lateral (
  select coalesce(jsonb_agg(jsonb_build_object(
           'id', e.id, 'key', e.key, 'type', e.type, 'state', e.state, 'reason', e.reason,
           'received_at', e.received_at, 'recovered', e.recovered, 'decided', e.id is not distinct from c.event_id)
           order by e.id),
         '[]') as events
  from webhook_events e
  where e.provider = 'twilio'
    and e.key >= (c.sid || ':') collate "C" and e.key < (c.sid || ';') collate "C"
) events
"""

_LISTED = f"""
select {_FIELDS}
from (select * from ({_OF_PERIOD}) c where (why = 'counted') = %(counted)s
      order by ended_at, sid limit %(limit)s) c
{_EVENTS}
order by c.ended_at, c.sid
"""  # noqa: S608 - as above

_ONE = f"""
select {_FIELDS} from (select c.*, {_WHY} as why from calls c where c.sid = %(sid)s) c {_EVENTS}
"""  # noqa: S608 - as above
_STEP = """
select coalesce(r.increment_seconds, p.increment_seconds)
from calls c left join usage_records r on r.id = c.usage_record_id
left join businesses b on b.id = c.business_id left join subscription_plans p on p.id = b.plan_id
where c.sid = %s
"""

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


class ExplainedPeriod(Protocol):
    """What of a usage record chooses its calls."""

    @property
    def id(self) -> int: ...
    @property
    def business_id(self) -> int: ...
    @property
    def period_start(self) -> datetime: ...
    @property
    def period_end(self) -> datetime: ...
    @property
    def increment_seconds(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CallGroup:
    """Calls that ended in the period or count in the record, summed by why they do or do not."""

    why: str
    calls: int
    seconds: int
    minutes: int
    since: int
    """Minutes that became known after it was counted."""
    rounded: int
    """How many of the calls count their seconds rounded as they should be."""
    said: str
    """The reason in words."""

    @property
    def counted(self) -> bool:
        return self.why == COUNTED


@dataclass(frozen=True, slots=True)
class CallEvent:
    """A stored event of a call; ``received_at`` is business time, ``decided``: the call is as this one says."""

    id: int
    key: str
    type: str | None
    state: str
    reason: str | None
    received_at: datetime
    recovered: bool
    decided: bool


@dataclass(frozen=True, slots=True)
class ExplainedCall:
    """One call with its events. ``seconds`` and ``minutes`` as known now, ``counted_…`` as they count."""

    sid: str
    parent_sid: str | None
    number: str | None
    direction: str | None
    status: str
    started_at: datetime | None
    ended_at: datetime | None
    estimated: bool
    seconds: int | None
    minutes: int
    counted: bool
    counted_seconds: int
    counted_minutes: int
    why: str
    events: Sequence[CallEvent]
    rounding: str
    """How seconds became minutes, in words; empty where they don't."""
    said: str
    """Why it is counted or is not, in words."""


@dataclass(frozen=True, slots=True)
class CrossingCall:
    """The call that brought a record's minutes from ``before`` to ``after``, past a threshold."""

    sid: str
    ended_at: datetime
    minutes: int
    before: int
    after: int


def call_groups(connection: Connection, record: ExplainedPeriod, *, bill_child_legs: bool) -> list[CallGroup]:
    """The calls that ended in the period or count in the record, summed by why they do or do not."""
    about = {**_about(record, bill_child_legs=bill_child_legs), "step": record.increment_seconds}
    rows = connection.exec_driver_sql(_GROUPS, about)
    return [CallGroup(**row._asdict(), said=said_of(row.why)) for row in rows]


def listed_calls(
    connection: Connection, record: ExplainedPeriod, limit: int, *, counted: bool, bill_child_legs: bool
) -> list[ExplainedCall]:
    """The first ``limit`` of the counted calls, or of the others, each with its stored events."""
    about = {**_about(record, bill_child_legs=bill_child_legs), "limit": limit, "counted": counted}
    rows = [row._asdict() for row in connection.exec_driver_sql(_LISTED, about)]
    return [_explained(row, record.increment_seconds) for row in rows]


def explained_call(connection: Connection, sid: str, *, bill_child_legs: bool) -> ExplainedCall | None:
    """One call with its stored events; None where there is none of that SID."""
    row = connection.exec_driver_sql(_ONE, {"sid": sid, "bill_child_legs": bill_child_legs}).one_or_none()
    if row is None:
        return None
    return _explained(row._asdict(), connection.exec_driver_sql(_STEP, (sid,)).scalar_one())


def crossing_call(connection: Connection, record_id: int, threshold: int) -> CrossingCall | None:
    """The call that brought the record's own minutes to the threshold; None when its calls don't reach it (now)."""
    about = {"id": record_id, "threshold": threshold}
    return typed_row(CrossingCall, connection.exec_driver_sql(_CROSSING, about))


def said_of(why: str) -> str:
    """The reason in words."""
    return WHYS.get(why, f"not counted: {why}")


def _explained(row: Mapping[str, Any], step: int) -> ExplainedCall:
    return ExplainedCall(
        **{**row, "events": [_event(each) for each in row["events"]]},
        rounding=_rounding(row, step),
        said=said_of(row["why"]),
    )


def _event(event: Mapping[str, Any]) -> CallEvent:
    return CallEvent(**{**event, "received_at": datetime.fromisoformat(event["received_at"])})


def _about(record: ExplainedPeriod, *, bill_child_legs: bool) -> dict[str, object]:
    return {
        "id": record.id,
        "business_id": record.business_id,
        "start": record.period_start,
        "end": record.period_end,
        "bill_child_legs": bill_child_legs,
    }


def _rounding(call: Mapping[str, Any], step: int) -> str:
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
