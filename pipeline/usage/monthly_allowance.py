"""The included minutes of a calendar month, shared by the records that it is cut into.

A business without a subscription has its plan's minutes once a month, however often it subscribes and cancels, or moves
its time zone: a later record of the month includes what the earlier ones have left.
"""

from collections.abc import Collection

from sqlalchemy import Connection

# What was carried into a record is no use of this month.
_SHARE = """
update usage_records r set included_minutes = shared.included
from (
  select of_month.id,
         greatest(0, first_value(coalesce(of_month.plan_minutes, p.included_minutes)) over (
           partition by of_month.business_id, of_month.allowance_month order by of_month.period_start)
         - coalesce(sum(of_month.minutes - of_month.adjustment_minutes) over (
           partition by of_month.business_id, of_month.allowance_month order by of_month.period_start
           rows between unbounded preceding and 1 preceding), 0))::int as included
  from usage_records of_month
  join subscription_plans p on p.id = of_month.plan_id
  where of_month.business_id = any(%s::bigint[]) and of_month.allowance_month is not null and not p.bills_overage
) shared
where r.id = shared.id and r.state <> 'closed' and r.included_minutes <> shared.included
returning r.id
"""


def share_allowance(connection: Connection, business_ids: Collection[int]) -> set[int]:
    """Give each record that is not closed what its month has left, under the businesses' locks; those that changed."""
    return set(connection.exec_driver_sql(_SHARE, (list(business_ids),)).scalars())
