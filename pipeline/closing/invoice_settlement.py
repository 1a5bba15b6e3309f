"""Settling a closed period: its finalised invoice is compared with its minutes, and the difference carried.

The invoice is the truth, not our list of pushes: Stripe accepts usage for a period that is over, and bills it nowhere.
A difference is carried where our pushes explain it: the invoice has what arrived. Where they don't, somebody else has
written to the meter or edited the draft, and a person decides: nothing is given back or charged silently (69).
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.closing import carried_worth
from pipeline.credits import given_back
from pipeline.meter import push_states
from pipeline.meter.push_sending import mark_sent
from pipeline.meter.push_states import PUSH_COLUMNS, push_of
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes, record_bounds, record_figures, waiting_minutes
from pipeline.usage.late_minutes import AdjustmentKind, Late
from pipeline.usage.minutes_worth import carried_into, fair_price, price_of
from pipeline.usage.record_invoice import INVOICE

_WHERE = "where r.state = 'closed' and r.subscription_id is not null and r.settled_at is null"

# Final: its invoice is no draft. One that was cut by another price, or by the removal of its item, and is on no
# invoice, was dropped when an invoice that bills a later time is final: that was done without proration. In classic
# billing mode Stripe drops it at once. Nor does anything bill it when its subscription has ended, and no draft is left.
# Of a period that Stripe has heard of no minute of there need be no line at all: nothing is billed, and what it could
# not use of a credit is handed on.
_UNSETTLED = f"""
from usage_records r
join subscriptions s on s.id = r.subscription_id
{INVOICE}
left join lateral (
  select true as dropped where r.cut and invoice.id is null and s.billing_mode = 'classic'
  union all
  select true from stripe_invoices i
  where r.cut and invoice.id is null and i.stripe_subscription_id = s.stripe_id and i.status not in ('draft', 'void')
    and (i.billing_reason = 'subscription_cycle' and i.created_at >= r.period_end
         or exists (select from stripe_invoice_lines l where l.invoice_id = i.id and l.period_start >= r.period_end))
  union all
  select true where r.cut and invoice.id is null and s.ended_at + interval '72 hours' <= %(now)s and not exists (
    select from stripe_invoices i where i.stripe_subscription_id = s.stripe_id and i.status = 'draft')
  union all
  select false where invoice.id is null and r.minutes <= 0 and r.pushed_minutes = 0
    and r.period_end + interval '72 hours' <= %(now)s and not exists (
      select from meter_pushes p
      where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
        and p.state in ('planned', 'sending', 'unknown'))
  limit 1
) swap on true
{_WHERE}
  and (invoice.status <> 'draft' or swap.dropped is not null)
"""  # noqa: S608 - put together from fragments of ours

# What has been billed of the period already, whenever a threshold was reached (52).
_THRESHOLD = """
left join lateral (
  select sum(l.minutes)::int as minutes
  from stripe_invoice_lines l join stripe_invoices i on i.id = l.invoice_id
  where l.stripe_subscription_id = s.stripe_id and i.billing_reason = 'subscription_threshold'
    and i.status not in ('draft', 'void') and l.period_start < r.period_end and l.period_end > r.period_start
) threshold on true
"""

# An unknown push of a settled period: its minutes are on the invoice, or have been carried. Unsettled ones have a
# partial index, which is used only where its whole condition stands.
_UNKNOWN = """
from meter_pushes p
join usage_records r on r.business_id = p.business_id and r.period_start <= p.timestamp and p.timestamp < r.period_end
where p.state in ('planned', 'sending', 'unknown') and p.state = 'unknown' and r.settled_at is not null
"""

# Differences that nobody has decided yet: what becomes of a push later may explain them.
_DISPUTED = """
from usage_adjustments a
join usage_records r on r.id = a.settlement_record_id
where a.kind in ('over-billed', 'under-billed') and exists (
  select from drifts d
  where d.kind = a.kind and d.subject = 'record:' || r.id and d.resolved_at is null)
