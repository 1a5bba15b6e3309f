"""Drifts: differences that were found, each a row with what was expected and what is, open until resolved."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, text

_REPORT = text("""
    insert into drifts (kind, subject, business_id, expected, actual, evidence, found_at)
    values (:kind, :subject, :business_id, :expected, :actual, cast(:evidence as jsonb), :now)
    on conflict (kind, subject) where resolved_at is null
    do update set expected = excluded.expected, actual = excluded.actual, evidence = excluded.evidence
    returning xmax = 0
""")

_RESOLVE = text("""
    update drifts set resolved_at = :now where kind = :kind and subject = :subject and resolved_at is null
""")


def report(
    connection: Connection,
    kind: str,
    subject: str,
    *,
    business_id: int | None = None,
    expected: str,
    actual: str,
    evidence: Mapping[str, Any] | None = None,
    now: datetime,
) -> bool:
    """Open a drift, or bring the open one of this kind and subject up to date. True when it is a new one.

    ``subject`` says what it is about, as ``price:price_1`` or ``record:12``; ``evidence`` must be JSON.
    """
    return bool(
        connection.execute(
            _REPORT,
            {
                "kind": kind,
                "subject": subject,
                "business_id": business_id,
                "expected": expected,
                "actual": actual,
                "evidence": json.dumps(dict(evidence or {})),
                "now": now,
            },
        ).scalar_one()
    )


def resolve(connection: Connection, kind: str, subject: str, now: datetime) -> None:
    """Close the open drift of this kind and subject, if there is one."""
    connection.execute(_RESOLVE, {"kind": kind, "subject": subject, "now": now})
