"""Sending meter pushes: claim what is due, call Stripe outside any transaction, commit each outcome on its own.

The identifier makes a push safe to send again: what Stripe has already is answered as a duplicate, which is success.
That holds for 24 hours after the first send; a push that is still without an answer then is never sent again.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine

from pipeline.providers.outbox_sender import LEASE_SECONDS, SECONDS, AnswerKind, SendAnswer, backoff_seconds, send_all
from pipeline.providers.stripe_api import Refused, StripeApi
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures
from pipeline.usage.billing_window import INVOICE, TOO_LATE, billing_deadline

BATCH = 100
#: Stripe's words for an identifier that it has seen in the last 24 hours; they have no code.
DUPLICATE = "An event already exists with identifier"

#: The columns of a Push.
COLUMNS = (
    "p.id, p.business_id, p.identifier, p.event_name, p.stripe_customer_id, p.minutes, p.timestamp, p.state,"
    " p.attempts, p.server_errors, p.answer"
)

# Claim: what is due, judged. Its period can't be billed any more: void if it was never sent, else unknown. The
# record is looked up by timestamp, since a cut may have moved the bounds. An hour less than Stripe's 24.
_CLAIM = f"""
with due as (
  select p.id, p.business_id, p.timestamp, p.first_sent_at
  from meter_pushes p
  where p.state in ('planned', 'sending') and p.due_at <= clock_timestamp()
  order by p.due_at limit %(limit)s
  for update skip locked
), judged as (
  select due.id,
    case when late.late and due.first_sent_at is null then 'void'
         when late.late or due.first_sent_at < clock_timestamp() - interval '23 hours' then 'unknown'
         else 'sending' end as verdict,
    case when late.late then 'its period can not be billed any more'
         else 'no answer for 23 hours after it was first sent' end as words
  from due
  left join usage_records r
    on r.business_id = due.business_id and r.period_start <= due.timestamp and due.timestamp < r.period_end
  left join subscriptions s on s.id = r.subscription_id
  {INVOICE}
  cross join lateral (
    select s.id is null or {TOO_LATE} or due.timestamp < %(now)s - interval '35 days' as late
  ) late
)
update meter_pushes p set
  state = judged.verdict,
  answer = case when judged.verdict = 'sending' then p.answer else coalesce(p.answer || '; ', '') || judged.words end,
  settled_at = case when judged.verdict = 'void' then clock_timestamp() end,
  attempts = p.attempts + case when judged.verdict = 'sending' then 1 else 0 end,
  first_sent_at = case when judged.verdict = 'sending' then coalesce(p.first_sent_at, clock_timestamp())
                       else p.first_sent_at end,
  last_sent_at = case when judged.verdict = 'sending' then clock_timestamp() else p.last_sent_at end,
  due_at = case when judged.verdict = 'sending' then clock_timestamp() + make_interval(secs => {LEASE_SECONDS})
                else p.due_at end
from judged where judged.id = p.id
returning {COLUMNS}
"""  # noqa: S608 - put together from fragments of ours

# Sent, whoever says so: a worker that lost its lease knows no less that Stripe has it.
_SENT = """
update meter_pushes set state = 'sent', answer = %(words)s, settled_at = clock_timestamp()
where id = %(id)s and state in ('planned', 'sending', 'unknown')
"""

# The other outcomes count only while the claim is ours.
_REFUSED = """
update meter_pushes set state = %(state)s, answer = %(words)s,
  settled_at = case when %(state)s = 'failed' then clock_timestamp() end
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

# Never done: as if the attempt had not been, so that it still counts as never sent if it was the first.
_GIVE_BACK = """
update meter_pushes set state = 'planned', attempts = attempts - 1, answer = coalesce(nullif(%(words)s, ''), answer),
  first_sent_at = case when attempts > 1 then first_sent_at end,
  due_at = clock_timestamp() + make_interval(secs => %(wait)s)
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

_AGAIN = """
update meter_pushes set state = 'planned', answer = %(words)s, server_errors = server_errors + %(server_error)s,
  due_at = clock_timestamp() + make_interval(secs => %(wait)s)
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Push:
    """A claimed push."""

    id: int
    business_id: int
    identifier: str
    event_name: str
    customer: str
    minutes: int
    timestamp: datetime
    state: str
    attempts: int
    server_errors: int
    answer: str | None

    @property
    def subject(self) -> str:
        return f"push:{self.identifier}"

    @property
    def idempotency_key(self) -> str:
        """The identifier; after a 5xx, which Stripe would replay under the old key, a new one that begins with it."""
        return self.identifier if self.server_errors == 0 else f"{self.identifier}:{self.server_errors + 1}"


