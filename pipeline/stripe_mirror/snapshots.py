"""The mirror of Stripe: applying snapshots of its objects, whether events brought them or a fetch.

The object at Stripe is the truth, and an event only says that it changed. An event's snapshot is applied when it
is strictly newer than what is stored; on a tie, an older one or a shape that we don't know, the object is fetched.
A fetched one is applied when the mirror still is as it was before the fetch, whatever the two clocks say.
"""

import math
import re
from collections.abc import Collection
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.consequences import Consequences
from pipeline.events.outcomes import MoreBusinesses
from pipeline.prices.price_roles import KnownPrice, known_prices
from pipeline.providers.stripe_fields import Customer, Invoice, Meter, Owned, Price, Subscription
from pipeline.stripe_mirror import customers, effects, invoices
from pipeline.stripe_mirror.customers import Links, SecondCustomerError, UnlinkedError
from pipeline.stripe_mirror.meters import store_meter
from pipeline.stripe_mirror.prices import ensure, plan_ids, store_price
from pipeline.stripe_mirror.subscriptions import store_subscription

#: Shapes that we read: the dated ones from 2020-08-27 on, and the releases with these names.
OLDEST_VERSION = "2020-08-27"
RELEASES = frozenset({"acacia", "basil", "clover", "dahlia", "endive"})

_VERSION = re.compile(r"(20[0-9]{2}-[01][0-9]-[0-3][0-9])(?:\.([a-z]+))?")

# Stored: what each object's mirror was made from. What no business's lock guards is locked.
_STORED = {
    "meter": "select id, snapshot_at from stripe_meters where id = any(%s::text[]) order by id for no key update",
    "price": "select id, snapshot_at from stripe_prices where id = any(%s::text[]) order by id for no key update",
    "customer": "select id, snapshot_at from stripe_customers where id = any(%s::text[]) order by id for no key update",
    "subscription": "select stripe_id, snapshot_at from subscriptions where stripe_id = any(%s::text[])",
    "invoice": "select id, snapshot_at from stripe_invoices where id = any(%s::text[])",
}

_BUSINESS_OF_SUBSCRIPTION = "select stripe_id, business_id from subscriptions where stripe_id = any(%s::text[])"

Content = Meter | Customer | Price | Subscription | Invoice
Key = tuple[str, str]


def key_of(content: Content) -> Key:
    """An object's kind, in the word of the table refreshes, and its id."""
    match content:
        case Meter():
            return "meter", content.id
        case Customer():
            return "customer", content.id
        case Price():
            return "price", content.id
        case Subscription():
            return "subscription", content.stripe_id
        case Invoice():
            return "invoice", content.id


def priced_of(content: Content) -> set[str]:
    """The prices that must be known before it is applied."""
    match content:
        case Subscription():
            return {item.price.id for item in content.items}
        case Invoice():
            return invoices.priced_lines(content)
        case _:
            return set()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An object as it was ``at`` an instant of Stripe's (for a fetch: at the business instant before it began).

    ``seen`` is for fetched ones: what the mirror was made from before the fetch, None for nothing.
    """

    content: Content
    at: datetime | None
    api_version: str | None
    fetched: bool = False
    seen: datetime | None = None

    @property
    def key(self) -> Key:
        return key_of(self.content)

    @property
    def owned(self) -> Owned | None:
        """Whose customer's it is, for what belongs to one."""
        if isinstance(self.content, Subscription | Invoice):
            return self.content.owned
        return None


def known_version(api_version: str | None) -> bool:
    """Whether we know the shapes of an API version, as ``2020-08-27`` or ``2026-10-28.endive``."""
    match = _VERSION.fullmatch(api_version or "")
    return match is not None and match[1] >= OLDEST_VERSION and (match[2] is None or match[2] in RELEASES)


def place(snapshot: Snapshot) -> tuple[int, str, float]:
    """Its place in a batch: after the kinds of objects that it asks for; each object's oldest first."""
    kind, object_id = snapshot.key
    return list(_STORED).index(kind), object_id, math.inf if snapshot.at is None else snapshot.at.timestamp()


def stored_at(connection: Connection, keys: Collection[Key]) -> dict[Key, datetime]:
    """What the mirrors of these objects were made from; those of no business are locked until the commit."""
    found: dict[Key, datetime] = {}
    for kind, query in _STORED.items():
        ids = sorted({object_id for key_kind, object_id in keys if key_kind == kind})
        if ids:
            rows = connection.exec_driver_sql(query, (ids,))
            found |= {(kind, object_id): snapshot_at for object_id, snapshot_at in rows}
    return found


def businesses_of_snapshots(connection: Connection, snapshots: Collection[Snapshot]) -> set[int]:
    """The businesses that applying these may touch, to be locked before."""
    owned = [snapshot.owned for snapshot in snapshots if snapshot.owned is not None]
    # A customer that comes along may name a business for them.
    owned += [
        Owned(snapshot.content.id, snapshot.content.named_business_id)
        for snapshot in snapshots
        if isinstance(snapshot.content, Customer)
    ]
    return Links(connection, owned).businesses if owned else set()


