"""Closing periods: open → closing when a period ends, closing → closed before its invoice finalises.

In chunks of businesses under their locks, so that it can stop anywhere and go on with the next run; everything is
read from what is due, so running it twice, or by two workers at once, does it once.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, Engine

from pipeline.closing import invoice_settlement, source_gaps, unbilled_periods
from pipeline.closing.statement import OF_CALLS, STATEMENT
from pipeline.events import fetch_requests
from pipeline.meter import push_states
from pipeline.shared import halts, trail
from pipeline.shared.business_locks import under_locks
from pipeline.usage import unbilled_plans
from pipeline.usage.billing_window import STALE, TOO_LATE, billing_deadline
from pipeline.usage.record_invoice import INVOICE

SECONDS = 40.0

_JOINS = f"""
from usage_records r
left join subscriptions s on s.id = r.subscription_id
{INVOICE}
"""

_ENDED = f"r.state = 'open' and r.period_end <= %(now)s and not r.provisional and not {STALE}"

# A record without a subscription, and one whose invoice nobody knows, waits 72 hours: Stripe's longest grace. With an
# invoice it ends with what can be billed; a push that is being sent is waited for until the invoice finalises.
_CLOSABLE = f"""
r.state in ('open', 'closing') and r.period_end <= %(now)s and not r.provisional and not {STALE} and case
  when r.cut then true
  when invoice.id is null then r.period_end + interval '72 hours' <= %(now)s
  when invoice.status <> 'draft' or invoice.automatically_finalizes_at <= %(now)s then true
  else {TOO_LATE} and not exists (
    select from meter_pushes p
    where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
      and p.state = 'sending' and p.due_at > clock_timestamp())
end
"""

# What is due, as businesses. Each part has its own partial index.
_DUE = f"""
select r.business_id {_JOINS} where {_ENDED}
union select r.business_id {_JOINS} where r.state = 'closing' and {_CLOSABLE}
union {invoice_settlement.DUE}
order by 1
"""

_BEGIN = f"""
update usage_records r set state = 'closing'
from (select r.id {_JOINS} where {_ENDED} and r.business_id = any(%(ids)s::bigint[])) ended
where r.id = ended.id
"""  # noqa: S608 - as above

# The period that a draft is for is over: its record takes late calls now, and waits for the close.
_BEGIN_BILLED = """
update usage_records r set state = 'closing'
from subscriptions s
where r.business_id = %(business_id)s and r.subscription_id = s.id and s.stripe_id = %(subscription_id)s
  and r.period_end = any(%(ends)s::timestamptz[]) and r.period_end <= %(now)s and r.state = 'open'
  and not r.provisional
"""

_CLOSE = f"""
update usage_records r set state = 'closed', closed_at = %(now)s,
  statement = made.statement || jsonb_build_object(
    'gaps', made.statement -> 'gaps' || to_jsonb(made.source_gaps || made.push_gaps),
    'sources', case when made.source_gaps = '{{}}' then 'complete' else 'incomplete' end,
    'dead_of_nobody', made.dead_of_nobody)
from (
  select r.id, p.code as plan, p.price_cents, p.bills_overage,
         case when b.billed_elsewhere_until >= r.period_end then b.billed_elsewhere_reason end as elsewhere,
         {STATEMENT} as statement, {source_gaps.SOURCE_GAPS} as source_gaps, {source_gaps.PUSH_GAPS} as push_gaps,
         {source_gaps.DEAD_OF_NOBODY} as dead_of_nobody
  {_JOINS}
  join businesses b on b.id = r.business_id
  join subscription_plans p on p.id = r.plan_id
  {OF_CALLS}
  where r.business_id = any(%(ids)s::bigint[]) and {_CLOSABLE}
) made
where r.id = made.id
returning r.id, r.business_id, r.period_end, r.subscription_id is not null as paid, made.source_gaps, r.minutes,
          made.plan, made.price_cents, made.bills_overage, made.elsewhere
