"""The mirror of customers, and whose customer is whose: how a business is found for what Stripe tells.

By the customer that the business is linked to or was, else by ``metadata.business_id`` of the subscription, else by the
customer's own. What names a business that has no customer, or none with anything that lives, links the two.
"""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses import customer_links
from pipeline.businesses.consequences import AWAITING_CUSTOMER, Consequences
from pipeline.events import fetch_requests
from pipeline.providers.stripe_fields import Customer, Owned

_REPLACE = """
insert into stripe_customers (id, named_business_id, deleted, balance, currency, snapshot_at)
values (%(id)s, %(named_business_id)s, %(deleted)s, %(balance)s, %(currency)s, %(snapshot_at)s)
on conflict (id) do update
set named_business_id = case when excluded.deleted then stripe_customers.named_business_id
                             else excluded.named_business_id end,
    deleted = excluded.deleted, balance = excluded.balance,
    currency = coalesce(excluded.currency, stripe_customers.currency), snapshot_at = excluded.snapshot_at
"""

_NAMED = "select id, named_business_id from stripe_customers where id = any(%s::text[])"

_CUSTOMERS = "select id, stripe_customer_id from businesses where id = any(%s::bigint[])"


class UnlinkedError(Exception):
    """No business is linked to the customer: ``reason`` is unknown-customer, customer-conflict or awaiting-customer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class SecondCustomerError(UnlinkedError):
    """The business that it names has another customer, of whom something lives: a person decides which."""

    def __init__(self, business_id: int, living: str, present: str) -> None:
        super().__init__("second-customer")
        self.business_id = business_id
        self.living = living
        """A subscription of the customer that the business has."""
        self.present = present
        """That customer."""


def store_customer(connection: Connection, customer: Customer, snapshot_at: datetime) -> None:
    """Make the mirror what this newer snapshot says."""
    connection.exec_driver_sql(
        _REPLACE,
        {
            "id": customer.id,
            "named_business_id": customer.named_business_id,
            "deleted": customer.deleted,
            "balance": customer.balance,
            "currency": customer.currency,
            "snapshot_at": snapshot_at,
        },
    )


class Links:
    """Which businesses the owners of these objects are, as read once; ``business_of`` links where it must."""

    def __init__(self, connection: Connection, objects: Collection[Owned]) -> None:
        self._connection = connection
        customers = sorted({each.customer_id for each in objects})
        self._mirrored: dict[str, int | None] = dict(connection.exec_driver_sql(_NAMED, (customers,)).all())
        self._fetched = fetch_requests.fetched_before(connection, "customer", customers)
        named = {each.named_business_id for each in objects} | set(self._mirrored.values())
        self._business_of = customer_links.linked_businesses(connection, customers)
        ids = sorted({*filter(None, named), *self._business_of.values()})
        self._customer_of: dict[int, str | None] = dict(connection.exec_driver_sql(_CUSTOMERS, (ids,)).all())

    @property
    def businesses(self) -> set[int]:
        """All businesses that any of the objects may turn out to belong to."""
        return set(self._customer_of)

    def business_of(self, owned: Owned, consequences: Consequences, now: datetime) -> int:
        """The business that the object belongs to, linked to the customer now if it wasn't.

        The business's lock must be held. Raises UnlinkedError and SecondCustomerError.
        """
        linked = self._business_of.get(owned.customer_id)
        if linked is not None:
            return linked
        for named in (owned.named_business_id, self._mirrored.get(owned.customer_id)):
            if named in self._customer_of and named is not None:
                self._link(named, owned.customer_id, now)
                return named
        if owned.customer_id in self._mirrored or owned.customer_id in self._fetched:
            raise UnlinkedError("unknown-customer")
        consequences.fetch("customer", owned.customer_id, "unknown-customer")
        raise UnlinkedError(AWAITING_CUSTOMER)

    def _link(self, business_id: int, customer_id: str, now: datetime) -> None:
        living = customer_links.living_elsewhere(self._connection, business_id, customer_id)
        if living is not None:
            raise SecondCustomerError(business_id, *living)
        customer_links.link(self._connection, business_id, customer_id, now)
        self._customer_of[business_id] = customer_id
        self._business_of[customer_id] = business_id
