"""Sending subscription changes: claim what is due, look, ask Stripe outside any transaction, commit the outcome.

Those of one subscription are sent one after the other, in their order. One that ends the present count of minutes waits
until Stripe has all that is to be counted (``change_kinds.AFTER_LAST_PUSH``).
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.events import fetch_requests
from pipeline.providers.outbox_sender import LEASE_SECONDS, SECONDS, AnswerKind, SendAnswer, backoff_seconds, send_all
from pipeline.providers.stripe_api import StripeApi
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.subscription_changes.kinds import AFTER_LAST_PUSH, CHANGE_KINDS

BATCH = 50

# Unpushed: what Stripe does not have yet of the periods that it can still bill.
_UNPUSHED = """
(exists (select from meter_pushes p
         where p.business_id = c.business_id and p.state in ('planned', 'sending', 'unknown'))
 or exists (select from usage_records r
            where r.business_id = c.business_id and r.subscription_id = c.subscription_id and r.state <> 'closed'
              and not r.cut and greatest(r.minutes, 0) <> r.pushed_minutes))
"""

# Metadata is what it is when it is sent: a change that waits is not told twice.
_CLAIM = f"""
with due as (
  select c.id from subscription_changes c
  where c.state in ('planned', 'sending') and c.due_at <= clock_timestamp()
    and not exists (
      select from subscription_changes earlier
      where earlier.subscription_id = c.subscription_id and earlier.id < c.id
        and earlier.state in ('planned', 'sending'))
    and not (c.kind = any(%(after_last_push)s::text[]) and {_UNPUSHED})
  order by c.due_at limit {BATCH} for update of c skip locked
)
update subscription_changes c
set state = 'sending', attempts = attempts + 1,
    due_at = clock_timestamp() + make_interval(secs => {LEASE_SECONDS})
from due, subscriptions s, businesses b, subscription_plans plan
where c.id = due.id and s.id = c.subscription_id and b.id = c.business_id and plan.id = b.plan_id
returning c.id, c.business_id, s.stripe_id, c.kind,
  case when c.kind <> 'metadata' then c.params else jsonb_build_object('metadata', jsonb_build_object(
    'altiora_business', b.id::text, 'altiora_plan', plan.code,
    'altiora_service', case when b.suspended_at is not null then 'suspended'
                            when b.limited_until > %(now)s then 'limited'
                            when b.grace_until is not null then 'grace' else 'active' end)) end,
  c.identifier, c.attempts, c.server_errors
"""  # noqa: S608 - put together from fragments of ours

_SETTLE = """
update subscription_changes set state = %(state)s, answer = %(words)s, settled_at = clock_timestamp()
where id = %(id)s and state in ('planned', 'sending')
"""

# Again; but where the same was wanted anew meanwhile, that one will do.
_AGAIN = """
update subscription_changes c
set state = case when anew then 'done' else 'planned' end,
    settled_at = case when anew then clock_timestamp() end,
    answer = case when anew then 'wanted anew meanwhile' else coalesce(nullif(%(words)s, ''), c.answer) end,
    attempts = c.attempts - %(given_back)s, server_errors = c.server_errors + %(server_error)s,
    due_at = clock_timestamp() + make_interval(secs => %(wait)s)
from (select exists (
        select from subscription_changes other join subscription_changes this on this.id = %(id)s
        where other.subscription_id = this.subscription_id and other.kind = this.kind
          and other.state = 'planned') as anew) later
where c.id = %(id)s and c.state = 'sending' and c.attempts = %(attempts)s
"""

_log = structlog.get_logger(__name__)


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


def send_due_changes(engine: Engine, api: StripeApi, now: datetime, *, seconds: float = SECONDS) -> Counter[str]:
    """Send the changes that are due until nothing is left or ``seconds`` (machine time) have passed."""
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()

    def attempt(change: Change) -> str:
        return _attempt(api, change)

    def settle(change: Change, answer: SendAnswer) -> None:
        with engine.begin() as connection:
            _settle(connection, change, answer, now)
        counts[answer.kind.value] += 1

    while time.monotonic() < until:
        with engine.begin() as connection:
            claimed = claim_changes(connection, now)
        send_all(claimed, attempt, settle, until=until)
        if not claimed:
            break
    return counts


def claim_changes(connection: Connection, now: datetime) -> Sequence[Change]:
    """Take up to BATCH changes that are due, of each subscription its first; they are ours for LEASE_SECONDS."""
    rows = connection.exec_driver_sql(_CLAIM, {"after_last_push": list(AFTER_LAST_PUSH), "now": now})
    return [Change(*row) for row in rows]


def _attempt(api: StripeApi, change: Change) -> str:
    kind = CHANGE_KINDS[change.kind]
    it = api.get_subscription(change.stripe_id)
    if kind.in_effect(api, it, change.params):
        return "in effect already"
    # A 5xx is replayed under its key for 24 hours; after the look above a new one is safe.
    key = change.identifier if change.server_errors == 0 else f"{change.identifier}:{change.server_errors + 1}"
    kind.ask(api, it, change.params, key)
    return "accepted"


def _settle(connection: Connection, change: Change, answer: SendAnswer, now: datetime) -> None:
    about: dict[str, Any] = {"id": change.id, "attempts": change.attempts, "words": answer.words}
    match answer.kind:
        case AnswerKind.DONE:
            connection.exec_driver_sql(_SETTLE, {**about, "state": "done"})
            fetch_requests.request_fetch(connection, "subscription", change.stripe_id, "changed-by-us")
        case AnswerKind.REFUSED:
            connection.exec_driver_sql(_SETTLE, {**about, "state": "failed"})
            _log.error("change-refused", change=change.identifier, business_id=change.business_id, answer=answer.words)
            drifts.report(
                connection,
                DriftKind.CHANGE_REFUSED,
                f"change:{change.id}",
                business_id=change.business_id,
                expected=f"{change.kind} of {change.stripe_id}",
                actual=answer.words,
                now=now,
            )
        case AnswerKind.LIMITED | AnswerKind.NOT_TRIED:
            wait = backoff_seconds(1) if answer.kind is AnswerKind.LIMITED else 0.0
            connection.exec_driver_sql(_AGAIN, {**about, "given_back": 1, "server_error": 0, "wait": wait})
        case AnswerKind.SERVER_ERROR | AnswerKind.UNREACHABLE:
            server_error = int(answer.kind is AnswerKind.SERVER_ERROR)
            wait = backoff_seconds(change.attempts)
            connection.exec_driver_sql(_AGAIN, {**about, "given_back": 0, "server_error": server_error, "wait": wait})
