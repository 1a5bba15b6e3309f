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


_SOLD = """
select code, name, price_cents, included_minutes, agents, numbers, increment_seconds, payment_grace_days, bills_overage
from subscription_plans where retired_at is null order by id
"""


@dataclass(frozen=True, slots=True)
class SoldPlan:
    """One plan as everybody may know it: cents a month, minutes a period, seconds, days.

    ``increment_seconds``: a call is billed in steps of so many; ``bills_overage``: more minutes cost more, or the
    business is limited until its next period.
    """

    code: str
    name: str
    price_cents: int
    included_minutes: int
    agents: int
    numbers: int
    increment_seconds: int
    payment_grace_days: int
    bills_overage: bool


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


def sold_plans(connection: Connection) -> list[SoldPlan]:
    """Those that can be had, in the order in which they were made."""
    return typed_rows(SoldPlan, connection.exec_driver_sql(_SOLD))


def list_plans(connection: Connection) -> list[ListedPlan]:
    """All plans, in the order in which they were made."""
    return typed_rows(ListedPlan, connection.exec_driver_sql(_PLANS))