class Mirror:
    """Applies the snapshots of one batch, in one transaction, under the locks of ``locked``.

    Made with all of the batch and our meter's event name, then given each in its ``place``; then ``consequences`` are
    to be settled.
    """

    def __init__(
        self,
        connection: Connection,
        batch: Collection[Snapshot],
        *,
        locked: AbstractSet[int],
        consequences: Consequences,
        event_name: str,
        now: datetime,
    ) -> None:
        self._connection = connection
        self._event_name = event_name
        self._consequences = consequences
        self._batch = batch
        self._locked = locked
        self._now = now
        self._plans = plan_ids(connection)
        self._stored = stored_at(connection, {snapshot.key for snapshot in batch})
        self._links: Links | None = None
        self._owners: dict[str, int] = {}

    def apply(self, snapshot: Snapshot) -> None:
        """Apply one snapshot, or have its object fetched.

        Raises UnlinkedError when no business is its customer, SecondCustomerError when that has another one, and
        MoreBusinesses.
        """
        try:
            business_id = self._business_of(snapshot)
        except SecondCustomerError as second:
            if isinstance(snapshot.content, Subscription):
                effects.report_second_customer(self._connection, snapshot.content, second, self._consequences)
            raise
        kind, object_id = snapshot.key
        reason = self._outdated(snapshot)
        if reason is not None:
            self._consequences.fetch(kind, object_id, reason)
            return
        at = snapshot.at
        assert at is not None
        if snapshot.fetched and snapshot.seen is not None:
            at = max(at, snapshot.seen)
        match snapshot.content:
            case Meter() as meter:
                store_meter(self._connection, meter, at, self._consequences)
            case Customer() as customer:
                customers.store_customer(self._connection, customer, at)
                self._consequences.customers_known = True
            case Price() as price:
                store_price(self._connection, price, at, self._plans, self._consequences)
            case Subscription() as subscription:
                assert business_id is not None
                told = store_subscription(
                    self._connection,
                    subscription,
                    business_id,
                    known=self._known_prices(snapshot),
                    snapshot_at=at,
                    api_version=snapshot.api_version,
                    now=self._now,
                )
                effects.follow_subscription(
                    self._connection,
                    subscription,
                    told,
                    business_id,
                    free_plan_id=self._plans["free"],
                    consequences=self._consequences,
                    now=self._now,
                )
            case Invoice() as invoice:
                assert business_id is not None
                billed = invoices.store_invoice(
                    self._connection, invoice, business_id, known=self._known_prices(snapshot), snapshot_at=at
                )
                effects.follow_invoice(
                    self._connection, invoice, billed, business_id, consequences=self._consequences, now=self._now
                )
        self._stored[snapshot.key] = at

    def _outdated(self, snapshot: Snapshot) -> str | None:
        """Why the snapshot can't be applied, in the word for the refresh; None when it can."""
        stored = self._stored.get(snapshot.key)
        if snapshot.fetched:
            return None if stored == snapshot.seen else "changed-meanwhile"
        if snapshot.at is None or not known_version(snapshot.api_version):
            return "unknown-version"
        if stored is not None and snapshot.at <= stored:
            return "same-second" if snapshot.at == stored else "older-snapshot"
        if isinstance(snapshot.content, Invoice | Subscription):
            if not snapshot.content.complete:
                return "more-lines" if isinstance(snapshot.content, Invoice) else "more-items"
            if self._undecided(snapshot):
                return "unknown-price"
            if isinstance(snapshot.content, Invoice) and snapshot.content.credited_cents:
                return "credit-notes"
        return None

    def _known_prices(self, snapshot: Snapshot) -> dict[str, KnownPrice]:
        return known_prices(self._connection, priced_of(snapshot.content), self._event_name)

    def _undecided(self, snapshot: Snapshot) -> bool:
        """Whether it has a price of which the mirror can't tell whether it counts minutes."""
        known = self._known_prices(snapshot)
        return any(price_id not in known or known[price_id].role is None for price_id in priced_of(snapshot.content))

    def _business_of(self, snapshot: Snapshot) -> int | None:
        if snapshot.owned is None:
            return None
        links = self._links or self._find_owners()
        business_id = links.business_of(snapshot.owned, self._consequences, self._now)
        if isinstance(snapshot.content, Subscription):
            owner = self._owners.setdefault(snapshot.content.stripe_id, business_id)
            if owner != business_id:
                raise UnlinkedError("customer-conflict")
        return business_id

    def _find_owners(self) -> Links:
        """Look up whose the objects are, once the batch's customers are mirrored; mirror the items' prices."""
        owned = [snapshot.owned for snapshot in self._batch if snapshot.owned is not None]
        links = Links(self._connection, owned)
        if links.businesses - self._locked:
            raise MoreBusinesses(links.businesses - self._locked)
        subscriptions = [each for each in self._batch if isinstance(each.content, Subscription)]
        ids = sorted({each.key[1] for each in subscriptions})
        self._owners = dict(self._connection.exec_driver_sql(_BUSINESS_OF_SUBSCRIPTION, (ids,)).all())
        for each in subscriptions:
            assert isinstance(each.content, Subscription)
            if each.at is not None and (each.fetched or known_version(each.api_version)):
                prices = [item.price for item in each.content.items]
                ensure(self._connection, prices, each.at, self._plans, self._consequences)
        self._links = links
        return links