"""

#: The businesses with something to settle.
DUE = f"""
select r.business_id {_UNSETTLED} union select p.business_id {_UNKNOWN} union select r.business_id {_DISPUTED}
"""

# Uncertain: minutes of pushes that may be on the invoice although they are not counted as arrived; and of those that
# are, and that Stripe may not have been able to use, or got when the invoice was final: it bills them nowhere then.
_UNCERTAIN = """
array(select p.minutes from meter_pushes p
      where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
        and p.state in ('void', 'unknown', 'planned', 'sending') and p.first_sent_at is not null
      union all
      select -p.minutes from meter_pushes p
      where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
        and p.state = 'sent'
        and (p.doubt is not null or p.accepted_at >= (
          select coalesce(i.finalized_at, i.automatically_finalizes_at) - interval '2 minutes'
          from stripe_invoices i where i.id = {invoice_id}))) as uncertain
"""

_FINAL = f"""
select r.id, r.business_id, r.minutes, r.pushed_minutes, r.period_start, r.period_end, r.tiers, r.currency, r.trial,
       invoice.id as invoice_id, invoice.status, threshold.minutes is not null as threshold,
       coalesce(invoice.metered_quantity, 0) + coalesce(threshold.minutes, 0) as metered_quantity,
       swap.dropped is not null as unbilled, coalesce(swap.dropped, false) and r.minutes > 0 as dropped,
       (select coalesce(sum(minutes), 0)::int from usage_adjustments where settlement_record_id = r.id) as settled,
       exists (select from usage_adjustments where usage_record_id = r.id) as carries,
       {_UNCERTAIN.format(invoice_id="invoice.id")}
{_UNSETTLED.replace(_WHERE, _THRESHOLD + _WHERE)} and r.business_id = any(%(ids)s::bigint[])
order by r.business_id, r.period_start
"""  # noqa: S608 - put together from fragments of ours

_STILL_DISPUTED = f"""
select a.id as adjustment_id, a.kind, a.minutes as difference, r.id, r.business_id, r.pushed_minutes,
       r.invoiced_minutes as metered_quantity, {_UNCERTAIN.format(invoice_id="r.invoice_id")}
{_DISPUTED} and r.business_id = any(%s::bigint[])
order by a.id
"""

_FORGET = "delete from usage_adjustments where id = %s"

_SETTLED_BY = """
select id from usage_records
where business_id = %s and invoice_id = %s and settled_at is not null
order by period_start
"""

# What a settlement made, but for what has been carried and billed by now, or given back.
_UNDO = """
delete from usage_adjustments a
where a.settlement_record_id = %(id)s and a.kind <> 'credited'
  and not exists (select from usage_records taker where taker.id = a.usage_record_id and taker.state = 'closed')
returning a.usage_record_id, a.minutes, a.call_sid, a.event_id
"""

# A credit note goes with its invoice, and so do the minutes that it gave back; what went to the balance stays given.
_UNDO_CREDITS = """
delete from usage_adjustments a
where a.settlement_record_id = any(%(ids)s::bigint[]) and a.kind = 'credited' and not exists (
  select from credits c
  where c.invoice_id = %(invoice_id)s and c.subject = 'record:' || a.settlement_record_id
    and starts_with(c.answer, 'balance transaction'))
"""

_WITHOUT_INVOICE = """
select r.business_id,
       r.minutes - (select coalesce(sum(minutes), 0)::int from usage_adjustments where settlement_record_id = r.id)
         as missing
from usage_records r
where r.id = %s and r.state = 'closed' and r.subscription_id is not null and r.settled_at is null
"""

_GIVEN_UP = """
select r.id from usage_records r join subscriptions s on s.id = r.subscription_id
where r.business_id = %(business_id)s and s.stripe_id = %(subscription_id)s
  and r.period_end = any(%(ends)s::timestamptz[]) and r.settled_at is not null and r.invoice_id is null
