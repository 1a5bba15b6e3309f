"""Who we serve: every business with its plan and numbers, and whether it may take calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.service_rules import status_at
from pipeline.prices.money import money
from pipeline.shared.rows import typed_rows

_BUSINESSES = """
select b.id, b.name, p.code as plan, b.time_zone, b.stripe_customer_id as stripe_customer,
       array(select n.number from phone_numbers n where n.business_id = b.id order by n.number) as numbers,
       b.limited_until, b.suspended_at, b.ended_at
from businesses b join subscription_plans p on p.id = b.plan_id
order by b.id
"""

_OPEN_INVOICES = """
select i.id, i.amount_due_cents, i.currency
from stripe_invoices i join subscriptions s on s.stripe_id = i.stripe_subscription_id
where s.stripe_customer_id = %s and i.status = 'open'
order by i.created_at, i.id
"""

_BALANCE = "select balance, currency from stripe_customers where id = %s and balance <> 0"

_IDS_NAMED = "select id from businesses where name = %s order by id"
_ID = "select id from businesses where id = %s"


@dataclass(frozen=True, slots=True)
class ListedBusiness:
    """One business. Times are business time; its numbers are E.164."""

    id: int
    name: str
    plan: str
    time_zone: str
    stripe_customer: str | None
    numbers: Sequence[str]
    limited_until: datetime | None
    suspended_at: datetime | None
    ended_at: datetime | None

    def service_status(self, now: datetime) -> str:
        """Whether it may take calls at ``now``: active, limited or suspended; or ended."""
        if self.ended_at is not None:
            return "ended"
        return status_at(limited_until=self.limited_until, grace_until=None, suspended_at=self.suspended_at, now=now)


def list_businesses(connection: Connection) -> list[ListedBusiness]:
    """All businesses, by id."""
    return typed_rows(ListedBusiness, connection.exec_driver_sql(_BUSINESSES))


def businesses_called(connection: Connection, named: str) -> list[int]:
    """The ids of the businesses that are meant by an id in digits, or by an exact name: names may be alike."""
    by_id = named.isascii() and named.isdigit() and len(named) < 19
    query, value = (_ID, int(named)) if by_id else (_IDS_NAMED, named)
    return list(connection.exec_driver_sql(query, (value,)).scalars())


def left_with(connection: Connection, customer: str) -> list[str]:
    """What a former customer has that nobody has settled: its open invoices, and its balance at Stripe."""
    invoices = [
        f"invoice {row.id} is open, {money(row.amount_due_cents, row.currency)}"
        for row in connection.exec_driver_sql(_OPEN_INVOICES, (customer,))
    ]
    balances = [
        f"a balance of {money(-row.balance, row.currency or 'usd')} in its favour"
        if row.balance < 0
        else f"a balance of {money(row.balance, row.currency or 'usd')} that it owes"
        for row in connection.exec_driver_sql(_BALANCE, (customer,))
    ]
    return invoices + balances
