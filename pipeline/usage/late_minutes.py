"""Carrying minutes that a closed record can't take any more: into the open one, or to where a person sees them.

The rule that their own period was made with decides. ``carry`` bills them in the open period, ``write-off`` gives them
away; corrections downwards are the customer's, and are carried either way. More late minutes of one period than the
limit are held, on no record, until a person decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from sqlalchemy import Connection

from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures, records

_ADJUST = """
insert into usage_adjustments
  (business_id, kind, usage_record_id, origin_record_id, call_sid, minutes, event_id, created_at)
values (%(business_id)s, %(kind)s, %(record_id)s, %(origin_id)s, %(call_sid)s, %(minutes)s, %(event_id)s, %(now)s)
"""

# The period's own, the rule that it was made with, and how many of its minutes came too late so far.
_ORIGIN = """
select r.business_id, r.subscription_id is not null as paid, p.code as plan, r.late_policy, r.late_limit_minutes,
       (select coalesce(sum(a.minutes), 0) from usage_adjustments a
        where a.origin_record_id = r.id and a.kind <> 'unbillable') as late,
       exists (select from usage_adjustments a where a.origin_record_id = r.id and a.kind = 'held') as holding
from usage_records r join subscription_plans p on p.id = r.plan_id
where r.id = %s
"""

_HELD = """
select a.origin_record_id, a.business_id, sum(a.minutes) as minutes
from usage_adjustments a
where a.kind = 'held' and (%(business_id)s::bigint is null or a.business_id = %(business_id)s)
group by 1, 2 order by 1
"""

_DECIDE = """
update usage_adjustments set kind = %(kind)s, usage_record_id = %(record_id)s
where origin_record_id = %(origin_id)s and kind = 'held'
returning minutes
"""


class AdjustmentKind(StrEnum):
    """What becomes of minutes that came too late for their own period."""

    CARRIED = "carried"
    """They count in an open record."""
    WRITTEN_OFF = "written-off"
    """Nobody is billed for them, as the plan's policy or a person says."""
    UNBILLABLE = "unbillable"
    """Nobody can be billed for them: a person has to look."""
    HELD = "held"
    """Above the plan's limit: they wait for a person. Then CARRIED or WRITTEN_OFF."""


def carry_minutes(
    connection: Connection,
    *,
    origin_record_id: int,
    minutes: int,
    call_sid: str | None,
    event_id: int | None,
    now: datetime,
    kind: AdjustmentKind | None = None,
) -> None:
    """Carry minutes (negative: a correction) that a closed record can't take any more.

    Into the business's open record while it has a metered subscription. A period that was not for Stripe is
    written off instead, so that it eats no later allowance; a paid one of a business that nothing bills any more
    is reported as a drift, for a person. So is what exceeds the plan's limit, and everything after it. ``kind``, where
    the caller knows better: written-off or unbillable.
    """
    if minutes == 0:
        return
    origin = connection.exec_driver_sql(_ORIGIN, (origin_record_id,)).one()
    business_id, paid, plan = origin.business_id, origin.paid, origin.plan
    beyond = minutes > 0 and origin.late + minutes > origin.late_limit_minutes
    # While some are held, corrections are too: a person decides about what it comes to.
    holds = kind is None and paid and (origin.holding or beyond)
    written_off = not paid or (origin.late_policy == "write-off" and minutes > 0)
    target = None if kind or holds or written_off else records.record_for(connection, business_id, now, now)
    billed = target is not None and target.subscription_id is not None
    connection.exec_driver_sql(
        _ADJUST,
        {
            "business_id": business_id,
            "kind": kind
            or (
                AdjustmentKind.HELD
                if holds
                else AdjustmentKind.WRITTEN_OFF
                if written_off
                else AdjustmentKind.CARRIED
                if billed
                else AdjustmentKind.UNBILLABLE
            ),
            "record_id": target.id if target is not None and billed else None,
            "origin_id": origin_record_id,
            "call_sid": call_sid,
            "minutes": minutes,
            "event_id": event_id,
            "now": now,
        },
    )
    if target is not None and billed:
        record_figures.add_carried(connection, target.id, minutes)
    elif holds:
        _report_held(connection, origin_record_id, business_id, origin.late_limit_minutes, now)
    elif kind is None and not written_off:
        drifts.report(
            connection,
            DriftKind.UNBILLABLE,
            f"record:{origin_record_id}:{call_sid or 'settlement'}",
            business_id=business_id,
            expected=f"{minutes} minutes billed on plan {plan}",
            actual="the business has no metered subscription any more",
            evidence={"minutes": minutes, "call_sid": call_sid, "event_id": event_id},
            now=now,
        )


def _report_held(connection: Connection, origin_record_id: int, business_id: int, limit: int, now: datetime) -> None:
    (minutes,) = (
        each.minutes for each in held_minutes(connection, business_id) if each.origin_record_id == origin_record_id
    )
    drifts.report(
        connection,
        DriftKind.LATE_MINUTES,
        f"record:{origin_record_id}",
        business_id=business_id,
        expected=f"at most {limit} late minutes of one period",
        actual=f"{minutes} more minutes are held: nobody has been billed for them",
        evidence={"record": origin_record_id, "minutes": int(minutes)},
        now=now,
    )


@dataclass(frozen=True, slots=True)
class HeldMinutes:
    """Late minutes of one period that wait for a person."""

    origin_record_id: int
    business_id: int
    minutes: int


def held_minutes(connection: Connection, business_id: int | None = None) -> Sequence[HeldMinutes]:
    """What is held, of one business or of all."""
    rows = connection.exec_driver_sql(_HELD, {"business_id": business_id})
    return [HeldMinutes(origin, business, int(minutes)) for origin, business, minutes in rows]


def decide_held(
    connection: Connection,
    what: HeldMinutes,
    verdict: Literal["carry", "write-off"],
    now: datetime,
    note: str | None = None,
) -> int:
    """Carry held minutes into the open record, or write them off; returns how many. The business must be locked.

    Nothing when somebody has decided already. Raises ValueError for ``carry`` when nothing bills the business now.
    """
    target = None
    if verdict == "carry":
        target = records.record_for(connection, what.business_id, now, now)
        if target.subscription_id is None:
            raise ValueError(
                f"business {what.business_id} has no metered subscription to carry {what.minutes} minutes into:"
                " write them off, by resolving the drift, or bill them by hand"
            )
    decided = connection.exec_driver_sql(
        _DECIDE,
        {
            "kind": AdjustmentKind.WRITTEN_OFF if target is None else AdjustmentKind.CARRIED,
            "record_id": None if target is None else target.id,
            "origin_id": what.origin_record_id,
        },
    )
    minutes = sum(int(each) for each in decided.scalars())
    if target is not None and minutes:
        record_figures.add_carried(connection, target.id, minutes)
    drifts.resolve(connection, DriftKind.LATE_MINUTES, f"record:{what.origin_record_id}", now, note=note)
    return minutes
