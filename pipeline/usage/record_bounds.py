"""Who may end, move, merge or remove a usage record: the only code that changes its bounds, subscription and plan.

Not those of a closed record: its statement is written. The business's lock is held.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

from pipeline.usage.record_creation import TARIFF, TRIAL, NewRecord
from pipeline.usage.rounding import billable_minutes_sql

# A call is rounded by the increment of the record that it counts in.
_ROUNDED = f"({billable_minutes_sql('c.seconds', 'k.increment_seconds')})"

# A record that runs into a span (or beyond its subscription's end) ends where that begins.
_END = """
update usage_records set period_end = %(at)s, cut = cut or %(cut)s
where business_id = %(business_id)s and state <> 'closed' and period_start < %(at)s and period_end > %(at)s
  and (%(subscription_id)s::bigint is null or subscription_id = %(subscription_id)s)
  and not (%(free)s and subscription_id is not null)
returning id
"""

_MERGE = (
    f"""
    update calls c
    set usage_record_id = k.id, minutes = {_ROUNDED}, counted_minutes = case when c.counted then {_ROUNDED} else 0 end
    from usage_records k where k.id = %(keeper)s and c.usage_record_id = %(merged)s
    """,  # noqa: S608 - put together from fragments of ours
    "update usage_adjustments set usage_record_id = %(keeper)s where usage_record_id = %(merged)s",
    "update usage_adjustments set origin_record_id = %(keeper)s where origin_record_id = %(merged)s",
    "update usage_adjustments set settlement_record_id = %(keeper)s where settlement_record_id = %(merged)s",
    "update meter_pushes set usage_record_id = %(keeper)s where usage_record_id = %(merged)s",
    "delete from usage_alerts where usage_record_id = %(merged)s",
    "delete from usage_records where id = %(merged)s and state <> 'closed'",
)

# What is done with late minutes goes with the plan; the increment too, unless calls have been rounded by it already.
# Where nothing tells plan or price, the record keeps its own of the same subscription, or gets the business's plan.
_PLACE = f"""
update usage_records r
set period_start = %(start)s, period_end = %(end)s, subscription_id = %(subscription_id)s,
    provisional = %(provisional)s, allowance_month = %(allowance_month)s, cut = %(cut)s, plan_id = p.id,
    included_minutes = coalesce(tariff.included, made.plan_minutes), plan_minutes = made.plan_minutes,
    price_id = made.price_id,
    currency = tariff.currency, tiers = tariff.tiers, trial = {TRIAL},
    increment_seconds = case when p.id = r.plan_id or r.calls > 0 then r.increment_seconds else p.increment_seconds end,
    late_policy = case when p.id = r.plan_id then r.late_policy else p.late_policy end,
    late_limit_minutes = case when p.id = r.plan_id then r.late_limit_minutes else p.late_limit_minutes end
from subscription_plans p
join lateral (
  select %(subscription_id)s::bigint as subscription_id, %(end)s::timestamptz as period_end,
         coalesce(%(price_id)s, case when subscription_id = %(subscription_id)s then price_id end) as price_id,
         case when plan_id = p.id then coalesce(plan_minutes, p.included_minutes) else p.included_minutes end
           as plan_minutes
  from usage_records where id = %(id)s
) made on true
{TARIFF}
where r.id = %(id)s and r.state <> 'closed'
  and p.id = coalesce(%(plan_id)s, case when r.subscription_id = %(subscription_id)s then r.plan_id end,
                      (select plan_id from businesses where id = r.business_id))
  and (r.period_start, r.period_end, r.subscription_id, r.provisional, r.allowance_month, r.cut, r.plan_id,
       r.included_minutes, r.price_id, r.currency, r.tiers, r.trial)
      is distinct from (%(start)s, %(end)s, %(subscription_id)s, %(provisional)s, %(allowance_month)s,
                        %(cut)s, p.id, coalesce(tariff.included, made.plan_minutes), made.price_id,
                        tariff.currency, tariff.tiers, {TRIAL})
returning r.id
"""  # noqa: S608 - put together from fragments of ours


# The price of a stretch that was over before anybody looked stands on no subscription any more.
_PRICE_BY_INVOICE = f"""
update usage_records r set price_id = made.price_id, currency = tariff.currency, tiers = tariff.tiers
from (
  select distinct on (r.id) r.id, r.subscription_id, l.price_id
  from usage_records r
  join subscriptions s on s.id = r.subscription_id
  join stripe_invoice_lines l on l.stripe_subscription_id = s.stripe_id and l.period_end = r.period_end
  join stripe_invoices i on i.id = l.invoice_id and i.status not in ('draft', 'void')
  where r.business_id = any(%s::bigint[]) and r.state = 'closed' and r.settled_at is null
    and r.price_id is null and r.tiers is null
  order by r.id, l.period_start desc) made
{TARIFF}
where r.id = made.id
"""  # noqa: S608 - put together from fragments of ours


def end_record(
    connection: Connection,
    business_id: int,
    at: datetime,
    subscription_id: int | None,
    *,
    cut: bool = False,
    free: bool = False,
) -> set[int]:
    """End the record that runs beyond this instant: any, that of a subscription, or only one without (``free``).

    ``cut``: by another price in mid-period, so that its invoice stands already. Returns its id, or nothing.
    """
    about = {"business_id": business_id, "at": at, "subscription_id": subscription_id, "cut": cut, "free": free}
    return set(connection.exec_driver_sql(_END, about).scalars())


def merge_record(connection: Connection, keeper: int, merged: int) -> None:
    """Give all that stands in one record to another, and remove it."""
    for statement in _MERGE:
        connection.exec_driver_sql(statement, {"keeper": keeper, "merged": merged})


def price_by_invoices(connection: Connection, business_ids: Sequence[int]) -> None:
    """Give closed records the price that bills them, where only the invoice tells it; these businesses are locked."""
    connection.exec_driver_sql(_PRICE_BY_INVOICE, (list(business_ids),))


def place_record(connection: Connection, record_id: int, home: NewRecord) -> set[int]:
    """Give a record the bounds, subscription, plan and included minutes of ``home``; its id, if any of them differs."""
    about = {
        "id": record_id,
        "start": home.period.start,
        "end": home.period.end,
        "subscription_id": home.subscription_id,
        "plan_id": home.plan_id,
        "provisional": home.provisional,
        "allowance_month": home.allowance_month,
        "cut": home.cut,
        "price_id": home.price_id,
    }
    return set(connection.exec_driver_sql(_PLACE, about).scalars())
