"""Whose customer is whose: a business has one customer of Stripe's at a time, and keeps those that it had before.

What Stripe tells of a former customer still belongs to the business: its last invoice, a late dispute. A business gets
another one when nothing lives of the present one any more, as when somebody comes back after months (60).
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from pipeline.providers.stripe_words import NOT_LIVING

_LINKED = """
select stripe_customer_id, id from businesses where stripe_customer_id = any(%(ids)s::text[])
union all
select stripe_customer_id, business_id from former_customers where stripe_customer_id = any(%(ids)s::text[])
"""

_LIVING = """
select stripe_id, stripe_customer_id from subscriptions
where business_id = %(business_id)s and stripe_customer_id <> %(customer)s and ended_at is null
  and status <> all(%(not_living)s::text[])
order by started_at desc, id desc
"""

_KEEP = """
insert into former_customers (stripe_customer_id, business_id, until)
select stripe_customer_id, id, %(now)s from businesses
where id = %(business_id)s and stripe_customer_id <> %(customer)s
on conflict do nothing
"""

_NO_LONGER_FORMER = "delete from former_customers where stripe_customer_id = %(customer)s"

_LINK = "update businesses set stripe_customer_id = %(customer)s where id = %(business_id)s"


def linked_businesses(connection: Connection, customers: Collection[str]) -> dict[str, int]:
    """The businesses of these customers, present or former, by customer."""
    return dict(connection.exec_driver_sql(_LINKED, {"ids": sorted(customers)}).all())


def living_elsewhere(connection: Connection, business_id: int, customer: str) -> tuple[str, str] | None:
    """The newest subscription of a business that lives, of another customer than this one; Stripe's ids of both."""
    about = {"business_id": business_id, "customer": customer, "not_living": list(NOT_LIVING)}
    found = connection.exec_driver_sql(_LIVING, about).first()
    return None if found is None else (found.stripe_id, found.stripe_customer_id)


def link(connection: Connection, business_id: int, customer: str, now: datetime) -> None:
    """Make this its customer; the one before becomes a former one. The business's lock is held."""
    about = {"business_id": business_id, "customer": customer, "now": now}
    for statement in (_KEEP, _NO_LONGER_FORMER, _LINK):
        connection.exec_driver_sql(statement, about)
