"""Settling a closed period: its finalised invoice is compared with its minutes, and the difference carried.

The invoice is the truth, not our list of pushes: Stripe accepts usage for a period that is over, and bills it nowhere.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection

from pipeline.meter import push_states
from pipeline.meter.push_sending import mark_sent
from pipeline.meter.push_states import PUSH_COLUMNS, push_of
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes, record_figures
from pipeline.usage.late_minutes import AdjustmentKind
from pipeline.usage.record_invoice import INVOICE

# Final: its invoice is no draft. One that was cut by another price, and is on no invoice, was dropped when an invoice
# that bills a later time is final: the prices were swapped without proration.
_UNSETTLED = f"""
from usage_records r
join subscriptions s on s.id = r.subscription_id
{INVOICE}
left join lateral (
  select true as dropped from stripe_invoice_lines l join stripe_invoices i on i.id = l.invoice_id
  where r.cut and invoice.id is null and l.stripe_subscription_id = s.stripe_id and l.period_start >= r.period_end
    and i.status not in ('draft', 'void')
  limit 1
) swap on true
where r.state = 'closed' and r.subscription_id is not null and r.settled_at is null
  and (invoice.status <> 'draft' or swap.dropped)
"""  # noqa: S608 - put together from fragments of ours

# An unknown push of a settled period: its minutes are on the invoice, or have been carried. Unsettled ones have a
# partial index, which is used only where its whole condition stands.
_UNKNOWN = """
from meter_pushes p
join usage_records r on r.business_id = p.business_id and r.period_start <= p.timestamp and p.timestamp < r.period_end
where p.state in ('planned', 'sending', 'unknown') and p.state = 'unknown' and r.settled_at is not null
"""

#: The businesses with something to settle.
DUE = f"select r.business_id {_UNSETTLED} union select p.business_id {_UNKNOWN}"

_FINAL = f"""
select r.id, r.business_id, r.minutes, r.period_start, r.period_end, invoice.id as invoice_id, invoice.status,
       coalesce(invoice.metered_quantity, 0) as metered_quantity, coalesce(swap.dropped, false) as dropped,
       s.trial_end >= r.period_end as trial
{_UNSETTLED} and r.business_id = any(%s::bigint[])
order by r.business_id, r.period_start
"""

_ANSWERED = f"""
select {PUSH_COLUMNS}, r.invoiced_minutes, r.pushed_minutes
{_UNKNOWN} and p.business_id = any(%s::bigint[])
"""

_log = structlog.get_logger(__name__)


def settle_records(connection: Connection, business_ids: Sequence[int], now: datetime) -> int:
    """Settle what has its final invoice, for businesses whose locks are held; returns how many records."""
    settled = 0
    for record in connection.exec_driver_sql(_FINAL, (list(business_ids),)).all():
        if record.status == InvoiceStatus.VOID:
            _report_unusable(connection, record, now)
            continue
        missing = record.minutes - record.metered_quantity
        # What a trial uses is free where Stripe says so, by a line without minutes. A price that somebody swapped
        # without proration gave its usage away: whether that was meant is for a person to say.
        kind = AdjustmentKind.WRITTEN_OFF if record.trial and not record.metered_quantity else None
        if record.dropped and missing:
            kind = AdjustmentKind.UNBILLABLE
            _report_lost(connection, record, now)
        # Also for a negative sum: Stripe bills 0, and what is below is carried on as a credit.
        late_minutes.carry_minutes(
            connection,
            origin_record_id=record.id,
            minutes=missing,
            call_sid=None,
            event_id=None,
            now=now,
            kind=kind,
        )
        record_figures.set_invoiced(connection, record.id, record.metered_quantity, now)
        for answered in (DriftKind.NO_INVOICE, DriftKind.UNUSABLE_INVOICE):
            drifts.resolve(connection, answered, f"record:{record.id}", now)
        settled += 1
    _answer_unknown(connection, business_ids, now)
    return settled


def _report_lost(connection: Connection, record: Any, now: datetime) -> None:
    new = drifts.report(
        connection,
        DriftKind.LOST_USAGE,
        f"record:{record.id}",
        business_id=record.business_id,
        expected=f"{record.minutes} minutes billed for {record.period_start.isoformat()} to"
        f" {record.period_end.isoformat()}",
        actual="none: the metered price was swapped without proration, which gives its usage away",
        evidence={"minutes": record.minutes},
        now=now,
    )
    if new:
        _log.error("lost-usage", record_id=record.id, business_id=record.business_id, minutes=record.minutes)


def _report_unusable(connection: Connection, record: Any, now: datetime) -> None:
    """A void invoice bills nothing: whether its minutes are to be billed at all is for a person to say."""
    new = drifts.report(
        connection,
        DriftKind.UNUSABLE_INVOICE,
        f"record:{record.id}",
        business_id=record.business_id,
        expected=f"{record.minutes} minutes on a final invoice",
        actual=f"{record.invoice_id} is void",
        evidence={"invoice": record.invoice_id, "status": record.status},
        now=now,
    )
    if new:
        _log.error("unusable-invoice", record_id=record.id, business_id=record.business_id, invoice=record.invoice_id)


def _answer_unknown(connection: Connection, business_ids: Sequence[int], now: datetime) -> None:
    """The final invoice also tells whether Stripe had a push without an answer in time; if unclear it stays unknown."""
    for row in connection.exec_driver_sql(_ANSWERED, (list(business_ids),)).all():
        push = push_of(row)
        if row.invoiced_minutes == row.pushed_minutes + push.minutes:
            mark_sent(connection, push, "on the finalised invoice", now)
        elif row.invoiced_minutes == row.pushed_minutes:
            push_states.set_not_counted(connection, push.id, "not on the finalised invoice: its minutes are carried")
            drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, push.subject, now)
