"""Fetching Stripe's objects that are stale or were never known, and applying them to the mirror.

HTTP first, outside any transaction; then one transaction under the locks of the businesses that are concerned.
"""

import dataclasses
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import ParamSpec, TypeVar

import structlog
from sqlalchemy import Connection, Engine

from pipeline.businesses.consequences import Consequences
from pipeline.events import fetch_requests
from pipeline.events.fetch_requests import FetchError, FetchRequest
from pipeline.events.outcomes import MoreBusinesses
from pipeline.meter import error_reports
from pipeline.prices.price_roles import known_prices
from pipeline.providers import stripe_fields
from pipeline.providers.stripe_api import AccountFault, Json, Limited, Refused, StripeApi, StripeApiError
from pipeline.providers.stripe_fields import Price, Subscription
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import Clock
from pipeline.shared.drifts import DriftKind
from pipeline.shared.settings import METER_EVENT_NAME
from pipeline.stripe_mirror.customers import UnlinkedError
from pipeline.stripe_mirror.meters import known_meters
from pipeline.stripe_mirror.snapshots import (
    Content,
    Key,
    Mirror,
    Snapshot,
    businesses_of_snapshots,
    key_of,
    place,
    priced_of,
    stored_at,
)

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

#: With a subscription come its newest invoices, so that one whose event was lost is known all the same.
INVOICES = 10
#: A renewal that Stripe does not show yet is looked for again after so many seconds of machine time.
UNCONFIRMED_SECONDS = 20
#: How often a transaction begins again because an object turned out to belong to one more business.
MAX_LOCKINGS = 5

_INVOICES_OF = "select id from stripe_invoices where stripe_subscription_id = %s"

_SUBSCRIPTIONS_OF = "select stripe_id from subscriptions where stripe_customer_id = %s"

# A record whose bounds Stripe has not confirmed although the period has begun.
_UNCONFIRMED = """
select exists (
  select from usage_records r join subscriptions s on s.id = r.subscription_id
  where s.stripe_id = %s and s.ended_at is null and r.state = 'open' and r.provisional and r.period_start <= %s)
"""


