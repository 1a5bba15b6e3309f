"""Which of Stripe's invoices bills a usage record: the one with a metered line that ends when its period ends.

As SQL, since it is always asked of many records at once. The names used: ``r`` is a usage record, ``s`` its
subscription (or nulls).
"""

#: Joins it as ``invoice``, or nulls, with the minutes that it bills (``metered_quantity``). A void one bills nothing,
#: and is joined only while nothing has replaced it; of several the latest counts. One that came since a threshold was
#: reached bills a part, and never the period. What was cut since a pause ended is billed until that began.
INVOICE = """
left join lateral (
  select i.id, i.status, i.billing_reason, i.created_at, i.automatically_finalizes_at, i.amount_due_cents, i.currency,
         i.snapshot_at, min(l.period_start) as period_start, max(l.period_end) as period_end,
         sum(l.minutes)::int as metered_quantity
  from stripe_invoice_lines l join stripe_invoices i on i.id = l.invoice_id
  where l.stripe_subscription_id = s.stripe_id and l.period_end <= r.period_end and l.period_end > r.period_start
    and (l.period_end = r.period_end or r.cut and l.period_start = r.period_start)
    and i.billing_reason is distinct from 'subscription_threshold'
  group by i.id
  order by i.status = 'void', i.created_at desc, i.id desc
  limit 1
) invoice on true
"""