"""  # noqa: S608 - as above

# What keeps a due record waiting must be fetched: an unconfirmed period, an unknown invoice (a subscription is
# fetched with its invoices), the end of a draft that nobody told. Not what is being fetched already or was just now,
# since a fetch makes a close due, and that would ask again.
_MISSING = f"""
select * from (
  select 'subscription' as kind, s.stripe_id as object_id, 'provisional-period' as reason
  {_JOINS} where r.state = 'open' and r.period_end <= %(now)s and r.provisional and s.id is not null
  union
  select 'subscription', s.stripe_id, 'no-invoice'
  {_JOINS} where r.state = 'closing' and s.id is not null and invoice.id is null and not r.cut
  union
  select 'invoice', invoice.id, 'past-finalisation'
  {_JOINS} where r.state = 'closed' and r.subscription_id is not null and r.settled_at is null
    and invoice.status = 'draft' and invoice.automatically_finalizes_at <= %(now)s
) missing
where not exists (
  select from refreshes f
  where f.kind = missing.kind and f.object_id = missing.object_id
    and (f.mark > f.fetched_mark or f.marked_at > clock_timestamp() - interval '20 seconds'))
"""  # noqa: S608 - put together from fragments of ours


def close_due(engine: Engine, now: datetime) -> Counter[str]:
    """Begin closing what has ended, close what can't be billed any more, settle what has its final invoice.

    Counts records that are ``closing`` now, ``closed``, ``settled``, and objects that had to be ``requested``.
    """

    def work(connection: Connection, ids: list[int]) -> Counter[str]:
        return close(connection, ids, now)

    about = {"now": now, "deadline": billing_deadline(now)}
    counts = under_locks(engine, "close", _DUE, about, work, seconds=SECONDS)
    with halts.guarded(engine, "close-looks") as may:
        if may:
            with engine.begin() as connection:
                counts["requested"] += _request_missing(connection, now)
                unbilled_periods.report_unbilled(connection, now)
                source_gaps.resolve_gaps(connection, now)
    return +counts


def close(connection: Connection, business_ids: Sequence[int], now: datetime) -> Counter[str]:
    """Do what is due for these businesses, whose locks are held."""
    about = {"ids": list(business_ids), "now": now, "deadline": billing_deadline(now)}
    facts = source_gaps.source_facts(connection)
    closed = connection.exec_driver_sql(_CLOSE, about | facts).all()  # also what comes so late that both steps are due
    source_gaps.report_gaps(connection, closed, facts, now)
    trail.note(
        connection,
        *(
            trail.Entry(
                trail.PIPELINE, "closed with gaps", f"record:{each.id}", each.business_id, ", ".join(each.source_gaps)
            )
            for each in closed
            if each.source_gaps
        ),
    )
    begun = connection.exec_driver_sql(_BEGIN, about).rowcount
    paid = [record.id for record in closed if record.paid]
    if paid:
        push_states.set_period_closed(connection, paid)
    unbilled = [record for record in closed if not record.paid and record.bills_overage]
    unbilled_plans.report_closed(
        connection, [record for record in unbilled if record.minutes or record.elsewhere is not None], now
    )
    settled = invoice_settlement.settle_records(connection, business_ids, now)
    return Counter(closing=begun, closed=len(closed), settled=settled)


def begin_closing(
    connection: Connection, business_id: int, subscription_id: str | None, ends: Collection[datetime], now: datetime
) -> None:
    """Begin closing the records of this subscription (as Stripe names it) whose periods, over, an invoice bills.

    The business's lock is held.
    """
    about = {"business_id": business_id, "subscription_id": subscription_id, "ends": sorted(ends), "now": now}
    connection.exec_driver_sql(_BEGIN_BILLED, about)


def _request_missing(connection: Connection, now: datetime) -> int:
    missing = connection.exec_driver_sql(_MISSING, {"now": now}).all()
    fetch_requests.request_fetches(connection, {(row.kind, row.object_id): row.reason for row in missing})
    return len(missing)
