"""Carrying minutes that a closed record can't take any more: into the open one, or to where a person sees them.

The rule that their own period was made with decides. ``carry`` bills them in the open period, ``write-off`` gives them
away; corrections downwards are the customer's, and are carried either way. More late minutes of one period than the
limit are held, on no record, until a person decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Literal

from sqlalchemy import Connection

from pipeline.providers.stripe_words import CLASSIC_MODE
from pipeline.shared import drifts, trail
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures, waiting_minutes
from pipeline.usage.minutes_worth import fair_price, worth

_ADJUST = """
insert into usage_adjustments
  (business_id, kind, usage_record_id, origin_record_id, call_sid, minutes, event_id, created_at, settlement_record_id)
values (%(business_id)s, %(kind)s, %(record_id)s, %(origin_id)s, %(call_sid)s, %(minutes)s, %(event_id)s, %(now)s,
        %(settlement_id)s)
"""

# The period's own, the rule that it was made with, and how many of its minutes came too late so far.
_ORIGIN = """
select r.business_id, r.subscription_id is not null and not r.trial as paid, r.currency, r.late_policy,
       r.late_limit_minutes,
       (select coalesce(sum(a.minutes), 0) from usage_adjustments a
        where a.origin_record_id = r.id and a.kind in ('carried', 'held', 'written-off', 'waiting')
          and coalesce(a.settlement_record_id, r.id) = r.id) as late,
       exists (select from usage_adjustments a where a.origin_record_id = r.id and a.kind = 'held') as holding
from usage_records r
where r.id = %s
"""

# What was given away of a call's minutes, or of all minutes of its period, and not been taken back since: a call that
# came too late has rows of its own; one that counted is part of what its settlement gave away.
_GIVEN_AWAY = """
with of_call as (
  select kind, call_sid, sum(minutes)::int as minutes from usage_adjustments
  where origin_record_id = %(origin_id)s and settlement_record_id is null
  group by kind, call_sid),
of_settlement as (
  select kind, sum(minutes)::int as minutes from usage_adjustments
  where settlement_record_id = %(origin_id)s and origin_record_id = %(origin_id)s group by kind)
select kind,
       coalesce((select greatest(minutes, 0) from of_call where of_call.kind = k.kind and call_sid = %(call_sid)s), 0)
         as of_call,
       greatest(coalesce((select minutes from of_settlement where of_settlement.kind = k.kind), 0)
                + coalesce((select sum(least(minutes, 0)) from of_call where of_call.kind = k.kind), 0), 0)
         as of_settlement
from unnest(array['waiting', 'unbillable', 'written-off']) with ordinality as k(kind, place)
order by place
"""

# What the settlement of a period gave up, less what corrections have taken back of it since.
_LOST = """
select r.id, r.business_id, r.period_start, r.period_end, r.tiers, r.currency, r.trial, s.billing_mode,
       r.minutes + (select coalesce(sum(minutes), 0)::int from usage_adjustments a
                    where a.settlement_record_id = r.id and a.kind = 'unbillable' and a.call_sid is not null) as minutes
from usage_records r join subscriptions s on s.id = r.subscription_id
where r.id = %s
"""

_LOSS_TOLD = "select exists (select from drifts where kind = 'lost-usage' and subject = %s and resolved_at is null)"

_HELD = """
select a.origin_record_id, a.business_id, sum(a.minutes) as minutes
from usage_adjustments a
where a.kind = 'held' and (%(business_id)s::bigint is null or a.business_id = %(business_id)s)
group by 1, 2 order by 1
"""

_HELD_OF_RECORD = """
select r.business_id, r.late_limit_minutes, count(a.id)::int as rows, coalesce(sum(a.minutes), 0)::int as minutes
from usage_records r left join usage_adjustments a on a.origin_record_id = r.id and a.kind = 'held'
where r.id = %s
group by r.id
"""

_DECIDE = """
update usage_adjustments set kind = %(kind)s, usage_record_id = %(record_id)s
where origin_record_id = %(origin_id)s and kind = 'held'
returning minutes
"""


# What a settlement gave up, and a person has charged after all.
_GIVEN_UP = """
select origin.business_id, origin.currency, coalesce(sum(a.minutes), 0)::int as minutes
from usage_records origin left join usage_adjustments a on a.settlement_record_id = origin.id and a.kind = %(kind)s
where origin.id = %(record_id)s
group by 1, 2
"""

# The settlement's own row bears what was told; those of corrections have lowered it.
_CHARGE = """
update usage_adjustments set kind = 'carried', usage_record_id = %(target_id)s,
  told_amount = case when %(told)s::bigint is not null then case when call_sid is null then %(told)s else 0 end end
