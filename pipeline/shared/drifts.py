"""Drifts: differences that were found, each a row with what was expected and what is, open until resolved."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import Connection, text

#: What is proposed to be done about each kind; docs/operations.md says more.
REPAIRS = {
    "push-refused": "repair what Stripe names, then `altiora pushes release ID`",
    "unknown-push": "`altiora pushes settle ID sent`, or void, once it is known whether Stripe has it",
    "meter-errors": "nothing: the pushes of that time are verified by Stripe's sums",
    "stripe-sum": "look for other programs that write to the meter, and for Stripe's reports of invalid events",
    "unmapped-price": "set metadata[altiora_plan] on the price in Stripe",
    "second-metered-subscription": "cancel all but one in Stripe",
    "no-invoice": "look at the subscription in Stripe",
    "unusable-invoice": "decide whether to bill its minutes by hand",
    "unbillable": "decide whether to bill these minutes by hand",
    "late-minutes": "`altiora drifts resolve ID --carry` bills them in the open period, without it writes them off",
    "lost-usage": "decide whether to bill these minutes by hand",
    "change-refused": "make the change in Stripe's dashboard",
    "gone-at-stripe": "see that the API key is this account's",
    "record-sum": "stop worker-stripe, keep the database as it is, and find out why",
    "incomplete-source": "bring in what is missing; it is carried then",
    "twilio-day": "add the numbers that nobody holds, and replay their events; otherwise wait an hour",
    "unknown-at-twilio": "find out who signed it: was the auth token told to somebody?",
}

_REPORT = text("""
    insert into drifts (kind, subject, business_id, expected, actual, evidence, repair, found_at)
    values (:kind, :subject, :business_id, :expected, :actual, cast(:evidence as jsonb), :repair, :now)
    on conflict (kind, subject) where resolved_at is null
    do update set expected = excluded.expected, actual = excluded.actual, evidence = excluded.evidence,
                  repair = excluded.repair
    returning xmax = 0
""")

_RESOLVE = text("""
    update drifts set resolved_at = :now, note = :note
    where kind = :kind and subject = :subject and resolved_at is null
""")

log = structlog.get_logger(__name__)


def report(
    connection: Connection,
    kind: str,
    subject: str,
    *,
    business_id: int | None = None,
    expected: str,
    actual: str,
    evidence: Mapping[str, Any] | None = None,
    repair: str | None = None,
    now: datetime,
) -> bool:
    """Open a drift, or bring the open one of this kind and subject up to date. True when it is a new one: an alarm.

    ``subject`` says what it is about, as ``price:price_1`` or ``record:12``; ``evidence`` must be JSON. ``repair`` is
    what is proposed to be done, the kind's own unless given.
    """
    new = bool(
        connection.execute(
            _REPORT,
            {
                "kind": kind,
                "subject": subject,
                "business_id": business_id,
                "expected": expected,
                "actual": actual,
                "evidence": json.dumps(dict(evidence or {})),
                "repair": repair or REPAIRS.get(kind),
                "now": now,
            },
        ).scalar_one()
    )
    if new:
        log.error("drift", kind=kind, subject=subject, business_id=business_id, expected=expected, actual=actual)
    return new


def resolve(connection: Connection, kind: str, subject: str, now: datetime, *, note: str | None = None) -> None:
    """Close the open drift of this kind and subject, if there is one; ``note`` where a person did."""
    connection.execute(_RESOLVE, {"kind": kind, "subject": subject, "now": now, "note": note})
