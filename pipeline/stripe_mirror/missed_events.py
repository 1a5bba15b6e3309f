"""Looking for what events did not tell: those that Stripe never delivered, and subscriptions that look otherwise.

Events go the way of webhooks, through webhook_events, marked as recovered. Of a subscription that is not as it is
mirrored only the fetching is asked for: once per object, however many changes it had.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any, TypeVar

import orjson
import structlog
from sqlalchemy import Connection, Engine

from pipeline.businesses import customer_links
from pipeline.events import fetch_requests, queue
from pipeline.prices.price_roles import KnownPrice, known_prices
from pipeline.providers.stripe_api import StripeApi
from pipeline.providers.stripe_fields import Subscription, read_customer, read_subscription
from pipeline.shared.settings import METER_EVENT_NAME

log = structlog.get_logger()

#: Stripe delivers for three days; a night beyond is for our own.
SINCE = timedelta(days=4)
#: Rows of a transaction.
CHUNK = 100
#: Stripe filters by so many types at once.
MOST_TYPES = 20
#: The events that are looked for.
TYPES = (
    "customer.created",
    "customer.updated",
    "customer.deleted",
    "customer.subscription.created",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "customer.subscription.paused",
    "customer.subscription.resumed",
    "invoice.created",
    "invoice.updated",
    "invoice.finalized",
    "invoice.paid",
    "invoice.payment_failed",
    "invoice.voided",
    "invoice.marked_uncollectible",
    "invoice.deleted",
    "credit_note.created",
    "credit_note.voided",
    "refund.created",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.closed",
    "price.created",
    "price.updated",
    "product.updated",
    "billing.meter.updated",
    "billing.meter.deactivated",
    "billing.meter.reactivated",
)

_MIRRORED = """
select stripe_id, status, metered_item_id, period_start, period_end, cancel_at_period_end, cancel_at, ended_at
from subscriptions where stripe_id = any(%s::text[])
"""

_ITEMS = """
select i.id, i.price_id, i.role, i.quantity
from subscription_items i join subscriptions s on s.id = i.subscription_id where s.stripe_id = any(%s::text[])
"""

_BUSINESSES = "select id from businesses where id = any(%s::bigint[])"

T = TypeVar("T")


def recover_events(engine: Engine, api: StripeApi, now: datetime) -> int:
    """Store the events of the last days that some endpoint has not answered, as far as they are unknown here; how many.

    Raises StripeApiError; what was stored before stays.
    """
    count = 0
    found = chain.from_iterable(api.undelivered_events(types, now - SINCE) for types in _chunks(TYPES, MOST_TYPES))
    for events in _chunks(found, CHUNK):
        with engine.begin() as connection:
            for event in events:
                count += queue.store_event(
                    connection,
                    provider="stripe",
                    key=str(event["id"])[:255],
                    type=str(event["type"])[:255],
                    body=orjson.dumps(event),
                    content_type="application/json",
                    now=now,
                    recovered=True,
                )
    if count:
        log.warning("events-recovered", events=count)
    return count


def sweep_subscriptions(engine: Engine, api: StripeApi, event_name: str = METER_EVENT_NAME) -> int:
    """Have those subscriptions of the account fetched that are not as they are mirrored; how many.

    ``event_name`` is our meter's, by which items may have another role than they had.
    One of a customer that no business is linked to, and that names none, is nobody's. Raises StripeApiError.
    """
    count = 0
    for objects in _chunks(api.all_subscriptions(), CHUNK):
        found = [read for each in objects if (read := read_subscription(each)) is not None]
        with engine.begin() as connection:
            different = _different(connection, found, event_name)
            fetch_requests.request_fetches(
                connection, {("subscription", stripe_id): "swept" for stripe_id in different}
            )
        count += len(different)
    if count:
        log.warning("subscriptions-swept", different=count)
    return count


def sweep_customers(engine: Engine, api: StripeApi) -> set[int]:
    """Have the customers of the account fetched that are linked, or name a business that is here.

    Returns the businesses that others name, and that are not here. Raises StripeApiError.
    """
    strangers: set[int] = set()
    for objects in _chunks(api.all_customers(), CHUNK):
        found = [read for each in objects if (read := read_customer(each)) is not None]
        named = {it.named_business_id for it in found if it.named_business_id is not None}
        with engine.begin() as connection:
            here = set(connection.exec_driver_sql(_BUSINESSES, (sorted(named),)).scalars())
            linked = customer_links.linked_businesses(connection, [it.id for it in found])
            wanted = [it.id for it in found if it.id in linked or it.named_business_id in here]
            fetch_requests.request_fetches(connection, {("customer", its): "swept" for its in wanted})
        strangers |= named - here
    return strangers


def _different(connection: Connection, found: list[Subscription], event_name: str) -> list[str]:
    ids = [it.stripe_id for it in found]
    mirrored = {row.stripe_id: row for row in connection.exec_driver_sql(_MIRRORED, (ids,))}
    items = {tuple(row) for row in connection.exec_driver_sql(_ITEMS, (ids,))}
    known = known_prices(connection, {item.price.id for it in found for item in it.items}, event_name)
    customers = [it.owned.customer_id for it in found]
    linked = customer_links.linked_businesses(connection, customers)
    return [
        it.stripe_id
        for it in found
        if (
            _differs(it, mirrored[it.stripe_id]) or (it.ended_at is None and not _items_of(it, known) <= items)
            if it.stripe_id in mirrored
            else it.owned.customer_id in linked or it.owned.named_business_id is not None
        )
    ]


def _items_of(it: Subscription, known: Mapping[str, KnownPrice]) -> set[tuple[str, str, str | None, int | None]]:
    """Its items as the mirror should have them."""
    roles = {price_id: price.role for price_id, price in known.items()}
    return {(item.id, item.price.id, roles.get(item.price.id), item.quantity) for item in it.items}


def _differs(it: Subscription, row: Any) -> bool:
    periods = {item.id: item.period or it.period for item in it.items}
    period = periods.get(row.metered_item_id)
    return (it.status, it.cancel_at_period_end, it.cancel_at, it.ended_at) != (
        row.status,
        row.cancel_at_period_end,
        row.cancel_at,
        row.ended_at,
    ) or (row.metered_item_id is not None and period != (row.period_start, row.period_end))


def _chunks(objects: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(objects)
    while chunk := list(islice(remaining, size)):
        yield chunk