where settlement_record_id = %(record_id)s and kind = %(kind)s
"""

_GIVE_BACK = "update usage_adjustments set kind = 'credited' where settlement_record_id = %s and kind = 'over-billed'"

_CURRENCY = "select currency from usage_records where id = %s"


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
    WAITING = "waiting"
    """Nothing bills the business at present. Then CARRIED, by itself (``waiting_minutes``), or UNBILLABLE."""
    OVER_BILLED = "over-billed"
    """The final invoice has more than we know of, for a person. Then CREDITED, where it is given back."""
    UNDER_BILLED = "under-billed"
    """The final invoice has fewer, and no push of ours explains it, for a person."""
    CREDITED = "credited"
    """Given back as money: no record takes them any more."""


@dataclass(frozen=True, slots=True)
class Late:
    """Minutes of a closed period (negative: a correction), and what told of them.

    A call, by its event; or, without one, the settlement of a record: the period's own, unless that one hands on a
    credit that it could not use. Both: the correction of a call takes back what a settlement gave away.
    """

    origin_record_id: int
    minutes: int
    call_sid: str | None = None
    event_id: int | None = None
    settlement_record_id: int | None = None


def carry_minutes(connection: Connection, late: Late, now: datetime) -> None:
    """Carry minutes that a closed record can't take any more into the business's open record, if that one is charged.

    A period that was not for Stripe, or a trial's, is written off instead, so that it eats no later allowance. What
    exceeds the plan's limit is held, and so is everything after it. What nothing charges at present waits.
    """
    origin = connection.exec_driver_sql(_ORIGIN, (late.origin_record_id,)).one()
    if origin.paid and late.minutes < 0 and late.call_sid is not None:
        late = _take_back(connection, late, origin.business_id, now)
    if late.minutes == 0:
        return
    beyond = late.minutes > 0 and origin.late + late.minutes > origin.late_limit_minutes
    # While some are held, corrections are too: a person decides about what it comes to.
    if not origin.paid or (origin.late_policy == "write-off" and late.minutes > 0):
        adjust(connection, late, AdjustmentKind.WRITTEN_OFF, origin.business_id, now)
    elif origin.holding or beyond:
        adjust(connection, late, AdjustmentKind.HELD, origin.business_id, now)
        report_held(connection, late.origin_record_id, now)
    else:
        target = waiting_minutes.charging_record(connection, origin.business_id, origin.currency, now)
        if target is not None:
            adjust(connection, late, AdjustmentKind.CARRIED, origin.business_id, now, record_id=target.id)
            record_figures.add_carried(connection, target.id, late.minutes)
        else:
            adjust(connection, late, AdjustmentKind.WAITING, origin.business_id, now)
            waiting_minutes.report_waiting(connection, origin.business_id, now)


def adjust(
    connection: Connection,
    late: Late,
    kind: AdjustmentKind,
    business_id: int,
    now: datetime,
    *,
    record_id: int | None = None,
) -> None:
    """Write down what becomes of minutes; carried ones name their record."""
    connection.exec_driver_sql(
        _ADJUST,
        {
            "business_id": business_id,
            "kind": kind,
            "record_id": record_id,
            "origin_id": late.origin_record_id,
            "call_sid": late.call_sid,
            "minutes": late.minutes,
            "event_id": late.event_id,
            "now": now,
            "settlement_id": late.settlement_record_id,
        },
    )
    if kind is AdjustmentKind.WRITTEN_OFF:
        about = {"minutes": late.minutes, "call": late.call_sid}
        entry = trail.Entry(trail.PIPELINE, "written off", f"record:{late.origin_record_id}", business_id, detail=about)
        trail.note(connection, entry)


def _take_back(connection: Connection, late: Late, business_id: int, now: datetime) -> Late:
    """A correction of minutes that were given away takes that back first; returns what is left of it (72)."""
    about = {"origin_id": late.origin_record_id, "call_sid": late.call_sid}
    for row in connection.exec_driver_sql(_GIVEN_AWAY, about).all():
        kind = AdjustmentKind(row.kind)
        for given_away, settlement in ((row.of_call, None), (row.of_settlement, late.origin_record_id)):
            taken = min(int(given_away), -late.minutes)
            if taken > 0:
                by = None if kind is AdjustmentKind.WAITING else settlement  # what waits is told call by call
                part = replace(late, minutes=-taken, settlement_record_id=by)
                adjust(connection, part, kind, business_id, now)
                late = replace(late, minutes=late.minutes + taken)
        if kind is AdjustmentKind.WAITING:
            waiting_minutes.report_waiting(connection, business_id, now)
    if connection.exec_driver_sql(_LOSS_TOLD, (f"record:{late.origin_record_id}",)).scalar():
        report_lost(connection, late.origin_record_id, now)
    return late


def report_lost(connection: Connection, record_id: int, now: datetime) -> None:
    """Tell of the minutes of this record's period that Stripe has dropped, or that none are left of them."""
    record = connection.exec_driver_sql(_LOST, (record_id,)).one()
    subject = f"record:{record_id}"
    if not record.minutes:
        drifts.resolve(connection, DriftKind.LOST_USAGE, subject, now)
        return
    lost = fair_price(connection, record, retold=False)
    drifts.report(
        connection,
        DriftKind.LOST_USAGE,
        subject,
        business_id=record.business_id,
        expected=f"{lost} billed for {record.period_start.isoformat()} to {record.period_end.isoformat()}",
        actual="none: the metered price was swapped "
        + ("in classic billing mode" if record.billing_mode == CLASSIC_MODE else "without proration")
        + ", which gives its usage away",
        evidence=lost.evidence,
        now=now,
    )


