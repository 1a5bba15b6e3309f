"""Minutes that a second subscription bills beside the one whose periods the records are: told with their money (75).

While two subscriptions of a customer count minutes, Stripe bills each minute on both. Which record bills it is decided;
whatever else a final invoice has of the same time was charged too much.
"""

from datetime import datetime

from sqlalchemy import Connection

from pipeline.credits import given_back
from pipeline.prices.money import money
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind

# Its own time has no record of this subscription: another one's stand there.
_DOUBLES = """
select l.stripe_subscription_id, other.record_id, other.stripe_id as billed_by, i.status, i.currency,
       sum(l.minutes)::int as minutes, sum(l.amount_cents)::bigint as amount, min(l.period_start) as period_start,
       max(l.period_end) as period_end
from stripe_invoices i
join stripe_invoice_lines l on l.invoice_id = i.id
cross join lateral (
  select r.id as record_id, s.stripe_id
  from usage_records r join subscriptions s on s.id = r.subscription_id
  where r.business_id = i.business_id and r.period_start < l.period_end and r.period_end > l.period_start
  order by s.stripe_id = l.stripe_subscription_id desc, r.period_start limit 1) other
where i.id = %(invoice_id)s and i.business_id = %(business_id)s and l.minutes > 0
  and other.stripe_id <> l.stripe_subscription_id
group by 1, 2, 3, 4, 5
"""


def report_doubles(connection: Connection, business_id: int, invoice_id: str, now: datetime) -> None:
    """Tell what an invoice that is final bills of time that another subscription bills; a void one bills nothing."""
    about = {"business_id": business_id, "invoice_id": invoice_id}
    found = connection.exec_driver_sql(_DOUBLES, about).all()
    for row in found:
        subject = f"record:{row.record_id}:{row.stripe_subscription_id}"
        if row.status == InvoiceStatus.VOID:
            drifts.resolve(connection, DriftKind.OVER_BILLED, subject, now)
        elif row.status != InvoiceStatus.DRAFT:
            drifts.report(
                connection,
                DriftKind.OVER_BILLED,
                subject,
                business_id=business_id,
                expected=f"minutes of {row.period_start.isoformat()} to {row.period_end.isoformat()} billed once, by"
                f" {row.billed_by}",
                actual=f"{row.minutes:,} minutes ({money(row.amount, row.currency)}) of {row.stripe_subscription_id}"
                f" on {invoice_id} too",
                evidence={
                    "minutes": row.minutes,
                    "amount": row.amount,
                    "currency": row.currency,
                    "invoice": invoice_id,
                    "subscription": row.stripe_subscription_id,
                },
                now=now,
            )
    if found:
        given_back.lower_due(connection, business_id, invoice_id, now)
