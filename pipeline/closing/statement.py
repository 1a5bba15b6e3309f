"""The statement of a closed period, frozen with it: as SQL, so that a hundred thousand are made where the rows are.

The names used: ``r`` is the usage record, ``b`` its business, ``p`` its plan, ``invoice`` the one that bills it
(or nulls), ``of_…`` what OF_CALLS joins, and ``%(now)s`` is the instant of the close.
"""

from typing import NotRequired

from typing_extensions import TypedDict

from pipeline.businesses.plan_limits import BILLS_OVERAGE


class StatedBusiness(TypedDict):
    """Whose period it was."""

    id: int
    name: str
    time_zone: str


class StatedPeriod(TypedDict):
    """Instants in ISO 8601, half-open."""

    start: str
    end: str


class StatedAdjustment(TypedDict):
    """Minutes carried into the period, or written off while it ran. ``call`` None: the difference to an invoice."""

    kind: str
    minutes: int
    call: str | None
    reason: str
    period: StatedPeriod
    at: str


class StatedPushes(TypedDict):
    """Pushes of the period, and their minutes: those that Stripe had, and all of each state."""

    count: int
    minutes: int
    by_state: dict[str, dict[str, int]]


class Statement(TypedDict):
    """The frozen document, in minutes, seconds and cents by unit; its keys are an interface and only ever grow."""

    business: StatedBusiness
    plan: str
    plan_name: str
    increment_seconds: int
    period: StatedPeriod
    for_stripe: bool
    calls: int
    calls_sha256: str
    seconds: int
    minutes: int
    included: int
    overage: int
    unbilled: int
    adjustments: int
    written_off: int
    each_adjustment: list[StatedAdjustment]
    pushed: int
    pushes: StatedPushes
    cost: NotRequired[dict[str, str]]
    gaps: list[str]
    sources: str
    dead_of_nobody: NotRequired[int]
    closed_at: str


def calls_hash(seconds: str, minutes: str) -> str:
    """SQL of the hash over counted calls, aliased ``call``, by these two columns of theirs.

    The SHA-256, in hex, of one line for each call, sorted by SID byte by byte and joined by line feeds:
    ``sid seconds minutes ended_at``, the last in UTC to the microsecond, as 2026-11-20T12:00:00.000000Z.
    Without any call it is that of nothing.
    """
    line = (
        f"concat_ws(' ', call.sid, coalesce(call.{seconds}::text, '-'), call.{minutes},"
        """ to_char(call.ended_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))"""
    )
    lines = f"""coalesce(string_agg({line}, chr(10) order by call.sid collate "C"), '')"""
    return f"encode(sha256(convert_to({lines}, 'UTF8')), 'hex')"


# Twilio's prices are kept by unit and never summed across. A call that completed without a known duration is not
# counted, and said so.
_OF_CALLS = """
  select coalesce(jsonb_object_agg(price_unit, cost::text) filter (where cost is not null), '{}') as cost,
         coalesce(sum(unknown), 0) as unknown
  from (
    select call.price_unit, sum(call.price) as cost,
           count(*) filter (where call.status = 'completed' and call.seconds is null) as unknown
    from calls call where call.usage_record_id = r.id group by call.price_unit
  ) by_unit
"""

# What the calls counted is hashed, which never changes again: what was known of them at the close.
_OF_COUNTED = f"""
  select {calls_hash("counted_seconds", "counted_minutes")} as hash
  from calls call where call.usage_record_id = r.id and call.counted
"""  # noqa: S608 - put together from fragments of ours

# Each adjustment names its call and the period it belongs to. Late calls of closed periods that were not for Stripe
# are written off; each is told in the statement of the period in which it came.
_OF_ADJUSTMENTS = """
  select coalesce(sum(a.minutes) filter (where a.kind = 'written-off'), 0) as written_off,
         coalesce(jsonb_agg(jsonb_build_object(
           'kind', a.kind,
           'minutes', a.minutes,
           'call', a.call_sid,
           'reason', case when a.call_sid is null then 'invoice-difference'
                          when late.counted or a.minutes < 0 then 'correction' else 'late-call' end,
           'period', jsonb_build_object('start', origin.period_start, 'end', origin.period_end),
           'at', a.created_at) order by a.id), '[]') as each
  from usage_adjustments a
  join usage_records origin on origin.id = a.origin_record_id
  left join calls late on late.sid = a.call_sid
  where a.business_id = r.business_id
    and (a.usage_record_id = r.id
         or a.kind = 'written-off' and a.created_at >= r.period_start and a.created_at < r.period_end)
"""

# By timestamp, not by record: a cut may have moved the bounds since they were planned.
_OF_PUSHES = """
  select coalesce(sum(count), 0) as count, coalesce(sum(minutes) filter (where state = 'sent'), 0) as minutes,
         coalesce(jsonb_object_agg(state, jsonb_build_object('count', count, 'minutes', minutes)), '{}') as by_state
  from (
    select push.state, count(*) as count, sum(push.minutes) as minutes
    from meter_pushes push
    where r.subscription_id is not null and push.business_id = r.business_id
      and push.timestamp >= r.period_start and push.timestamp < r.period_end
    group by push.state
  ) by_state
"""

#: To which the close adds whether its sources were complete (``pipeline/closing/source_gaps.py``).
STATEMENT = f"""
jsonb_build_object(
  'business', jsonb_build_object('id', b.id, 'name', b.name, 'time_zone', coalesce(r.time_zone, b.time_zone)),
  'plan', p.code,
  'plan_name', p.name,
  'increment_seconds', r.increment_seconds,
  'period', jsonb_build_object('start', r.period_start, 'end', r.period_end),
  'for_stripe', r.subscription_id is not null,
  'calls', r.calls,
  'calls_sha256', of_counted.hash,
  'seconds', r.seconds,
  'minutes', r.minutes,
  'included', r.included_minutes,
  'overage', case when {BILLS_OVERAGE} then greatest(r.minutes - r.included_minutes, 0) else 0 end,
  'unbilled', case when {BILLS_OVERAGE} then 0 else greatest(r.minutes - r.included_minutes, 0) end,
  'adjustments', r.adjustment_minutes,
  'written_off', of_adjustments.written_off,
  'each_adjustment', of_adjustments.each,
  'pushed', r.pushed_minutes,
  'pushes', jsonb_build_object(
    'count', of_pushes.count, 'minutes', of_pushes.minutes, 'by_state', of_pushes.by_state),
  'cost', of_calls.cost,
  'gaps', to_jsonb(array_remove(array[
    case when r.subscription_id is not null and invoice.id is null and not r.cut then 'no-invoice' end,
    case when of_calls.unknown > 0 then 'call-of-unknown-duration' end,
    case when of_pushes.by_state ? 'failed' then 'refused-push' end,
    case when of_pushes.by_state ?| array['planned', 'sending', 'unknown'] then 'unanswered-push' end
  ], null)),
  'closed_at', %(now)s::timestamptz
)
"""

#: Everything that STATEMENT names beside the record, its business, plan and invoice.
OF_CALLS = f"""
cross join lateral ({_OF_CALLS}) of_calls
cross join lateral ({_OF_COUNTED}) of_counted
cross join lateral ({_OF_ADJUSTMENTS}) of_adjustments
cross join lateral ({_OF_PUSHES}) of_pushes
"""
