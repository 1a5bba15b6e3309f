"""Sending subscription changes: claim what is due, look, ask Stripe outside any transaction, commit the outcome.

Those of one subscription are sent one after the other, in their order. One that ends the present count of minutes waits
until Stripe has all that is to be counted (``change_requests.AFTER_LAST_PUSH``).
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine

from pipeline.events import fetch_requests
from pipeline.providers.outbox_sender import (
    LEASE_SECONDS,
    SECONDS,
    AnswerKind,
    Claimed,
    SendAnswer,
    retry_of,
    send_due,
)
from pipeline.providers.stripe_api import Limited, Refused
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.shared.settings import METER_EVENT_NAME
from pipeline.subscription_changes import change_states
from pipeline.subscription_changes.change_requests import CHANGE_BEHAVIOURS, UsageLostError
from pipeline.subscription_changes.change_states import Change, ChangeState
from pipeline.subscription_changes.schedule_phases import PhaseError
from pipeline.subscription_changes.stripe_port import StripePort
from pipeline.subscription_changes.subscription_look import UnknownItemError, look_at

BATCH = 50

_log = structlog.get_logger(__name__)


def send_due_changes(
    engine: Engine,
    api: StripePort,
    now: datetime,
    *,
    event_name: str = METER_EVENT_NAME,
    seconds: float = SECONDS,
) -> Counter[str]:
    """Send the changes that are due until nothing is left or ``seconds`` (machine time) have passed.

    ``event_name`` is our meter's: by it a subscription's items are told apart.
    """

    def claim(connection: Connection) -> Claimed[Change]:
        changes = claim_changes(connection, now)
        # Another one of the same subscription may be due now that its first has ended.
        return Claimed(changes, more=bool(changes))

    def attempt(change: Change) -> str:
        return _attempt(engine, api, change, event_name)

    def settle(connection: Connection, change: Change, answer: SendAnswer) -> None:
        _settle(connection, change, answer, now)

    return send_due(engine, claim, attempt, settle, now, seconds=seconds)


def claim_changes(connection: Connection, now: datetime) -> Sequence[Change]:
    """Take up to BATCH changes that are due; they are ours for LEASE_SECONDS."""
    return change_states.take_due_changes(connection, now, limit=BATCH, lease_seconds=LEASE_SECONDS)


def _attempt(engine: Engine, api: StripePort, change: Change, event_name: str) -> str:
    behaviour = CHANGE_BEHAVIOURS[change.kind]
    it = api.get_subscription(change.stripe_id)
    with engine.connect() as connection:
        look = look_at(connection, it, event_name)
    try:
        if behaviour.in_effect(api, look, change.params):
            return "in effect already"
        # The key is a new one after a 5xx, which is replayed for 24 hours; after the look above that is safe.
        behaviour.ask(api, look, change.params, change.idempotency_key)
    except UnknownItemError as error:
        with engine.begin() as connection:
            fetch_requests.request_fetch(connection, "subscription", change.stripe_id, "unknown-price")
        raise Limited(str(error)) from error
    except (UsageLostError, PhaseError) as error:
        raise Refused(400, None, str(error)) from error
    return "accepted"


def _settle(connection: Connection, change: Change, answer: SendAnswer, now: datetime) -> None:
    match answer.kind:
        case AnswerKind.DONE:
            change_states.end_change(connection, change.id, ChangeState.DONE, answer.words)
            fetch_requests.request_fetch(connection, "subscription", change.stripe_id, "changed-by-us")
        case AnswerKind.REFUSED:
            change_states.end_change(connection, change.id, ChangeState.FAILED, answer.words)
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
        case _:
            change_states.plan_again(connection, change, retry_of(answer, change.attempts))
