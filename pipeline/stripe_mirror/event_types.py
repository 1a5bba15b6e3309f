"""What each Stripe event does: most bring a snapshot for the mirror, some name an object to fetch, the rest nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from pipeline.events.outcomes import Applied, EventState, Outcome
from pipeline.providers.stripe_fields import below, identifier, unix_instant
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.stripe_mirror import customers, invoices, prices, subscriptions
from pipeline.stripe_mirror.customers import UnlinkedError
from pipeline.stripe_mirror.effects import AWAITING_CUSTOMER, Effects
from pipeline.stripe_mirror.snapshots import Content, Mirror, Snapshot, businesses_of_snapshots, place
from pipeline.subscription_changes import planning

#: An event whose customer must be fetched first is tried again after so many seconds, or when that is done.
CUSTOMER_RETRY_SECONDS = 30


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """One stored event, decoded: ``id`` is its row's, ``key`` Stripe's own id of it."""

    id: int
    key: str
    type: str
    body: Mapping[str, Any]
    received_at: datetime


@dataclass(frozen=True, slots=True)
class _Nothing:
    """The event changes nothing: how it ends, and why."""

    state: EventState
    reason: str


@dataclass(frozen=True, slots=True)
class _Look:
    """The event only says what must be looked at."""

    kind: str
    object_id: str

    def look(self, connection: Connection, effects: Effects) -> None:
        if self.kind == "product":
            prices.product_changed(connection, self.object_id, effects)
        else:
            effects.stale(self.kind, self.object_id, "meter-errors")


_NOT_NEEDED = _Nothing(EventState.IGNORED, "not-needed")
_OTHER_MODE = _Nothing(EventState.IGNORED, "other-mode")
_UNREADABLE = _Nothing(EventState.DEAD, "unreadable")


def decode_event(row_id: int, key: str, type: str | None, body: bytes, received_at: datetime) -> StripeEvent | Outcome:  # noqa: A002 - the column's name
    """Read a stored body, without SQL; an Outcome where nobody can. Never raises, whatever the body."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return Outcome(row_id, EventState.DEAD, "unreadable")
    stated = below(document, "type")
    if not isinstance(stated, str):
        return Outcome(row_id, EventState.DEAD, "unreadable")
    return StripeEvent(row_id, key, type or stated, document, received_at)


def businesses_of_events(connection: Connection, events: Sequence[StripeEvent]) -> set[int]:
    """The businesses that applying these events may touch, as far as can be told before the locks."""
    meanings = [_meaning(event) for event in events]
    return businesses_of_snapshots(connection, [meant for meant in meanings if isinstance(meant, Snapshot)])


def apply_events(
    connection: Connection, events: Sequence[StripeEvent], locked: AbstractSet[int], now: datetime, *, livemode: bool
) -> Applied:
    """Apply the events under the locks of ``locked``, whatever their order, and tell how each of them ends.

    Raises MoreBusinesses when one turns out to touch a business that is not locked.
    """
    applied, effects = Applied(), Effects()
    snapshots: list[tuple[Snapshot, StripeEvent]] = []
    for event in events:
        other_mode = event.body.get("livemode", livemode) is not livemode
        meant = _OTHER_MODE if other_mode else _meaning(event)
        if isinstance(meant, Snapshot):
            snapshots.append((meant, event))
        elif isinstance(meant, _Look):
            meant.look(connection, effects)
            applied.outcomes.append(Outcome(event.id, EventState.PROCESSED))
        else:
            applied.outcomes.append(Outcome(event.id, meant.state, meant.reason))
    if snapshots:
        batch = [snapshot for snapshot, _ in snapshots]
        target = Mirror(connection, batch, locked=locked, effects=effects, now=now)
        for snapshot, event in sorted(snapshots, key=lambda pair: place(pair[0])):
            applied.outcomes.append(_apply_one(target, snapshot, event))
    planning.recognise_ours(connection, [key for event in events if isinstance(key := _own_key(event), str)])
    effects.write(connection, now)
    applied.follow_ups |= effects.follow_ups
    return applied


