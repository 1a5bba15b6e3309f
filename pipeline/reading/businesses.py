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
       b.contact_email, b.limited_until, b.suspended_at, b.ended_at
from businesses b join subscription_plans p on p.id = b.plan_id
"""
_IN_ORDER = _BUSINESSES + "order by b.id"
NEWEST_OF = (
    _BUSINESSES
    + """
where (%(ids)s::bigint[] is null or b.id = any(%(ids)s)) and b.id < %(before)s
  and (%(q)s = '' or strpos(lower(b.name), lower(%(q)s)) > 0)
order by b.id desc limit %(limit)s
"""
)

_BUSINESS = """
select b.id, b.name, p.code as plan, b.time_zone, b.stripe_customer_id as stripe_customer, b.created_at,
       b.limited_until, b.suspended_at, b.ended_at, b.billed_elsewhere_until, b.billed_elsewhere_reason,
       array(select n.number from phone_numbers n where n.business_id = b.id order by n.number) as numbers,
       array(select f.stripe_customer_id from former_customers f
             where f.business_id = b.id order by f.until, f.stripe_customer_id) as former_customers,
       array(select format('%%s: %%s', s.stripe_id, s.status) from subscriptions s
             where s.business_id = b.id and s.ended_at is null order by s.started_at, s.id) as subscriptions,
       array(select format('%%s: %%s', d.kind, d.actual) from drifts d
             where d.business_id = b.id and d.resolved_at is null order by d.id) as differences
from businesses b join subscription_plans p on p.id = b.plan_id
where b.id = %s
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
    contact_email: str | None
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
    return typed_rows(ListedBusiness, connection.exec_driver_sql(_IN_ORDER))


def newest_businesses(
    connection: Connection, ids: Sequence[int] | None, *, q: str = "", before: int, limit: int
) -> list[ListedBusiness]:
    """The newest first, of these ids (None: of all), with ``q`` in their names, those with ids below ``before``."""
    about = {"ids": None if ids is None else list(ids), "q": q, "before": before, "limit": limit}
    return typed_rows(ListedBusiness, connection.exec_driver_sql(NEWEST_OF, about))


@dataclass(frozen=True, slots=True)
class ShownBusiness:
    """One business, and how it is billed. Times are business time."""

    id: int
    name: str
    plan: str
    service_status: str
    time_zone: str
    since: datetime
    ended_at: datetime | None
    numbers: list[str]
    stripe_customer: str | None
    subscriptions: list[str]
    """Those that live, each with its status."""
    billed_elsewhere_until: datetime | None
    billed_elsewhere_reason: str | None
    former_customers: list[str]
    left_with_them: list[str]
    """Their open invoices and balances."""
    differences: list[str]


def read_business(connection: Connection, business_id: int, now: datetime) -> ShownBusiness:
    """One business, which must be there; ``now`` is business time."""
    row = connection.exec_driver_sql(_BUSINESS, (business_id,)).one()
    elsewhere = row.billed_elsewhere_until is not None and row.billed_elsewhere_until > now
    status = status_at(limited_until=row.limited_until, grace_until=None, suspended_at=row.suspended_at, now=now)
    return ShownBusiness(
        id=row.id,
        name=row.name,
        plan=row.plan,
        service_status="ended" if row.ended_at is not None else status,
        time_zone=row.time_zone,
        since=row.created_at,
        ended_at=row.ended_at,
        numbers=row.numbers,
        stripe_customer=row.stripe_customer,
        subscriptions=row.subscriptions,
        billed_elsewhere_until=row.billed_elsewhere_until if elsewhere else None,
        billed_elsewhere_reason=row.billed_elsewhere_reason if elsewhere else None,
        former_customers=row.former_customers,
        left_with_them=[f"{each}: {left}" for each in row.former_customers for left in left_with(connection, each)],
        differences=row.differences,
    )


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
