"""What a transaction leads to, collected while it runs and settled once, at its end.

Whether a business may take calls follows from subscriptions, invoices and minutes, and one transaction may change
several of them: settled once, there is one transition with its true cause, whatever their order. Objects to fetch and
drifts belong to no business, so no business's lock keeps two transactions from meeting there: they are written last
and in one order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.businesses import plan_limits, service_status
from pipeline.businesses.service_rules import Matter
from pipeline.businesses.service_status import Causes
from pipeline.events import fetch_requests
from pipeline.events.fetch_requests import FetchRequest
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.change_requests import ChangeKind

#: The reason of events that are set aside until their customer has been fetched.
AWAITING_CUSTOMER = "awaiting-customer"

_OPEN = "select kind, subject from drifts where resolved_at is null and subject = any(%s::text[])"


@dataclass(frozen=True, slots=True)
class _Report:
    business_id: int | None
    expected: str
    actual: str
    evidence: Mapping[str, Any]


@dataclass(slots=True)
class Consequences:
    """Of one transaction. Whoever changes something says so here; ``settle`` acts on all of it."""

    follow_ups: set[str] = field(default_factory=set)
    """The tasks that then have something to do, by their names."""
    customers_known: bool = False
    """Customers were mirrored: events that wait for one may go on."""
    _causes: dict[int, Causes] = field(default_factory=dict)
    _other_plans: set[int] = field(default_factory=set)
    _fetches: dict[tuple[str, str], str] = field(default_factory=dict)
    _delays: dict[tuple[str, str], int] = field(default_factory=dict)
    _drifts: dict[tuple[DriftKind, str], _Report | None] = field(default_factory=dict)

    def service(self, business_id: int, matter: Matter, object_id: str, words: str) -> None:
        """Have it decided anew whether this business, whose lock is held, may take calls; ``words`` say what changed.

        Of what one object (its id, or "") went through, the last is told.
        """
        self._causes.setdefault(business_id, {})[matter, object_id] = words

    def another_plan(self, business_id: int) -> None:
        """The business, whose lock is held, is on another plan now: its agents and numbers are compared with that."""
        self._other_plans.add(business_id)

    def fetch(self, kind: str, object_id: str, reason: str, *, due_in_seconds: int = 0) -> None:
        """Have this object fetched, and no sooner than in so many seconds of machine time."""
        self._fetches[kind, object_id] = reason
        self._delays[kind, object_id] = min(due_in_seconds, self._delays.get((kind, object_id), due_in_seconds))
        self.follow_ups.add("twilio.fetch-calls" if kind == "call" else "stripe.refresh")

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

    def settle(self, connection: Connection, now: datetime, *, fetched: FetchRequest | None = None) -> None:
        """Act on all of it, at the end of the transaction; ``fetched`` is the object that it is about, if one was."""
        service_status.settle_service(connection, self._causes, now)
        for business_id in sorted(self._other_plans):
            plan_limits.check_counts(connection, business_id, now)
            planning.want_change(connection, business_id, ChangeKind.METADATA, "another plan", now)
        self._write_drifts(connection, now)
        fetch_requests.request_fetches(connection, self._fetches, delays=self._delays, settled=fetched)
        if self.customers_known and fetch_requests.release_events(connection, AWAITING_CUSTOMER):
            self.follow_ups.add("events.drain")

    def _write_drifts(self, connection: Connection, now: datetime) -> None:
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
