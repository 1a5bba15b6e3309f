"""What Stripe says of a business's subscriptions, what we changed there, and whether it may take calls and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import NEWEST, Json, typed_rows

#: The latest changes and transitions that are told.
LATEST = 10

_SUBSCRIPTIONS = """
select s.stripe_id, s.status, p.code as plan, s.period_start, s.period_end, s.trial_end, s.cancel_at_period_end,
       s.cancel_at, s.ended_at, s.pause_collection, s.billing_mode, s.started_at
from subscriptions s left join subscription_plans p on p.id = s.plan_id
where s.business_id = %s order by s.started_at desc, s.id desc
"""

_CHANGES = """
select id, kind, params, state, reason, attempts, answer, created_at
from subscription_changes where business_id = %(business_id)s and id < %(before)s order by id desc limit %(limit)s
"""

_TRANSITIONS = """
select id, at, from_status, to_status, rule, until, cause
from service_transitions where business_id = %(business_id)s and id < %(before)s order by id desc limit %(limit)s
"""

_DEARER = """
select wanted.price_cents - present.price_cents as dearer
from businesses b join subscription_plans present on present.id = b.plan_id, subscription_plans wanted
where b.id = %s and wanted.code = %s
"""

_COLLECTION_PAUSED = """
select exists (select from subscriptions where business_id = %s and ended_at is null and pause_collection is not null)
"""


@dataclass(frozen=True, slots=True)
class MirroredSubscription:
    """A subscription as Stripe last told of it; times in UTC, ``plan`` None where no price of it is mapped."""

    stripe_id: str
    status: str
    plan: str | None
    period_start: datetime | None
    period_end: datetime | None
    trial_end: datetime | None
    cancel_at_period_end: bool
    cancel_at: datetime | None
    ended_at: datetime | None
    pause_collection: Mapping[str, str | None] | None
    billing_mode: str | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class LatestChange:
    """Something that we wanted changed at Stripe. ``params`` are those of its kind, as frozen in the row."""

    id: int
    kind: str
    params: Mapping[str, Json]
    state: str
    reason: str
    attempts: int
    answer: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Transition:
    """When and why the business could take calls no longer, or again. ``until``: where it passes by itself."""

    id: int
    at: datetime
    from_status: str
    to_status: str
    rule: str
    until: datetime | None
    cause: str


@dataclass(frozen=True, slots=True)
class SubscriptionHistory:
    """Of one business, each with the latest first."""

    subscriptions: Sequence[MirroredSubscription]
    changes: Sequence[LatestChange]
    service: Sequence[Transition]


def read_subscriptions(connection: Connection, business_id: int) -> SubscriptionHistory:
    """All subscriptions of a business, its latest changes and its latest transitions."""
    return SubscriptionHistory(
        list_subscriptions(connection, business_id),
        list_changes(connection, business_id, limit=LATEST),
        list_transitions(connection, business_id, limit=LATEST),
    )


def list_subscriptions(connection: Connection, business_id: int) -> list[MirroredSubscription]:
    """All subscriptions of a business, the latest first."""
    return typed_rows(MirroredSubscription, connection.exec_driver_sql(_SUBSCRIPTIONS, (business_id,)))


def list_changes(
    connection: Connection, business_id: int, *, before: int = NEWEST, limit: int | None = None
) -> list[LatestChange]:
    """What we changed at Stripe for a business, the newest first, those with ids below ``before``."""
    about = {"business_id": business_id, "before": before, "limit": limit}
    return typed_rows(LatestChange, connection.exec_driver_sql(_CHANGES, about))


def list_transitions(
    connection: Connection, business_id: int, *, before: int = NEWEST, limit: int | None = None
) -> list[Transition]:
    """When a business could take calls no longer, or again, the newest first, those with ids below ``before``."""
    about = {"business_id": business_id, "before": before, "limit": limit}
    return typed_rows(Transition, connection.exec_driver_sql(_TRANSITIONS, about))


def cents_dearer(connection: Connection, business_id: int, plan: str) -> int | None:
    """By how many cents a month a plan is dearer than the business's own; None when there is no such plan."""
    cents: int | None = connection.exec_driver_sql(_DEARER, (business_id, plan)).scalar()
    return cents


def collection_is_paused(connection: Connection, business_id: int) -> bool:
    """Whether a subscription of the business that has not ended collects no payments."""
    return bool(connection.exec_driver_sql(_COLLECTION_PAUSED, (business_id,)).scalar_one())
