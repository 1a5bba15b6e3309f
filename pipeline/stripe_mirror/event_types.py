"""What each Stripe event does: most bring a snapshot for the mirror, some name an object to fetch, the rest nothing."""

import dataclasses
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection

from pipeline.businesses.consequences import AWAITING_CUSTOMER, Consequences
from pipeline.events.outcomes import EventState, Outcome
from pipeline.providers.stripe_fields import (
    below,
    identifier,
    read_customer,
    read_invoice,
    read_meter,
    read_price,
    read_subscription,
    unix_instant,
)
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.stripe_mirror import prices
from pipeline.stripe_mirror.customers import SecondCustomerError, UnlinkedError
from pipeline.stripe_mirror.snapshots import Content, Mirror, Snapshot, businesses_of_snapshots, place
from pipeline.subscription_changes import planning

#: An event whose customer must be fetched first is tried again after so many seconds, or when that is done.
CUSTOMER_RETRY_SECONDS = 30


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
    reason: str

    def look(self, connection: Connection, consequences: Consequences) -> None:
        if self.kind == "product":
            prices.product_changed(connection, self.object_id, consequences)
        else:
            consequences.fetch(self.kind, self.object_id, self.reason)


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """One stored event, decoded once: ``id`` is its row's."""

    id: int
    meant: Snapshot | _Look | _Nothing
    livemode: Any
    """True or False, None where it doesn't say; anything else is no better than the other mode."""
    request_key: Any
    """The idempotency key of the request that led to it, where one of an API's did."""


_NOT_NEEDED = _Nothing(EventState.IGNORED, "not-needed")
_OTHER_MODE = _Nothing(EventState.IGNORED, "other-mode")
_OTHER_ACCOUNT = _Nothing(EventState.IGNORED, "other-account")
_TEST_CLOCK = _Nothing(EventState.IGNORED, "test-clock")
_UNREADABLE = _Nothing(EventState.DEAD, "unreadable")


