"""Sending meter pushes: claim what is due, call Stripe outside any transaction, commit each outcome on its own.

The identifier makes a push safe to send again: what Stripe has already is answered as a duplicate, which is success.
That holds for 24 hours after the first send; a push that is still without an answer then is never sent again.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.events import fetch_requests
from pipeline.meter import push_states
from pipeline.meter.push_states import Push, PushState
from pipeline.providers.outbox_sender import (
    ACCOUNT_WAIT_SECONDS,
    LEASE_SECONDS,
    SECONDS,
    AnswerKind,
    Claimed,
    SendAnswer,
    backoff_seconds,
    report_account,
    send_due,
)
from pipeline.providers.stripe_api import AccountFault, Refused, StripeApi
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures

BATCH = 100
#: Stripe's words where no active meter has the event's name (docs.stripe.com, "Record usage").
NO_METER = "No active meter found"
#: Stripe's words for an identifier that it has seen in the last 24 hours; they have no code.
DUPLICATE = "An event already exists with identifier"

# Of meters that are mirrored: none of that name is usable. One that nobody knows is left to Stripe's answer.
_UNUSABLE_METERS = """
select m.id, m.event_name, m.active, exists (
         select from refreshes f where f.kind = 'meter' and f.object_id = m.id
           and (f.mark > f.fetched_mark or f.marked_at > clock_timestamp() - interval '60 seconds')) as asked
from stripe_meters m
where exists (select from meter_pushes p where p.state in ('planned', 'sending') and p.event_name = m.event_name)
  and not exists (select from stripe_meters o where o.event_name = m.event_name and o.active and o.sums_by_our_keys)
order by m.id
"""

_log = structlog.get_logger(__name__)


def send_due_pushes(engine: Engine, api: StripeApi, now: datetime, *, seconds: float = SECONDS) -> Counter[str]:
    """Send what is due until nothing is left or ``seconds`` (machine time) have passed; counts by outcome."""
    too_late: Counter[str] = Counter()

    def claim(connection: Connection) -> Claimed[Push]:
        pushes = claim_pushes(connection, now)
        too_late.update(push.state.value for push in pushes if push.state is not PushState.SENDING)
        return Claimed([push for push in pushes if push.state is PushState.SENDING], more=len(pushes) == BATCH)

    def attempt(push: Push) -> str:
        return _attempt(api, push)

    def settle(connection: Connection, push: Push, answer: SendAnswer) -> None:
        _settle(connection, push, answer, now)

    with engine.begin() as connection:
        unusable = connection.exec_driver_sql(_UNUSABLE_METERS).all()
        if unusable:
            _report_unusable(connection, unusable, now)
            return too_late
    return send_due(engine, claim, attempt, settle, now, seconds=seconds) + too_late


def _report_unusable(connection: Connection, meters: Sequence[Any], now: datetime) -> None:
    """What such a meter is told is lost, without a refusal: nothing is sent until one sums by our keys again (43)."""
    fetch_requests.request_fetches(
        connection, {("meter", meter.id): "not-usable" for meter in meters if not meter.asked}
    )
    report_account(
        connection,
        "; ".join(
            f"meter {meter.id} of {meter.event_name} {'does not sum by our keys' if meter.active else 'is not active'}"
            for meter in meters
        ),
        now,
    )


def claim_pushes(connection: Connection, now: datetime) -> Sequence[Push]:
    """Take up to BATCH due pushes. Those in state ``sending`` are ours to send; the others came too late."""
    claimed = push_states.take_due_pushes(connection, now, limit=BATCH, lease_seconds=LEASE_SECONDS)
    for push in claimed:
        if push.state is PushState.UNKNOWN:
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
        if refused.status == 400 and refused.words.startswith(NO_METER):
            raise AccountFault(refused.status, refused.code, refused.words) from refused
        raise
    return "accepted"


def _settle(connection: Connection, push: Push, answer: SendAnswer, now: datetime) -> None:
    match answer.kind:
        case AnswerKind.DONE:
            mark_sent(connection, push, answer.words, now)
        case AnswerKind.REFUSED:
            _refuse(connection, push, answer.words, now)
        case AnswerKind.ACCOUNT:
            push_states.give_back(connection, push, answer.words, ACCOUNT_WAIT_SECONDS)
        case AnswerKind.LIMITED:
            push_states.give_back(connection, push, answer.words, backoff_seconds(1))
        case AnswerKind.NOT_TRIED:
            push_states.give_back(connection, push, answer.words, 0.0)
        case AnswerKind.SERVER_ERROR | AnswerKind.UNREACHABLE:
            push_states.set_planned_again(
                connection,
                push,
                answer.words,
                backoff_seconds(push.attempts),
                server_error=answer.kind is AnswerKind.SERVER_ERROR,
            )


def mark_sent(connection: Connection, push: Push, words: str, now: datetime) -> None:
    """Stripe has this push: its minutes count as pushed in the period of its timestamp."""
    lock_businesses(connection, [push.business_id])
    if push_states.set_sent(connection, push.id, words, now):
        record_figures.add_pushed(connection, push.business_id, push.minutes, push.timestamp)
        drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, push.subject, now)


def _refuse(connection: Connection, push: Push, words: str, now: datetime) -> None:
    """Refused for good, or unknown now: a drift either way."""
    state = push_states.set_refused(connection, push, words)
    if state is None:
        return
    _log.error("push-refused", push=push.identifier, business_id=push.business_id, state=state.value, answer=words)
    drifts.report(
        connection,
        DriftKind.PUSH_REFUSED if state is PushState.FAILED else DriftKind.UNKNOWN_PUSH,
        push.subject,
        business_id=push.business_id,
        expected=f"Stripe takes {push.minutes} minutes",
        actual=words,
        evidence={"push_id": push.id, "attempts": push.attempts, "timestamp": push.timestamp.isoformat()},
        now=now,
    )