"""

_ANSWERED = f"""
select {PUSH_COLUMNS}, r.invoiced_minutes, r.pushed_minutes
{_UNKNOWN} and p.business_id = any(%s::bigint[])
"""

_DISPUTES = {AdjustmentKind.OVER_BILLED: DriftKind.OVER_BILLED, AdjustmentKind.UNDER_BILLED: DriftKind.UNDER_BILLED}

# So many sums of uncertain pushes are tried.
_MOST_SUMS = 4_096


def settle_records(connection: Connection, business_ids: Sequence[int], now: datetime) -> int:
    """Settle what has its final invoice, for businesses whose locks are held; returns how many records."""
    settled = 0
    record_bounds.price_by_invoices(connection, business_ids)
    for record in connection.exec_driver_sql(_FINAL, {"ids": list(business_ids), "now": now}).all():
        if record.status == InvoiceStatus.VOID:
            _report_unusable(connection, record, now)
            continue
        _settle(connection, record, now)
        settled += 1
    for dispute in connection.exec_driver_sql(_STILL_DISPUTED, (list(business_ids),)).all():
        if _explained(dispute):
            connection.exec_driver_sql(_FORGET, (dispute.adjustment_id,))
            drifts.resolve(connection, _DISPUTES[AdjustmentKind(dispute.kind)], f"record:{dispute.id}", now)
            difference = Late(dispute.id, dispute.difference, settlement_record_id=dispute.id)
            late_minutes.carry_minutes(connection, difference, now)
    _answer_unknown(connection, business_ids, now)
    return settled


def _settle(connection: Connection, record: Any, now: datetime) -> None:
    # Of a record that was settled before, by an invoice that is void: what was carried then and has been billed stays.
    missing = record.minutes - record.metered_quantity - record.settled
    # Thresholds are not supported: no difference of such a record is carried without a person.
    explained = not record.threshold and (record.unbilled or _explained(record))
    if missing:
        _account(connection, record, missing, explained=explained, now=now)
    if record.carries and not record.dropped:
        charged = record.metered_quantity if explained else record.minutes
        carried_worth.compare(connection, record.id, record.business_id, charged, record.invoice_id, now)
    record_figures.set_invoiced(connection, record.id, record.metered_quantity, record.invoice_id, now)
    if missing or record.carries:
        _tell_anew(connection, record.id, record.business_id, now)
    if record.invoice_id is not None:
        given_back.lower_due(connection, record.business_id, record.invoice_id, now)
    for answered in (DriftKind.NO_INVOICE, DriftKind.UNUSABLE_INVOICE):
        drifts.resolve(connection, answered, f"record:{record.id}", now)


def _account(connection: Connection, record: Any, missing: int, *, explained: bool, now: datetime) -> None:
    """Say what becomes of minutes that the invoice lacks (negative: has too many)."""
    difference = Late(record.id, missing, settlement_record_id=record.id)
    if record.trial and not record.metered_quantity:  # what a trial uses is free where Stripe says so
        late_minutes.adjust(connection, difference, AdjustmentKind.WRITTEN_OFF, record.business_id, now)
    elif record.dropped:  # swapped without proration: whether that was meant to give its usage away is for a person
        late_minutes.adjust(connection, difference, AdjustmentKind.UNBILLABLE, record.business_id, now)
        late_minutes.report_lost(connection, record.id, now)
    elif not explained:
        kind = AdjustmentKind.UNDER_BILLED if missing > 0 else AdjustmentKind.OVER_BILLED
        late_minutes.adjust(connection, difference, kind, record.business_id, now)
        _report_disputed(connection, record, missing, now)
    else:
        # For a negative sum Stripe bills 0: the credits that it is made of are handed on, each as its own period's.
        unused = carried_worth.unused_credits(connection, record.id, missing) if record.minutes < 0 else []
        for origin_record_id, minutes in [*unused, (record.id, missing - sum(minutes for _, minutes in unused))]:
            late_minutes.carry_minutes(connection, Late(origin_record_id, minutes, settlement_record_id=record.id), now)


def _explained(record: Any) -> bool:
    """Whether the invoice has what arrived of our pushes; it never has less than nothing."""
    sums = {record.pushed_minutes}
    for minutes in record.uncertain:
        sums |= {each + minutes for each in sums}
        if len(sums) > _MOST_SUMS:
            break
    return record.metered_quantity in {max(0, each) for each in sums}


def unsettle(connection: Connection, business_id: int, invoice_id: str, now: datetime) -> None:
    """The invoice is void: the records that it settled wait for another one, or for a person; the lock is held.

    What was carried because of it is undone, unless it has been billed: then it stays, as a line of its own.
    """
    unsettled = connection.exec_driver_sql(_SETTLED_BY, (business_id, invoice_id)).scalars().all()
    connection.exec_driver_sql(_UNDO_CREDITS, {"ids": list(unsettled), "invoice_id": invoice_id})
    for record_id in unsettled:
        _undo(connection, record_id, business_id, now)


def _undo(connection: Connection, record_id: int, business_id: int, now: datetime) -> None:
    """Take back what settling a record made, and the differences that told of it; the record is unsettled."""
    undone = connection.exec_driver_sql(_UNDO, {"id": record_id}).all()
    for row in undone:
        if row.usage_record_id is not None:
            record_figures.add_carried(connection, row.usage_record_id, -row.minutes)
    record_figures.set_unsettled(connection, record_id)
    for kind in (DriftKind.OVER_BILLED, DriftKind.UNDER_BILLED, DriftKind.LOST_USAGE):
        drifts.resolve(connection, kind, f"record:{record_id}", now)
    for kind in (DriftKind.CREDIT_DUE, DriftKind.UNDER_BILLED):
        drifts.resolve(connection, kind, carried_worth.subject_of(record_id), now)
    for row in undone:
        if row.call_sid is not None:  # a correction had taken back what was given away: now it is a correction again
            late_minutes.carry_minutes(connection, Late(record_id, row.minutes, row.call_sid, row.event_id), now)
    _tell_anew(connection, record_id, business_id, now)


def _tell_anew(connection: Connection, record_id: int, business_id: int, now: datetime) -> None:
    """What waits or is held of the periods whose minutes this record bills is worth something else beside that."""
    waiting_minutes.report_waiting(connection, business_id, now)
    for period in sorted({record_id, *(each.origin_record_id for each in carried_into(connection, record_id))}):
        late_minutes.report_held(connection, period, now)


def give_up(connection: Connection, record_id: int, now: datetime) -> None:
    """A person has decided that no invoice is to bill a closed record: its minutes are written off; the lock is held.

    One that bills it all the same settles it anew (``reconsider``).
    """
    record = connection.exec_driver_sql(_WITHOUT_INVOICE, (record_id,)).first()
    if record is None:
        return
    if record.missing:
        late = Late(record_id, record.missing, settlement_record_id=record_id)
        late_minutes.adjust(connection, late, AdjustmentKind.WRITTEN_OFF, record.business_id, now)
    record_figures.set_invoiced(connection, record_id, 0, None, now)


def reconsider(
    connection: Connection, business_id: int, subscription_id: str, ends: Collection[datetime], now: datetime
) -> None:
    """A final invoice bills periods that had been given up, by a person or as lost: they are settled by it."""
    about = {"business_id": business_id, "subscription_id": subscription_id, "ends": sorted(ends)}
    for record_id in connection.exec_driver_sql(_GIVEN_UP, about).scalars().all():
        _undo(connection, record_id, business_id, now)


def _report_disputed(connection: Connection, record: Any, missing: int, now: datetime) -> None:
    """Somebody else's meter event, an adjustment of the meter, an edited draft: for a person."""
    ours, theirs = price_of(record, record.minutes), price_of(record, record.metered_quantity)
    amount = None if ours.amount is None or theirs.amount is None else abs(theirs.amount - ours.amount)
    drifts.report(
        connection,
        DriftKind.UNDER_BILLED if missing > 0 else DriftKind.OVER_BILLED,
        f"record:{record.id}",
        business_id=record.business_id,
        expected=f"{ours}, of which Stripe has {record.pushed_minutes:,} minutes by our pushes",
        actual=f"{theirs} on {record.invoice_id}",
        evidence={
            "minutes": abs(missing),
            "amount": amount,
            "currency": record.currency,
            "invoice": record.invoice_id,
        },
        now=now,
    )


def _report_unusable(connection: Connection, record: Any, now: datetime) -> None:
    """A void invoice bills nothing: whether its minutes are to be billed at all is for a person to say."""
    unbilled = fair_price(connection, record, retold=True)
    drifts.report(
        connection,
        DriftKind.UNUSABLE_INVOICE,
        f"record:{record.id}",
        business_id=record.business_id,
        expected=f"{unbilled}, on a final invoice",
        actual=f"{record.invoice_id} is void",
        evidence={"invoice": record.invoice_id, "status": record.status, **unbilled.evidence},
        now=now,
    )


def _answer_unknown(connection: Connection, business_ids: Sequence[int], now: datetime) -> None:
    """The final invoice also tells whether Stripe had a push without an answer in time; if unclear it stays unknown."""
    for row in connection.exec_driver_sql(_ANSWERED, (list(business_ids),)).all():
        push = push_of(row)
        if row.invoiced_minutes == row.pushed_minutes + push.minutes:
            mark_sent(connection, push, "on the finalised invoice", now)
        elif row.invoiced_minutes == row.pushed_minutes:
            push_states.set_not_counted(connection, push.id, "not on the finalised invoice: its minutes are carried")
            drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, push.subject, now)