class StripeFetcher:
    """Fetches what is due of Stripe's. ``follow_ups`` collects the tasks that then have something to do."""

    def __init__(self, engine: Engine, api: StripeApi, clock: Clock, event_name: str = METER_EVENT_NAME) -> None:
        self.follow_ups: set[str] = set()
        self._event_name = event_name
        self._engine = engine
        self._api = api
        self._clock = clock

    def run(self) -> dict[str, int]:
        """Fetch what is due; returns how many objects were ``fetched`` and how many ``failed``."""
        handlers: dict[str, Callable[[FetchRequest], None]] = {
            "customer": self._customer,
            "subscription": self._subscription,
            "invoice": self._invoice,
            "payment": self._payment,
            "price": self._price,
            "meter": self._meter,
            "event": self._event,
        }
        return fetch_requests.fetch_due(self._engine, handlers)

    def _customer(self, due: FetchRequest) -> None:
        """A customer with its subscriptions: linking one by hand brings in what it already has."""
        with self._engine.connect() as connection:
            own = connection.exec_driver_sql(_SUBSCRIPTIONS_OF, (due.object_id,)).scalars()
            keys = {("customer", due.object_id)} | {("subscription", stripe_id) for stripe_id in own}
            fetch = self._fetch(stored_at(connection, keys))
        customer = _ask(self._api.get_customer, due.object_id)
        if customer is not None:
            fetch.add(stripe_fields.read_customer(customer))
            if customer.get("deleted") is not True:
                listed = _ask(self._api.list_subscriptions, due.object_id) or []
                fetch.add_all(self._with_swaps(stripe_fields.read_subscription(each)) for each in listed)
                for unknown in sorted({str(each["id"]) for each in listed} - {key for _, key in keys}):
                    bills = _ask(self._api.list_invoices, unknown, limit=INVOICES) or []
                    fetch.add_all(map(stripe_fields.read_invoice, bills))
        self._add_what_decides(fetch)
        self._apply(due, fetch)

    def _subscription(self, due: FetchRequest) -> None:
        with self._engine.connect() as connection:
            own = connection.exec_driver_sql(_INVOICES_OF, (due.object_id,)).scalars()
            keys = {("subscription", due.object_id)} | {("invoice", invoice_id) for invoice_id in own}
            fetch = self._fetch(stored_at(connection, keys))
        subscription = stripe_fields.read_subscription(_ask(self._api.get_subscription, due.object_id))
        fetch.add(self._with_swaps(subscription))
        if fetch.contents:
            listed = _ask(self._api.list_invoices, due.object_id, limit=INVOICES) or []
            fetch.add_all(map(stripe_fields.read_invoice, listed))
        self._add_what_decides(fetch)
        self._apply(due, fetch)

    def _with_swaps(self, subscription: Subscription | None) -> Subscription | None:
        """A subscription with when its metered prices came, where that was inside the present period.

        The subscription itself does not tell; the invoice to come does, by the lines of those prices.
        """
        if subscription is None or subscription.ended_at is not None:
            return subscription
        metered = {
            item.price.id: item.period or subscription.period for item in subscription.items if item.price.metered
        }
        if not metered:
            return subscription
        try:
            upcoming = _ask(self._api.preview_invoice, subscription.stripe_id, {}) or {}
        except FetchError as error:  # the subscription itself is worth more than this one date
            log.info("no-preview", subscription=subscription.stripe_id, error=str(error))
            return subscription
        lines = [line for row in stripe_fields.rows(upcoming.get("lines")) if (line := stripe_fields.read_line(row))]
        swaps: dict[str, datetime] = {}
        for line in sorted(lines, key=lambda line: line.start):
            period = metered.get(line.price_id or "")
            # One that ends before is of a time before another price came, and went again.
            if period is not None and period[0] < line.start < period[1] == line.end:
                swaps[line.price_id or ""] = line.start
        return dataclasses.replace(subscription, swaps=swaps)

    def _invoice(self, due: FetchRequest) -> None:
        with self._engine.connect() as connection:
            fetch = self._fetch(stored_at(connection, {("invoice", due.object_id)}))
        invoice = _ask(self._api.get_invoice, due.object_id)
        if invoice is not None and stripe_fields.whole(invoice.get("amount_paid")):
            invoice |= _ask(self._paid_back, due.object_id) or {}
        fetch.add(stripe_fields.read_invoice(invoice))
        self._add_what_decides(fetch)
        self._apply(due, fetch)

    def _paid_back(self, invoice_id: str) -> Json:
        try:
            return self._api.get_paid_back(invoice_id)
        except AccountFault as error:  # the invoice itself is worth more than what was given back of it
            log.warning("no-right-to-refunds", invoice=invoice_id, error=str(error))
            return {}

    def _payment(self, due: FetchRequest) -> None:
        """A payment of which money went back: the invoices that it was for are fetched."""
        paid = _ask(self._api.invoices_paid_by, due.object_id) or []
        with self._engine.begin() as connection:
            wanted = {("invoice", invoice_id): "paid-back" for invoice_id in paid}
            fetch_requests.request_fetches(connection, wanted, settled=due)

    def _price(self, due: FetchRequest) -> None:
        with self._engine.connect() as connection:
            fetch = self._fetch(stored_at(connection, {("price", due.object_id)}))
        fetch.add(stripe_fields.read_price(_ask(self._api.get_price, due.object_id)))
        self._add_what_decides(fetch)
        self._apply(due, fetch)

    def _meter(self, due: FetchRequest) -> None:
        with self._engine.connect() as connection:
            fetch = self._fetch(stored_at(connection, {("meter", due.object_id)}))
        fetch.add(stripe_fields.read_meter(_ask(self._api.get_meter, due.object_id)))
        self._apply(due, fetch)

    def _event(self, due: FetchRequest) -> None:
        """A thin event of the meters' errors, for its data."""
        event = _ask(self._api.get_event_v2, due.object_id)
        now = self._clock.now()
        with self._engine.begin() as connection:
            if event is not None:
                errors = error_reports.read_error_report(event)
                lock_businesses(connection, error_reports.businesses_of_report(connection, errors))
                try:
                    error_reports.apply_error_report(connection, due.object_id, errors, now)
                except error_reports.UndecidedError as error:
                    raise FetchError(str(error)) from error
            fetch_requests.mark_fetched(connection, due)

    def _add_what_decides(self, fetch: "_Fetch") -> None:
        """Fetch the prices and meters, unknown to the mirror, by which items and lines are told apart and cost."""
        priced = set().union(*(priced_of(content) for content in fetch.contents))
        with self._engine.connect() as connection:
            known = known_prices(connection, priced, self._event_name)
            meters = known_meters(connection)
            fetch.see(stored_at(connection, {("price", price_id) for price_id in known}))
        shown = {price.id for price in fetch.prices.values() if price.tariffs is not None}
        for price_id in sorted(priced - shown - {price.id for price in known.values() if price.tariffed}):
            fetch.add(stripe_fields.read_price(_ask(self._api.get_price, price_id)))
        named = {price.meter_id for price in known.values()} | {price.meter_id for price in fetch.prices.values()}
        for meter_id in sorted(filter(None, named - meters)):
            fetch.add(stripe_fields.read_meter(_ask(self._api.get_meter, meter_id)))

    def _fetch(self, seen: dict[Key, datetime]) -> "_Fetch":
        return _Fetch(lambda: self._api.answered_at or self._clock.now(), seen)

    def _apply(self, due: FetchRequest, fetch: "_Fetch") -> None:
        """Apply what was fetched, and settle, in one transaction."""
        now = self._clock.now()
        snapshots = sorted(fetch.snapshots(), key=place)
        more: frozenset[int] = frozenset()
        for _ in range(MAX_LOCKINGS):
            consequences = Consequences()
            try:
                with self._engine.begin() as connection:
                    locked = businesses_of_snapshots(connection, snapshots) | more
                    lock_businesses(connection, locked)
                    target = Mirror(
                        connection,
                        snapshots,
                        locked=locked,
                        consequences=consequences,
                        event_name=self._event_name,
                        now=now,
                    )
                    for snapshot in snapshots:
                        _apply_one(target, snapshot)
                    _look_at_what_is_missing(connection, due, fetch, consequences, now)
                    consequences.settle(connection, now, fetched=due)
            except MoreBusinesses as error:
                more |= error.business_ids
            else:
                self.follow_ups |= consequences.follow_ups
                return
        raise FetchError("its customer kept changing hands")


