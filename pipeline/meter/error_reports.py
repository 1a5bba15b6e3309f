"""Stripe's reports of meter events that it took and could not use: the pushes that they name have failed.

A report counts all invalid events of some seconds and shows samples, so that it may name fewer than there are:
then every push of that time is in doubt until Stripe's own sums have told (``verifying``), and a drift says so.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Connection

from pipeline.meter import push_states
from pipeline.providers.stripe_fields import below, identifier, whole
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures

log = structlog.get_logger()

#: The idempotency keys of a push are its identifier, and ``identifier:2`` and so on after a 5xx.
_ATTEMPT = re.compile(r":[0-9]{1,9}\Z")

_BUSINESSES = "select distinct business_id from meter_pushes where identifier = any(%s::text[])"

_UNDECIDED = """
select identifier from meter_pushes where identifier = any(%s::text[]) and state in ('planned', 'sending')
"""

#: Stripe's clock and ours, and an answer that took its time.
_SLACK = timedelta(minutes=5)

_DOUBTED = """
select exists (
  select from meter_pushes where doubt is not null and doubt = %s and state in ('planned', 'sending', 'sent'))
"""

_KNOWN = "select count(*) from meter_pushes where identifier = any(%s::text[])"

_RECORD = """
select id from usage_records
where business_id = %(business_id)s and period_start <= %(timestamp)s and period_end > %(timestamp)s
"""


class UndecidedError(Exception):
    """The report names pushes that are being sent: what they come to must be known before they fail."""


@dataclass(frozen=True, slots=True)
class MeterErrors:
    """One report. ``named``: identifiers of meter events, and Stripe's words on each. Bounds as Stripe wrote them."""

    count: int
    named: Mapping[str, str]
    window_start: str
    window_end: str
    summary: str


def read_error_report(event: Mapping[str, Any]) -> MeterErrors:
    """The report in a fetched thin event. Samples name ``request.identifier``, or an idempotency key."""
    data = event.get("data")
    named: dict[str, str] = {}
    kinds = below(data, "reason", "error_types")
    for kind in kinds if isinstance(kinds, list) else []:
        samples = below(kind, "sample_errors")
        for sample in samples if isinstance(samples, list) else []:
            request = below(sample, "request")
            name = identifier(below(request, "identifier")) or identifier(below(request, "idempotency_key"))
            if name is not None:
                words = f"{below(kind, 'code')}: {below(sample, 'error_message')}"
                named[_ATTEMPT.sub("", name)] = words[:500]
    return MeterErrors(
        count=whole(below(data, "reason", "error_count")) or len(named),
        named=named,
        window_start=str(below(data, "validation_start")),
        window_end=str(below(data, "validation_end")),
        summary=str(below(data, "developer_message_summary"))[:500],
    )


def businesses_of_report(connection: Connection, errors: MeterErrors) -> Sequence[int]:
    """The businesses whose pushes the report names, to be locked before ``apply``."""
    return connection.exec_driver_sql(_BUSINESSES, (sorted(errors.named),)).scalars().all()


def apply_error_report(connection: Connection, event_id: str, errors: MeterErrors, now: datetime) -> None:
    """Fail the pushes that the report names; when it counts more than it names, all others of its time are in doubt.

    The locks of ``businesses_of`` must be held; a doubt moves no figure and needs none. Raises UndecidedError.
    """
    undecided = connection.exec_driver_sql(_UNDECIDED, (sorted(errors.named),)).scalars().all()
    if undecided:
        raise UndecidedError(f"{', '.join(undecided)}: still being sent")
    for name, words in sorted(errors.named.items()):
        fail_push(connection, name, words, now)
    known = connection.exec_driver_sql(_KNOWN, (sorted(errors.named),)).scalar_one()
    if known < errors.count:
        doubted = _doubt(connection, event_id, errors)
        drifts.report(
            connection,
            DriftKind.METER_ERRORS,
            f"event:{event_id}",
            expected=f"every meter event from {errors.window_start} to {errors.window_end} counted",
            actual=f"{errors.count} were not, {known} of ours are named; {doubted} pushes of that time are in doubt",
            evidence={"event": event_id, "named": dict(errors.named), "summary": errors.summary, "doubted": doubted},
            now=now,
        )


def _doubt(connection: Connection, event_id: str, errors: MeterErrors) -> int:
    """Put the pushes of the report's window under verification; returns how many. None where it has no bounds."""
    try:
        start, end = datetime.fromisoformat(errors.window_start), datetime.fromisoformat(errors.window_end)
    except ValueError:
        return 0
    return push_states.put_in_doubt(connection, event_id, start - _SLACK, end + _SLACK, sorted(errors.named))


def resolve_verified(connection: Connection, event_id: str, now: datetime) -> None:
    """End a report's drift once no push is in doubt because of it."""
    if not connection.exec_driver_sql(_DOUBTED, (event_id,)).scalar_one():
        drifts.resolve(connection, DriftKind.METER_ERRORS, f"event:{event_id}", now)


def fail_push(connection: Connection, name: str, words: str, now: datetime) -> None:
    """Stripe does not count this push after all: refused, until an operator releases it. Its business is locked."""
    push = push_states.set_failed(connection, name, words)
    if push is None:
        return
    log.error("push-invalid", push=name, business_id=push.business_id, answer=words)
    about = {"business_id": push.business_id, "timestamp": push.timestamp}
    record_figures.recount_pushed(connection, connection.exec_driver_sql(_RECORD, about).scalars().all())
    drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, push.subject, now)
    drifts.report(
        connection,
        DriftKind.PUSH_REFUSED,
        push.subject,
        business_id=push.business_id,
        expected=f"Stripe counts {push.minutes} minutes",
        actual=words,
        evidence={"push_id": push.id, "timestamp": push.timestamp.isoformat()},
        now=now,
    )
