"""The plans that are sold or were, with their figures and who is on them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows

_PLANS = """
select p.code, p.name, p.price_cents, p.included_minutes, p.agents, p.numbers, p.increment_seconds,
       p.payment_grace_days, p.late_policy, p.late_limit_minutes, p.bills_overage, p.retired_at,
       (select count(*) from businesses b where b.plan_id = p.id and b.ended_at is null)::int as businesses,
       array(select price.id from stripe_prices price where price.plan_id = p.id and price.active order by 1) as prices
from subscription_plans p order by p.id
"""


@dataclass(frozen=True, slots=True)
class ListedPlan:
    """One plan: cents a month, minutes a period, seconds, days."""

    code: str
    name: str
    price_cents: int
    included_minutes: int
    agents: int
    numbers: int
    increment_seconds: int
    payment_grace_days: int
    late_policy: str
    late_limit_minutes: int
    bills_overage: bool
    retired_at: datetime | None
    businesses: int
    prices: list[str]
    """Of Stripe's, that stand for it and are sold."""


def list_plans(connection: Connection) -> list[ListedPlan]:
    """All plans, in the order in which they were made."""
    return typed_rows(ListedPlan, connection.exec_driver_sql(_PLANS))