def send_due_pushes(engine: Engine, api: StripeApi, now: datetime, *, seconds: float = SECONDS) -> Counter[str]:
    """Send what is due until nothing is left or ``seconds`` (machine time) have passed; counts by outcome."""
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()

    def attempt(push: Push) -> str:
        return _attempt(api, push)

    def settle(push: Push, answer: SendAnswer) -> None:
        with engine.begin() as connection:
            _settle(connection, push, answer, now)
        counts[answer.kind.value] += 1

    while time.monotonic() < until:
        with engine.begin() as connection:
            claimed = claim_pushes(connection, now)
        counts.update(push.state for push in claimed if push.state != "sending")
        send_all([push for push in claimed if push.state == "sending"], attempt, settle, until=until)
        if len(claimed) < BATCH:
            break
    return counts


def claim_pushes(connection: Connection, now: datetime) -> Sequence[Push]:
    """Take up to BATCH due pushes. Those in state ``sending`` are ours to send; the others came too late."""
    rows = connection.exec_driver_sql(_CLAIM, {"now": now, "deadline": billing_deadline(now), "limit": BATCH})
    claimed = [Push(*row) for row in rows]
    for push in claimed:
        if push.state == "unknown":
            _log.error("push-unknown", push=push.identifier, business_id=push.business_id, answer=push.answer)
            drifts.report(
                connection,
                DriftKind.UNKNOWN_PUSH,
                push.subject,
                business_id=push.business_id,
                expected=f"to know whether Stripe has these {push.minutes} minutes",
                actual=push.answer or "",
                evidence={"push_id": push.id, "attempts": push.attempts, "timestamp": push.timestamp.isoformat()},
                now=now,
            )
    return claimed


def _attempt(api: StripeApi, push: Push) -> str:
    try:
        api.create_meter_event(
            event_name=push.event_name,
            customer=push.customer,
            value=push.minutes,
            identifier=push.identifier,
            timestamp=push.timestamp,
            idempotency_key=push.idempotency_key,
        )
    except Refused as refused:
        if refused.status == 400 and refused.words.startswith(DUPLICATE):
            return refused.words
        raise
    return "accepted"


def _settle(connection: Connection, push: Push, answer: SendAnswer, now: datetime) -> None:
    about = {"id": push.id, "attempts": push.attempts, "words": answer.words}
    match answer.kind:
        case AnswerKind.DONE:
            mark_sent(connection, push, answer.words, now)
        case AnswerKind.REFUSED:
            _refuse(connection, push, answer.words, now)
        case AnswerKind.LIMITED:
            connection.exec_driver_sql(_GIVE_BACK, {**about, "wait": backoff_seconds(1)})
        case AnswerKind.NOT_TRIED:
            connection.exec_driver_sql(_GIVE_BACK, {**about, "wait": 0.0})
        case AnswerKind.SERVER_ERROR | AnswerKind.UNREACHABLE:
            server_error = int(answer.kind is AnswerKind.SERVER_ERROR)
            wait = backoff_seconds(push.attempts)
            connection.exec_driver_sql(_AGAIN, {**about, "wait": wait, "server_error": server_error})


def mark_sent(connection: Connection, push: Push, words: str, now: datetime) -> None:
    """Stripe has this push: its minutes count as pushed in the period of its timestamp."""
    lock_businesses(connection, [push.business_id])
    if connection.exec_driver_sql(_SENT, {"id": push.id, "words": words}).rowcount:
        record_figures.add_pushed(connection, push.business_id, push.minutes, push.timestamp)
        drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, push.subject, now)


def _refuse(connection: Connection, push: Push, words: str, now: datetime) -> None:
    """Refused for good. If an earlier attempt had no answer, Stripe may have it all the same: that is not known."""
    state = "failed" if push.attempts == 1 else "unknown"
    about = {"id": push.id, "attempts": push.attempts, "words": words, "state": state}
    if not connection.exec_driver_sql(_REFUSED, about).rowcount:
        return
    _log.error("push-refused", push=push.identifier, business_id=push.business_id, state=state, answer=words)
    drifts.report(
        connection,
        DriftKind.PUSH_REFUSED if state == "failed" else DriftKind.UNKNOWN_PUSH,
        push.subject,
        business_id=push.business_id,
        expected=f"Stripe takes {push.minutes} minutes",
        actual=words,
        evidence={"push_id": push.id, "attempts": push.attempts, "timestamp": push.timestamp.isoformat()},
        now=now,
    )
