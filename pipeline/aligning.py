"""Making open usage records agree with what Stripe says of a business's metered subscription.

Runs under the business's lock after its mirror has changed: a provisional record is confirmed or gets its true
bounds, a record that a change cut ends there, and the calls of records that are not closed move to where they
ended. Closed records stay as they are, and so do their calls.
"""

from datetime import datetime

from sqlalchemy import Connection

from pipeline import carrying, limits, pushes, records
from pipeline.new_records import MeteredSubscription, metered_subscriptions
from pipeline.periods import Period

_LATEST_CLOSED_END = """
select max(period_end) from usage_records
where business_id = %(business_id)s and state = 'closed' and period_end <= %(end)s
"""

# End: a record that runs into the period (or beyond the subscription's end) ends where that begins.
_END_AT = """
update usage_records set period_end = %(at)s
where business_id = %(business_id)s and state <> 'closed' and period_start < %(at)s and period_end > %(at)s
  and (%(subscription_id)s::bigint is null or subscription_id = %(subscription_id)s)
returning id
"""

# Inside: the records that the period replaces; one that has pushes must stay, so it comes first.
_INSIDE = """
select r.id from usage_records r
where r.business_id = %(business_id)s and r.state <> 'closed'
  and r.period_start >= %(start)s and r.period_start < %(end)s
order by exists (select from meter_pushes p where p.usage_record_id = r.id) desc, r.period_start
"""

_MERGE = (
    "update calls set usage_record_id = %(keeper)s where usage_record_id = %(merged)s",
    "update usage_adjustments set usage_record_id = %(keeper)s where usage_record_id = %(merged)s",
    "update usage_adjustments set origin_record_id = %(keeper)s where origin_record_id = %(merged)s",
    "delete from usage_alerts where usage_record_id = %(merged)s",
    "delete from usage_records where id = %(merged)s",
)

_CONFIRM = """
update usage_records r
set period_start = %(start)s, period_end = %(end)s, subscription_id = %(subscription_id)s, provisional = false,
    plan_id = p.id, included_minutes = p.included_minutes
from subscription_plans p
where r.id = %(id)s
  and p.id = coalesce(%(plan_id)s, (select plan_id from businesses where id = r.business_id))
  and (r.period_start, r.period_end, r.subscription_id, r.provisional, r.plan_id, r.included_minutes)
      is distinct from (%(start)s, %(end)s, %(subscription_id)s, false, p.id, p.included_minutes)
returning r.id
"""

_MISPLACED = """
select c.sid, c.ended_at, c.usage_record_id
from calls c join usage_records r on r.id = c.usage_record_id
where r.business_id = %(business_id)s and r.state <> 'closed' and c.counted
  and (c.ended_at < r.period_start or c.ended_at >= r.period_end)
order by c.sid
"""

# Sum: figures of these records anew from their calls and adjustments.
_SUM = """
update usage_records r
set calls = s.calls, seconds = s.seconds, minutes = s.minutes + a.minutes, adjustment_minutes = a.minutes
from (select r.id, count(c.sid) as calls, coalesce(sum(c.counted_seconds), 0) as seconds,
             coalesce(sum(c.counted_minutes), 0) as minutes
      from usage_records r left join calls c on c.usage_record_id = r.id and c.counted
      where r.id = any(%(ids)s::bigint[]) group by r.id) s,
     (select r.id, coalesce(sum(a.minutes), 0) as minutes
      from usage_records r left join usage_adjustments a on a.usage_record_id = r.id
      where r.id = any(%(ids)s::bigint[]) group by r.id) a,
     subscription_plans p
where r.id = s.id and r.id = a.id and p.id = r.plan_id
returning r.id, r.business_id, r.plan_id, p.bills_overage, r.included_minutes, -1 as before,
          r.minutes - r.adjustment_minutes as after, r.period_end
"""


def align_records(connection: Connection, business_id: int, now: datetime) -> None:
    """Bring the business's records that are not closed in line with its mirrored subscriptions."""
    changed: set[int] = set()
    subscriptions = metered_subscriptions(connection, [business_id])
    for subscription in subscriptions:
        if subscription.ended_at is not None:
            changed |= _end_at(connection, business_id, subscription.ended_at, subscription.id)
    living = next((each for each in subscriptions if each.ended_at is None or each.ended_at > now), None)
    if living is not None:
        changed |= _confirm_current(connection, business_id, living)
    changed |= _move_misplaced_calls(connection, business_id, now)
    if changed:
        summed = connection.exec_driver_sql(_SUM, {"ids": sorted(changed)})
        limits.check_use(connection, [limits.Use(*row) for row in summed], now)
        pushes.recount(connection, sorted(changed))
    limits.settle_limits(connection, [business_id], now)


def _end_at(connection: Connection, business_id: int, at: datetime, subscription_id: int | None) -> set[int]:
    parameters = {"business_id": business_id, "at": at, "subscription_id": subscription_id}
    return {record_id for (record_id,) in connection.exec_driver_sql(_END_AT, parameters)}


def _confirm_current(connection: Connection, business_id: int, subscription: MeteredSubscription) -> set[int]:
    """One record for the metered item's current period: the one that is there, or those that it replaces."""
    period = Period(subscription.period_start, subscription.period_end).clipped(None, subscription.ended_at)
    about = {"business_id": business_id, "start": period.start, "end": period.end}
    closed_end = connection.exec_driver_sql(_LATEST_CLOSED_END, about).scalar_one()
    if closed_end is not None and closed_end > period.start:
        period = period.clipped(closed_end, None)
        about["start"] = period.start
    if period.start >= period.end:
        return set()
    changed = _end_at(connection, business_id, period.start, None)
    inside = [record_id for (record_id,) in connection.exec_driver_sql(_INSIDE, about)]
    if not inside:
        return changed
    keeper, *merged = inside
    for record_id in merged:
        for statement in _MERGE:
            connection.exec_driver_sql(statement, {"keeper": keeper, "merged": record_id})
    confirmed = connection.exec_driver_sql(
        _CONFIRM, {**about, "id": keeper, "subscription_id": subscription.id, "plan_id": subscription.plan_id}
    )
    return changed | {record_id for (record_id,) in confirmed} | ({keeper} if merged else set())


def _move_misplaced_calls(connection: Connection, business_id: int, now: datetime) -> set[int]:
    """Calls whose record no longer spans their end go where they belong; a closed record takes them as carried."""
    changed: set[int] = set()
    for sid, ended_at, record_id in connection.exec_driver_sql(_MISPLACED, {"business_id": business_id}).all():
        target = records.record_for(connection, business_id, ended_at, now)
        changed |= {record_id, target.id}
        late = target.state == "closed"
        minutes = connection.exec_driver_sql(
            "update calls set usage_record_id = %(target)s, counted = not %(late)s,"
            " counted_minutes = case when %(late)s then 0 else counted_minutes end,"
            " counted_seconds = case when %(late)s then 0 else counted_seconds end"
            " where sid = %(sid)s returning minutes",
            {"target": target.id, "late": late, "sid": sid},
        ).scalar_one()
        if late:
            carrying.carry(
                connection, origin_record_id=target.id, minutes=minutes, call_sid=sid, event_id=None, now=now
            )
    return changed
