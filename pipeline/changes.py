"""Subscription changes for Stripe: commit the intent, look, call, commit the outcome.

The kinds are settings of the subscription, not steps: each says what it should be, so Stripe is asked first, and a
change whose effect is already there is done without a call, also when an earlier call's answer was lost.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, Engine

from pipeline import drifts, refreshes
from pipeline.sending import LEASE_SECONDS, SECONDS, Answer, Kind, backoff_seconds, send_all
from pipeline.stripe_api import StripeApi

BATCH = 50


@dataclass(frozen=True, slots=True)
class _Setting:
    """What a kind of change asks of Stripe, and how a subscription looks that has it."""

    params: dict[str, Any]
    in_effect: Callable[[dict[str, Any]], bool]


SETTINGS: Final = {
    "cancel-at-period-end": _Setting(
        {"cancel_at_period_end": True}, lambda it: bool(it["cancel_at_period_end"]) or it["status"] == "canceled"
    ),
    "keep": _Setting({"cancel_at_period_end": False}, lambda it: not it["cancel_at_period_end"]),
    # Drafts are kept: nothing is collected, and nothing is given away either.
    "pause-collection": _Setting(
        {"pause_collection": {"behavior": "keep_as_draft"}}, lambda it: it.get("pause_collection") is not None
    ),
    # An empty string unsets it; None would be dropped from the request.
    "resume-collection": _Setting({"pause_collection": ""}, lambda it: it.get("pause_collection") is None),
}

_SUBSCRIPTION = """
select id from subscriptions
where business_id = %s and status not in ('canceled', 'incomplete_expired')
order by metered_item_id is not null desc, started_at desc, id desc limit 1
"""

_PLAN = """
insert into subscription_changes (business_id, subscription_id, kind, params, identifier, reason, created_at)
values (%(business_id)s, %(subscription_id)s, %(kind)s, %(params)s, %(identifier)s, %(reason)s, %(now)s)
on conflict (subscription_id) where state in ('planned', 'sending') do nothing
returning id
"""

_UNSETTLED = """
select id, kind from subscription_changes where subscription_id = %s and state in ('planned', 'sending')
"""

_CLAIM = f"""
with due as (
  select id from subscription_changes
  where state in ('planned', 'sending') and due_at <= clock_timestamp()
  order by due_at limit {BATCH} for update skip locked
)
update subscription_changes c
set state = 'sending', attempts = attempts + 1,
    due_at = clock_timestamp() + make_interval(secs => {LEASE_SECONDS})
from due, subscriptions s
where c.id = due.id and s.id = c.subscription_id
returning c.id, c.business_id, s.stripe_id, c.kind, c.params, c.identifier, c.attempts, c.server_errors
"""  # noqa: S608 - two numbers of ours

_SETTLE = """
update subscription_changes set state = %(state)s, answer = %(words)s, settled_at = clock_timestamp()
where id = %(id)s and state in ('planned', 'sending')
"""

_AGAIN = """
update subscription_changes set state = 'planned', answer = coalesce(nullif(%(words)s, ''), answer),
  attempts = attempts - %(given_back)s, server_errors = server_errors + %(server_error)s,
  due_at = clock_timestamp() + make_interval(secs => %(wait)s)
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

_log = structlog.get_logger(__name__)


class ChangeError(Exception):
    """The change can't be planned; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Change:
    """A claimed change."""

    id: int
    business_id: int
    stripe_id: str
    kind: str
    params: dict[str, Any]
    identifier: str
    attempts: int
    server_errors: int


def plan(connection: Connection, business_id: int, kind: str, reason: str, now: datetime) -> int:
    """Plan a change of the business's subscription; returns its id, or that of the same one already on its way.

    ``kind`` is one of SETTINGS, ``reason`` says who or what wants it. Raises ChangeError when the business has no
    living subscription, or another change of it is on its way.
    """
    subscription_id = connection.exec_driver_sql(_SUBSCRIPTION, (business_id,)).scalar()
    if subscription_id is None:
        raise ChangeError(
            f"business {business_id} has no living subscription: if Stripe has one, `altiora business link-stripe`"
        )
    change_id: int | None = connection.exec_driver_sql(
        _PLAN,
        {
            "business_id": business_id,
            "subscription_id": subscription_id,
            "kind": kind,
            "params": Jsonb(SETTINGS[kind].params),
            "identifier": f"altiora-change-{secrets.token_hex(16)}",
            "reason": reason,
            "now": now,
        },
    ).scalar()
    if change_id is not None:
        return change_id
    unsettled = connection.exec_driver_sql(_UNSETTLED, (subscription_id,)).first()
    if unsettled is not None and unsettled.kind == kind:
        return int(unsettled.id)
    raise ChangeError(f"another change of business {business_id} is on its way to Stripe: try again when it is done")


def send_due(engine: Engine, api: StripeApi, now: datetime, *, seconds: float = SECONDS) -> Counter[str]:
    """Send the changes that are due until nothing is left or ``seconds`` (machine time) have passed."""
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()

    def attempt(change: Change) -> str:
        return _attempt(api, change)

    def settle(change: Change, answer: Answer) -> None:
        with engine.begin() as connection:
            _settle(connection, change, answer, now)
        counts[answer.kind.value] += 1

    while time.monotonic() < until:
        with engine.begin() as connection:
            claimed: Sequence[Change] = [Change(*row) for row in connection.exec_driver_sql(_CLAIM)]
        send_all(claimed, attempt, settle, until=until)
        if len(claimed) < BATCH:
            break
    return counts


def _attempt(api: StripeApi, change: Change) -> str:
    if SETTINGS[change.kind].in_effect(api.get_subscription(change.stripe_id)):
        return "in effect already"
    # A 5xx is replayed under its key for 24 hours; after the look above a new one is safe.
    key = change.identifier if change.server_errors == 0 else f"{change.identifier}:{change.server_errors + 1}"
    api.modify_subscription(change.stripe_id, change.params, key)
    return "accepted"


def _settle(connection: Connection, change: Change, answer: Answer, now: datetime) -> None:
    about: dict[str, Any] = {"id": change.id, "attempts": change.attempts, "words": answer.words}
    match answer.kind:
        case Kind.DONE:
            connection.exec_driver_sql(_SETTLE, {**about, "state": "done"})
            refreshes.request(connection, "subscription", change.stripe_id, "changed-by-us")
        case Kind.REFUSED:
            connection.exec_driver_sql(_SETTLE, {**about, "state": "failed"})
            _log.error("change-refused", change=change.identifier, business_id=change.business_id, answer=answer.words)
            drifts.report(
                connection,
                "change-refused",
                f"change:{change.id}",
                business_id=change.business_id,
                expected=f"{change.kind} of {change.stripe_id}",
                actual=answer.words,
                now=now,
            )
        case Kind.LIMITED | Kind.NOT_TRIED:
            wait = backoff_seconds(1) if answer.kind is Kind.LIMITED else 0.0
            connection.exec_driver_sql(_AGAIN, {**about, "given_back": 1, "server_error": 0, "wait": wait})
        case Kind.SERVER_ERROR | Kind.UNREACHABLE:
            server_error = int(answer.kind is Kind.SERVER_ERROR)
            wait = backoff_seconds(change.attempts)
            connection.exec_driver_sql(_AGAIN, {**about, "given_back": 0, "server_error": server_error, "wait": wait})