def report_held(connection: Connection, record_id: int, now: datetime) -> None:
    """Tell of the minutes of this record's period that are held, or that none are any more."""
    record = connection.exec_driver_sql(_HELD_OF_RECORD, (record_id,)).one()
    subject = f"record:{record_id}"
    if not record.rows:
        drifts.resolve(connection, DriftKind.LATE_MINUTES, subject, now)
        return
    held = worth(connection, record_id, record.minutes)
    drifts.report(
        connection,
        DriftKind.LATE_MINUTES,
        subject,
        business_id=record.business_id,
        expected=f"at most {record.late_limit_minutes} late minutes of one period",
        actual=f"held above that, and billed to nobody: {held}",
        evidence={"record": record_id, **held.evidence},
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
        currency = connection.exec_driver_sql(_CURRENCY, (what.origin_record_id,)).scalar_one()
        target = waiting_minutes.charging_record(connection, what.business_id, currency, now)
        if target is None:
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


def give_back_over_billed(connection: Connection, record_id: int) -> None:
    """A person has what a record was billed too much given back as money; the business must be locked."""
    connection.exec_driver_sql(_GIVE_BACK, (record_id,))


def charge_given_up(
    connection: Connection,
    record_id: int,
    kind: Literal[AdjustmentKind.UNBILLABLE, AdjustmentKind.UNDER_BILLED],
    told: int | None,
    now: datetime,
) -> int:
    """Carry what settling a record gave up into the open record; returns how many minutes. The business must be locked.

    ``told``: what a person was told that they are worth; None where that is not known.

    Raises ValueError when nothing charges the business now.
    """
    what = connection.exec_driver_sql(_GIVEN_UP, {"record_id": record_id, "kind": kind}).one()
    target = waiting_minutes.charging_record(connection, what.business_id, what.currency, now)
    if target is None:
        raise ValueError(
            f"business {what.business_id} has no metered subscription to carry {what.minutes} minutes into:"
            " bill them by hand"
        )
    connection.exec_driver_sql(_CHARGE, {"record_id": record_id, "kind": kind, "target_id": target.id, "told": told})
    record_figures.add_carried(connection, target.id, what.minutes)
    return int(what.minutes)