def _own_key(event: StripeEvent) -> Any:
    """The idempotency key of the request that led to this event, where one of an API's did."""
    return below(event.body, "request", "idempotency_key")


def _apply_one(target: Mirror, snapshot: Snapshot, event: StripeEvent) -> Outcome:
    try:
        target.apply(snapshot)
    except UnlinkedError as error:
        if error.reason == AWAITING_CUSTOMER:
            return Outcome(event.id, EventState.PENDING, error.reason, CUSTOMER_RETRY_SECONDS)
        return Outcome(event.id, EventState.DEAD, error.reason)
    return Outcome(event.id, EventState.PROCESSED)


def _meaning(event: StripeEvent) -> Snapshot | _Look | _Nothing:
    """What an event says: the one place that knows the types."""
    subject = below(event.body, "data", "object")
    match event.type:
        # Occurs when a customer is made or changed: by us, by a checkout or in the dashboard.
        case "customer.created" | "customer.updated":
            return _snapshot(event, customers.read_customer(subject))
        # Occurs when a customer is deleted; Stripe cancels its subscriptions first and tells so.
        case "customer.deleted":
            customer = customers.read_customer(subject)
            return _snapshot(event, customer and dataclasses.replace(customer, deleted=True))
        # Occurs when a subscription begins, renews, changes in any way, or ends ("deleted"); the trial's end is
        # announced with the subscription as it is.
        case (
            "customer.subscription.created"
            | "customer.subscription.updated"
            | "customer.subscription.deleted"
            | "customer.subscription.paused"
            | "customer.subscription.resumed"
            | "customer.subscription.trial_will_end"
            | "customer.subscription.pending_update_applied"
            | "customer.subscription.pending_update_expired"
        ):
            return _snapshot(event, subscriptions.read_subscription(subject))
        # Occurs when a draft is made (at a renewal: the period can be billed until it finalises), when it changes,
        # finalises, is sent, and whenever its payment takes a turn.
        case (
            "invoice.created"
            | "invoice.updated"
            | "invoice.finalized"
            | "invoice.finalization_failed"
            | "invoice.sent"
            | "invoice.will_be_due"
            | "invoice.overdue"
            | "invoice.paid"
            | "invoice.payment_succeeded"
            | "invoice.payment_failed"
            | "invoice.payment_action_required"
            | "invoice.payment_attempt_required"
            | "invoice.overpaid"
            | "invoice.marked_uncollectible"
            | "invoice.voided"
        ):
            invoice = invoices.read_invoice(subject)
            return _NOT_NEEDED if invoice is None else _snapshot(event, invoice)
        # Occurs when somebody deletes a draft: it bills nothing, as a void one.
        case "invoice.deleted":
            invoice = invoices.read_invoice(subject)
            return (
                _NOT_NEEDED
                if invoice is None
                else _snapshot(event, dataclasses.replace(invoice, status=InvoiceStatus.VOID))
            )
        # Occurs when a price is made, changed (its metadata may map it to a plan) or deleted.
        case "price.created" | "price.updated" | "price.deleted":
            return _snapshot(event, prices.read_price(subject))
        # Occurs when a product changes, whose metadata may map its prices to a plan.
        case "product.created" | "product.updated" | "product.deleted":
            product_id = identifier(subject)
            return _UNREADABLE if product_id is None else _Look("product", product_id)
        # Occurs when Stripe could not use meter events that it had taken: a thin event, whose data must be fetched.
        case "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found":
            event_id = identifier(event.key)
            return _UNREADABLE if event_id is None else _Look("event", event_id)
        case _:
            return _NOT_NEEDED


def _snapshot(event: StripeEvent, content: Content | None) -> Snapshot | _Nothing:
    if content is None:
        return _UNREADABLE
    api_version = event.body.get("api_version")
    return Snapshot(
        content,
        at=unix_instant(event.body.get("created")),
        api_version=api_version if isinstance(api_version, str) else None,
    )