class _Fetch:
    """What one fetch brought: as of when, on top of which state of the mirror, and the objects.

    As of when Stripe answered first, by Stripe's clock, which dates its events too: ours may be slow, and then an event
    from before the fetch would look newer (62).
    """

    def __init__(self, answered_at: Callable[[], datetime], seen: dict[Key, datetime]) -> None:
        self.contents: list[Content] = []
        self._answered_at = answered_at
        self._at: datetime | None = None
        self._seen = seen

    def see(self, stored: dict[Key, datetime]) -> None:
        """Note the state of the mirror for more objects, before they are fetched."""
        self._seen = stored | self._seen

    def add(self, content: Content | None) -> None:
        if content is not None:
            self._at = self._at or self._answered_at()
            self.contents.append(content)

    def add_all(self, contents: Iterable[Content | None]) -> None:
        for content in contents:
            self.add(content)

    @property
    def prices(self) -> dict[str, Price]:
        """The prices among the objects, and those that subscriptions show, which are mirrored with these."""
        shown = [item.price for each in self.contents if isinstance(each, Subscription) for item in each.items]
        return {price.id: price for price in (*shown, *(each for each in self.contents if isinstance(each, Price)))}

    def snapshots(self) -> list[Snapshot]:
        return [
            Snapshot(
                each,
                at=self._at,
                api_version=None,
                fetched=True,
                seen=self._seen.get(key_of(each)),
            )
            for each in self.contents
        ]


def _ask(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """What Stripe answers; None when there is no such object. Raises FetchError."""
    try:
        return call(*args, **kwargs)
    except Refused as error:
        if error.status == 404:
            return None
        raise FetchError(str(error), costs_attempt=not isinstance(error, AccountFault)) from error
    except StripeApiError as error:
        raise FetchError(str(error), costs_attempt=not isinstance(error, Limited)) from error


def _apply_one(target: Mirror, snapshot: Snapshot) -> None:
    try:
        target.apply(snapshot)
    except UnlinkedError as error:
        kind, object_id = snapshot.key
        log.info("fetched-for-nobody", kind=kind, object_id=object_id, reason=error.reason)


def _look_at_what_is_missing(
    connection: Connection, due: FetchRequest, fetch: _Fetch, consequences: Consequences, now: datetime
) -> None:
    """Report an object that is mirrored and gone at Stripe; look again for a renewal that is not there yet."""
    subject = f"{due.kind}:{due.object_id}"
    if fetch.contents:
        drifts.resolve(connection, DriftKind.GONE_AT_STRIPE, subject, now)
    elif stored_at(connection, {(due.kind, due.object_id)}):
        drifts.report(
            connection,
            DriftKind.GONE_AT_STRIPE,
            subject,
            expected="Stripe still has what is mirrored here",
            actual="404: was the API key changed for another account's, or test data deleted?",
            now=now,
        )
    if due.kind == "subscription" and connection.exec_driver_sql(_UNCONFIRMED, (due.object_id, now)).scalar():
        consequences.fetch("subscription", due.object_id, "provisional-period", due_in_seconds=UNCONFIRMED_SECONDS)
