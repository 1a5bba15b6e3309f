"""Making open usage records agree with what Stripe says of a business's metered subscriptions.

Runs under the business's lock after its mirror has changed: a provisional record is confirmed or gets its true
bounds, a record that a change cut ends there, and the calls of records that are not closed move to where they
ended. Closed records stay as they are, and so do their calls.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses import plan_limits
from pipeline.usage import late_minutes, monthly_allowance, record_figures, records, waiting_minutes
from pipeline.usage.late_minutes import Late
from pipeline.usage.periods import Period
from pipeline.usage.record_bounds import end_record, merge_record, place_record
from pipeline.usage.record_creation import NewRecord, NewRecords
from pipeline.usage.records import RecordState
from pipeline.usage.rounding import billable_minutes_sql
from pipeline.usage.stripe_spans import Span, known_spans, metered_subscriptions

_LATEST_CLOSED_END = """
select max(period_end) from usage_records
where business_id = %(business_id)s and state = 'closed' and period_start < %(end)s and period_end > %(start)s
"""

# Inside: the records that the span replaces; one that has pushes must stay, so it comes first.
_INSIDE = """
select r.id from usage_records r
where r.business_id = %(business_id)s and r.state <> 'closed'
  and r.period_start >= %(start)s and r.period_start < %(end)s
order by exists (select from meter_pushes p where p.usage_record_id = r.id) desc, r.period_start
"""

# Homeless: of a subscription that had ended before they began, or never took effect; or of none, where one had begun.
_HOMELESS = """
select r.id, r.period_start from usage_records r join subscriptions s on s.id = r.subscription_id
where r.business_id = %(business_id)s and r.state <> 'closed'
  and (s.status in ('incomplete', 'incomplete_expired')
       or s.metered_item_id is null and s.minutes_ended_at is null
       or least(s.ended_at, s.minutes_ended_at) <= r.period_start)
union
select r.id, r.period_start from usage_records r join subscriptions s on s.business_id = r.business_id
where r.business_id = %(business_id)s and r.state <> 'closed' and r.subscription_id is null
  and s.status not in ('incomplete', 'incomplete_expired')
  and (s.metered_item_id is not null or s.minutes_ended_at is not null)
  and s.period_start is not null and s.started_at <= r.period_start
  and coalesce(r.period_start < least(s.ended_at, s.minutes_ended_at), true)
order by 2
"""

_OTHERS = "select period_start, period_end from usage_records where business_id = %s and id <> %s order by 1"

_MISPLACED = """
select c.sid, c.ended_at, c.usage_record_id
from calls c join usage_records r on r.id = c.usage_record_id
where r.business_id = %(business_id)s and r.state <> 'closed' and c.counted
  and (c.ended_at < r.period_start or c.ended_at >= r.period_end)
order by c.sid
"""

# Each is rounded by the increment of the record that it goes to.
_ROUNDED = f"({billable_minutes_sql('c.seconds', 'r.increment_seconds')})"

_MOVE_CALLS = f"""
update calls c
set usage_record_id = m.record_id, counted = not m.late, minutes = {_ROUNDED},
    counted_minutes = case when m.late then 0 else {_ROUNDED} end,
    counted_seconds = case when m.late then 0 else c.counted_seconds end
from unnest(%(sids)s::text[], %(record_ids)s::bigint[], %(late)s::boolean[]) as m(sid, record_id, late)
join usage_records r on r.id = m.record_id
where c.sid = m.sid
returning c.sid, c.usage_record_id, c.minutes, m.late
"""  # noqa: S608 - put together from fragments of ours


def align_records(connection: Connection, business_id: int, now: datetime) -> None:
    """Bring the business's records that are not closed in line with its mirrored subscriptions and invoices."""
    changed: set[int] = set()
    subscriptions = metered_subscriptions(connection, [business_id])
    for subscription in subscriptions:
        # The periods from there on may be on no object of Stripe's any more.
        changed |= end_record(connection, business_id, subscription.started_at, None, free=True)
        if subscription.ended_at is not None:
            changed |= end_record(
                connection, business_id, subscription.ended_at, subscription.id, cut=subscription.removed
            )
    for span in known_spans(connection, subscriptions):
        changed |= _confirm(connection, business_id, span)
    changed |= _rehome(connection, business_id)
    changed |= waiting_minutes.return_carried(connection, business_id)
    changed |= _move_misplaced_calls(connection, business_id, now)
    if changed:
        uses = record_figures.sum_anew(connection, changed)
        shared = monthly_allowance.share_allowance(connection, [business_id])
        if shared:
            uses = record_figures.sum_anew(connection, changed | shared)
        plan_limits.check_use(connection, uses, now)
        record_figures.recount_pushed(connection, changed)
    waiting_minutes.settle_waiting(connection, business_id, now)


def _confirm(connection: Connection, business_id: int, span: Span) -> set[int]:
    """One record for the span: the one that is there, or those that it replaces."""
    start = span.start
    about = {"business_id": business_id, "start": start, "end": span.end}
    closed_end: datetime | None = connection.exec_driver_sql(_LATEST_CLOSED_END, about).scalar_one()
    if closed_end is not None:
        start = about["start"] = closed_end
        if closed_end >= span.end:
            return set()
    changed = end_record(connection, business_id, start, None, cut=span.mid_period)
    inside = [record_id for (record_id,) in connection.exec_driver_sql(_INSIDE, about)]
    if not inside:
        return changed
    keeper, *merged = inside
    for record_id in merged:
        merge_record(connection, keeper, record_id)
    home = NewRecord(
        business_id,
        span.subscription_id,
        span.plan_id,
        Period(start, span.end),
        False,
        None,
        cut=span.cut,
        price_id=span.price_id,
    )
    return changed | place_record(connection, keeper, home) | ({keeper} if merged else set())


def _rehome(connection: Connection, business_id: int) -> set[int]:
    """Records that a subscription had no longer, or not yet, when they began: they become what there was instead."""
    changed: set[int] = set()
    homes = NewRecords(connection, [business_id])
    for record_id, start in connection.exec_driver_sql(_HOMELESS, {"business_id": business_id}).all():
        others = [tuple(row) for row in connection.exec_driver_sql(_OTHERS, (business_id, record_id))]
        place_record(connection, record_id, homes.around(business_id, start, others))
        changed.add(record_id)
    homes.request_confirmations()
    return changed


def _move_misplaced_calls(connection: Connection, business_id: int, now: datetime) -> set[int]:
    """Calls whose record no longer spans their end go where they belong; a closed record takes them as carried."""
    misplaced = connection.exec_driver_sql(_MISPLACED, {"business_id": business_id}).all()
    if not misplaced:
        return set()
    found, _ = records.records_for(connection, {business_id: {row.ended_at for row in misplaced}}, now)
    targets = [records.record_at(found[business_id], row.ended_at) for row in misplaced]
    return {row.usage_record_id for row in misplaced} | _move(connection, [row.sid for row in misplaced], targets, now)


def _move(
    connection: Connection, sids: Sequence[str], targets: Sequence[records.Record | None], now: datetime
) -> set[int]:
    to = [target for target in targets if target is not None]
    moved = connection.exec_driver_sql(
        _MOVE_CALLS,
        {
            "sids": list(sids),
            "record_ids": [target.id for target in to],
            "late": [target.state == RecordState.CLOSED for target in to],
        },
    ).all()
    for sid, record_id, minutes, late in sorted(tuple(row) for row in moved):
        if late:
            late_minutes.carry_minutes(connection, Late(record_id, minutes, sid), now)
    return {target.id for target in to}
