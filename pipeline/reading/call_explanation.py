"""Why a call costs what it costs: what became of it, its rounding, its place in its period, and who told of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.reading.explanation_calls import ExplainedCall, explained_call
from pipeline.reading.period_money import period_money
from pipeline.shared.rows import typed_row, typed_rows

# Calls take up the included minutes in the order of the events that decided about them, as alerts are raised. A call
# that was corrected since stands where it was corrected.
_PLACE = """
select r.id as usage_record_id, r.state, r.period_start, r.period_end, r.included_minutes as included,
       coalesce((select sum(o.counted_minutes) from calls o
                 where o.usage_record_id = r.id and o.counted
                   and (coalesce(o.event_id, 0), o.sid) < (coalesce(c.event_id, 0), c.sid)), 0)::int as before
from calls c join usage_records r on r.id = c.usage_record_id
where c.sid = %s
"""
_CARRIED = """
select kind, minutes, usage_record_id, origin_record_id, created_at from usage_adjustments
where call_sid = %s order by id
"""


@dataclass(frozen=True, slots=True)
class PlaceInPeriod:
    """The record that a call is in, and the minutes of its calls that were counted ``before`` this one."""

    usage_record_id: int
    state: str
    period_start: datetime
    period_end: datetime
    included: int
    before: int


@dataclass(frozen=True, slots=True)
class CarriedMinutes:
    """Minutes of a call that became known after its period was closed: into which record, None: written off."""

    kind: str
    minutes: int
    usage_record_id: int | None
    origin_record_id: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CallExplanation:
    """One call taken apart. ``amount``, in the currency's smallest unit, is what its counted minutes cost by the rates.

    None: nothing charges them. Those of all calls of a period, with what was carried into it and a flat amount of the
    first tier, make up what its minutes cost.
    """

    call: ExplainedCall
    period: PlaceInPeriod | None
    included: int
    """Of its counted minutes, those that the plan includes."""
    above: int
    """And those beyond."""
    currency: str | None
    amount: int | None
    carried: Sequence[CarriedMinutes]


def explain_call(connection: Connection, sid: str, *, bill_child_legs: bool) -> CallExplanation | None:
    """One call; None where there is none of that SID. ``bill_child_legs`` is the setting."""
    call = explained_call(connection, sid, bill_child_legs=bill_child_legs)
    if call is None:
        return None
    place = typed_row(PlaceInPeriod, connection.exec_driver_sql(_PLACE, (sid,)))
    inside, currency, amount = 0, None, None
    if place is not None:
        inside = max(0, min(place.included - place.before, call.counted_minutes))
        (money,) = period_money(connection, [place.usage_record_id])
        currency, amount = money.currency, money.amount_between(place.before, place.before + call.counted_minutes)
    return CallExplanation(
        call=call,
        period=place,
        included=inside,
        above=call.counted_minutes - inside,
        currency=currency,
        amount=amount,
        carried=typed_rows(CarriedMinutes, connection.exec_driver_sql(_CARRIED, (sid,))),
    )
