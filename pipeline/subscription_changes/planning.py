"""Planning subscription changes: what somebody or a rule wants of Stripe, frozen in a row before it is sent."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import Connection

from pipeline.subscription_changes import change_states
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.subscription_changes.target_prices import ChangeError, target_prices

#: Begins the identifiers, and so the idempotency keys, by which our own writes are known when they come back.
PREFIX = "altiora-change-"

_SUBSCRIPTION = """
select id, stripe_id from subscriptions
where business_id = %s and status not in ('canceled', 'incomplete_expired')
order by metered_item_id is not null desc, started_at desc, id desc limit 1
"""

_PLAN = """
insert into subscription_changes (business_id, subscription_id, kind, params, identifier, reason, created_at)
values (%(business_id)s, %(subscription_id)s, %(kind)s, %(params)s, %(identifier)s, %(reason)s, %(now)s)
on conflict (subscription_id, kind, state) where state in ('planned', 'sending') do nothing
returning id
"""

_PLANNED = "select id, params from subscription_changes where subscription_id = %s and kind = %s and state = 'planned'"


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that could be planned: of which subscription, and what it wants."""

    subscription_id: int
    stripe_id: str
    kind: ChangeKind
    params: dict[str, Any]


def intend(
    connection: Connection, business_id: int, kind: ChangeKind, plan: str | None = None, *, migrate: bool = False
) -> Intent:
    """What ``kind`` comes to for this business; ``plan`` is the code of the plan wanted.

    ``migrate``: a subscription in classic billing mode is put into the flexible one first.

    Raises ChangeError when the business has no living subscription, or nothing tells which prices of the plan to take.
    """
    found = connection.exec_driver_sql(_SUBSCRIPTION, (business_id,)).first()
    if found is None:
        raise ChangeError(
            f"business {business_id} has no living subscription: if Stripe has one, `altiora business link-stripe`"
        )
    params: dict[str, Any] = {}
    if plan is not None:
        params = {"plan": plan, "prices": target_prices(connection, found.id, plan)}
    if migrate:
        params["migrate"] = True
    return Intent(found.id, found.stripe_id, kind, params)


def plan_change(connection: Connection, business_id: int, intent: Intent, reason: str, now: datetime) -> int:
    """Plan a change; returns its id, or that of the same one which waits already. ``reason``: who or what wants it.

    Raises ChangeError when one of this kind waits that wants something else.
    """
    about = (intent.subscription_id, intent.kind.value)
    waiting = connection.exec_driver_sql(_PLANNED, about).first()
    if waiting is None:
        change_id: int | None = connection.exec_driver_sql(
            _PLAN,
            {
                "business_id": business_id,
                "subscription_id": intent.subscription_id,
                "kind": intent.kind.value,
                "params": Jsonb(intent.params),
                "identifier": f"{PREFIX}{secrets.token_hex(16)}",
                "reason": reason,
                "now": now,
            },
        ).scalar()
        if change_id is not None:
            return change_id
        waiting = connection.exec_driver_sql(_PLANNED, about).one()
    if waiting.params != intent.params:
        raise ChangeError(
            f"another {intent.kind} of business {business_id} waits to be sent: try again when it is done"
        )
    return int(waiting.id)


def want_change(connection: Connection, business_id: int, kind: ChangeKind, reason: str, now: datetime) -> None:
    """Plan a change that a rule wants, where the business has a living subscription."""
    found = connection.exec_driver_sql(_SUBSCRIPTION, (business_id,)).first()
    if found is not None:
        plan_change(connection, business_id, Intent(found.id, found.stripe_id, kind, {}), reason, now)


def recognise_ours(connection: Connection, idempotency_keys: Collection[str]) -> None:
    """Our own writes come back as events, which name our idempotency keys: their changes are done."""
    ours = {key.partition(":")[0] for key in idempotency_keys if key.startswith(PREFIX)}
    if ours:
        change_states.set_recognised(connection, ours)