def decode_event(row_id: int, key: str, type: str | None, body: bytes) -> StripeEvent | Outcome:  # noqa: A002 - the column's name
    """Read a stored body, without SQL; an Outcome where nobody can. Never raises, whatever the body."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return Outcome(row_id, EventState.DEAD, "unreadable")
    stated = below(document, "type")
    if not isinstance(stated, str):
        return Outcome(row_id, EventState.DEAD, "unreadable")
    return StripeEvent(
        row_id,
        meant=_meaning(type or stated, key, document),
        livemode=document.get("livemode"),
        request_key=below(document, "request", "idempotency_key"),
    )


def businesses_of_events(connection: Connection, events: Sequence[StripeEvent]) -> set[int]:
    """The businesses that applying these events may touch, as far as can be told before the locks."""
    return businesses_of_snapshots(connection, [event.meant for event in events if isinstance(event.meant, Snapshot)])


def apply_events(
    connection: Connection,
    events: Sequence[StripeEvent],
    locked: AbstractSet[int],
    consequences: Consequences,
    now: datetime,
    *,
    livemode: bool,
    event_name: str,
) -> list[Outcome]:
    """Apply the events under the locks of ``locked``, whatever their order, and tell how each of them ends.

    ``livemode`` is the key's, ``event_name`` our meter's.

    Raises MoreBusinesses when one turns out to touch a business that is not locked.
    """
    outcomes: list[Outcome] = []
    snapshots: list[tuple[Snapshot, StripeEvent]] = []
    for event in events:
        meant = event.meant if event.livemode is None or event.livemode is livemode else _OTHER_MODE
        if isinstance(meant, Snapshot):
            snapshots.append((meant, event))
        elif isinstance(meant, _Look):
            meant.look(connection, consequences)
            outcomes.append(Outcome(event.id, EventState.PROCESSED))
        else:
            outcomes.append(Outcome(event.id, meant.state, meant.reason))
    if snapshots:
        batch = [snapshot for snapshot, _ in snapshots]
        target = Mirror(connection, batch, locked=locked, consequences=consequences, event_name=event_name, now=now)
        for snapshot, event in sorted(snapshots, key=lambda pair: place(pair[0])):
            outcomes.append(_apply_one(target, snapshot, event))
    planning.recognise_ours(connection, [event.request_key for event in events if isinstance(event.request_key, str)])
    return outcomes


def _apply_one(target: Mirror, snapshot: Snapshot, event: StripeEvent) -> Outcome:
    try:
        target.apply(snapshot)
    except UnlinkedError as error:
        if error.reason == AWAITING_CUSTOMER:
            return Outcome(event.id, EventState.PENDING, error.reason, CUSTOMER_RETRY_SECONDS)
        if isinstance(error, SecondCustomerError):  # a drift tells it; what it changed is fetched when that ends
            return Outcome(event.id, EventState.IGNORED, error.reason)
        return Outcome(event.id, EventState.DEAD, error.reason)
    return Outcome(event.id, EventState.PROCESSED)


def _meaning(type: str, key: str, body: Mapping[str, Any]) -> Snapshot | _Look | _Nothing:  # noqa: A002 - as above
    """What an event says: the one place that knows the types. ``key`` is Stripe's own id of it."""
    subject = below(body, "data", "object")
    if body.get("account"):  # of an account that is connected to ours: nobody here is its customer
        return _OTHER_ACCOUNT
    if below(subject, "test_clock"):  # of a customer whose time somebody moves, to try Stripe out
        return _TEST_CLOCK
    match type:
        # Occurs when a customer is made or changed: by us, by a checkout or in the dashboard.
        case "customer.created" | "customer.updated":
            return _snapshot(body, read_customer(subject))
        # Occurs when a customer is deleted; Stripe cancels its subscriptions first and tells so.
        case "customer.deleted":
            customer = read_customer(subject)
            return _snapshot(body, customer and dataclasses.replace(customer, deleted=True))
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
            return _snapshot(body, read_subscription(subject))
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
            invoice = read_invoice(subject)
            return _NOT_NEEDED if invoice is None else _snapshot(body, invoice)
        # Occurs when somebody deletes a draft: it bills nothing, as a void one.
        case "invoice.deleted":
            invoice = read_invoice(subject)
            return (
                _NOT_NEEDED
                if invoice is None
                else _snapshot(body, dataclasses.replace(invoice, status=InvoiceStatus.VOID))
            )
        # Occurs when lines of a final invoice are given back, or that is taken back: the invoice has changed so.
        case "credit_note.created" | "credit_note.updated" | "credit_note.voided":
            invoice_id = identifier(below(subject, "invoice"))
            return _UNREADABLE if invoice_id is None else _Look("invoice", invoice_id, "credit-notes")
        # Occurs when money of a payment goes back to who paid it, or comes again: a refund, or a bank's dispute.
        case (
            "refund.created"
            | "refund.updated"
            | "refund.failed"
            | "charge.dispute.created"
            | "charge.dispute.updated"
            | "charge.dispute.closed"
            | "charge.dispute.funds_withdrawn"
            | "charge.dispute.funds_reinstated"
        ):
            payment = identifier(below(subject, "payment_intent"))
            return _NOT_NEEDED if payment is None else _Look("payment", payment, "paid-back")
        # Occurs when a price is made, changed (its metadata may map it to a plan) or deleted.
        case "price.created" | "price.updated" | "price.deleted":
            return _snapshot(body, read_price(subject))
        # Occurs when a meter is made, changed, or no longer takes events, or does so again.
        case (
            "billing.meter.created"
            | "billing.meter.updated"
            | "billing.meter.deactivated"
            | "billing.meter.reactivated"
        ):
            return _snapshot(body, read_meter(subject))
        # Occurs when a product changes, whose metadata may map its prices to a plan.
        case "product.created" | "product.updated" | "product.deleted":
            product_id = identifier(subject)
            return _UNREADABLE if product_id is None else _Look("product", product_id, "product-changed")
        # Occurs when Stripe could not use meter events that it had taken: a thin event, whose data must be fetched.
        case "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found":
            event_id = identifier(key)
            return _UNREADABLE if event_id is None else _Look("event", event_id, "meter-errors")
        case _:
            return _NOT_NEEDED


def _snapshot(body: Mapping[str, Any], content: Content | None) -> Snapshot | _Nothing:
    if content is None:
        return _UNREADABLE
    api_version = body.get("api_version")
    return Snapshot(
        content,
        at=unix_instant(body.get("created")),
        api_version=api_version if isinstance(api_version, str) else None,
    )
