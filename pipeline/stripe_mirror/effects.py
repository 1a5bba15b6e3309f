"""What applying Stripe's objects leads to besides the mirror: objects to fetch, drifts, tasks that have work."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.events import fetch_requests
from pipeline.events.fetch_requests import FetchRequest
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind

_OPEN = "select kind, subject from drifts where resolved_at is null and subject = any(%s::text[])"

#: The reason of events that are set aside until their customer has been fetched.
AWAITING_CUSTOMER = "awaiting-customer"


@dataclass(frozen=True, slots=True)
class _Report:
    business_id: int | None
    expected: str
    actual: str
    evidence: Mapping[str, Any]


@dataclass(slots=True)
class Effects:
    """Collected while a batch is applied and written at its end, in one order.

    Prices and their drifts belong to no business, so no business's lock keeps two drains from meeting there.
    """

    follow_ups: set[str] = field(default_factory=set)
    customers_known: bool = False
    """Customers were mirrored: events that wait for one may go on."""
    _stale: dict[tuple[str, str], str] = field(default_factory=dict)
    _delays: dict[tuple[str, str], int] = field(default_factory=dict)
    _drifts: dict[tuple[DriftKind, str], _Report | None] = field(default_factory=dict)

    def stale(self, kind: str, object_id: str, reason: str, *, due_in_seconds: int = 0) -> None:
        """Have this object fetched, and no sooner than in so many seconds of machine time."""
        self._stale[kind, object_id] = reason
        self._delays[kind, object_id] = min(due_in_seconds, self._delays.get((kind, object_id), due_in_seconds))
        self.follow_ups.add("stripe.refresh")

    def report(
        self,
        kind: DriftKind,
        subject: str,
        business_id: int | None,
        expected: str,
        actual: str,
        evidence: Mapping[str, Any],
    ) -> None:
        """Open a drift, or bring it up to date."""
        self._drifts[kind, subject] = _Report(business_id, expected, actual, evidence)

    def resolve(self, kind: DriftKind, subject: str) -> None:
        """Close a drift, if it is open."""
        self._drifts[kind, subject] = None

    def write(self, connection: Connection, now: datetime, *, settled: FetchRequest | None = None) -> None:
        """Write all of it; ``settled`` is the object that was fetched, if this came of a fetch."""
        subjects = [subject for _, subject in self._drifts]
        standing = {tuple(row) for row in connection.exec_driver_sql(_OPEN, (subjects,))} if subjects else set()
        for (kind, subject), drift in sorted(self._drifts.items(), key=lambda item: item[0]):
            if drift is not None:
                drifts.report(
                    connection,
                    kind,
                    subject,
                    business_id=drift.business_id,
                    expected=drift.expected,
                    actual=drift.actual,
                    evidence=drift.evidence,
                    now=now,
                )
            elif (kind, subject) in standing:
                drifts.resolve(connection, kind, subject, now)
        fetch_requests.request_fetches(connection, self._stale, delays=self._delays, settled=settled)
        if self.customers_known and fetch_requests.release_events(connection, AWAITING_CUSTOMER):
            self.follow_ups.add("events.drain")
