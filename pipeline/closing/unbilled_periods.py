"""Paid periods that are over and on no final invoice: none came, or a draft that nobody finalises (65).

Stripe finalises within 72 hours at the latest, so that after those a person has to look. Named are the minutes that are
on no invoice at all: what one with other bounds bills is not missing.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage.minutes_worth import Worth, fair_price, price_of
from pipeline.usage.record_invoice import INVOICE

# A draft of a business that is suspended waits with its subscription until that is paid, and is seen there. What a
# change of price cut stands on a later invoice, and is settled by that.
_UNBILLED = f"""
select r.id, r.business_id, r.minutes, r.pushed_minutes, r.tiers, r.currency, r.trial, invoice.id as invoice_id,
       elsewhere.minutes as billed
from usage_records r
join subscriptions s on s.id = r.subscription_id
join businesses b on b.id = r.business_id
{INVOICE}
cross join lateral (
  select coalesce(sum(l.minutes), 0)::int as minutes
  from stripe_invoice_lines l join stripe_invoices i on i.id = l.invoice_id
  where l.stripe_subscription_id = s.stripe_id and i.status not in ('draft', 'void')
    and l.period_start < r.period_end and l.period_end > r.period_start
    and not exists (select from usage_records o where o.business_id = r.business_id and o.period_end = l.period_end)
) elsewhere
where (r.state = 'closing' or r.state = 'closed' and r.subscription_id is not null and r.settled_at is null)
  and r.period_end + interval '72 hours' <= %(now)s and not r.cut
  and (invoice.id is null or invoice.status = 'draft' and b.suspended_at is null)
order by r.business_id, r.id
"""  # noqa: S608 - put together from fragments of ours


def report_unbilled(connection: Connection, now: datetime) -> None:
    """Open a drift for each such period, with its minutes and their money."""
    for record in connection.exec_driver_sql(_UNBILLED, {"now": now}).all():
        unbilled = _unbilled(connection, record)
        if unbilled.minutes <= 0 and (record.invoice_id is not None or record.billed or not record.pushed_minutes):
            continue  # it settles by itself
        drifts.report(
            connection,
            DriftKind.NO_INVOICE,
            f"record:{record.id}",
            business_id=record.business_id,
            expected="a final invoice that bills this period, within 72 hours of its end",
            actual=f"{f'{record.invoice_id} is a draft' if record.invoice_id else 'none'}, for {unbilled}",
            evidence={"invoice": record.invoice_id, **unbilled.evidence},
            now=now,
        )


def _unbilled(connection: Connection, record: Any) -> Worth:
    """The minutes that are on no invoice, and what they cost above those that are."""
    everything = fair_price(connection, record, retold=True)
    billed = price_of(record, record.billed)
    if everything.amount is None or billed.amount is None:
        return Worth(record.minutes - record.billed, None, None)
    return Worth(record.minutes - record.billed, everything.amount - billed.amount, record.currency)
