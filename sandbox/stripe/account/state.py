"""What the stand-in for Stripe knows: its objects as the API shows them, the two times, and what may be chosen."""

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sandbox.timeline import Timeline

Object = dict[str, Any]
"""One Stripe object, as the API shows it."""

API_VERSION = "2026-10-28.endive"


@dataclass
class Rules:
    """What can be set per test, and what Stripe's documentation leaves open.

    ``grace_seconds`` is business time, the other seconds are machine time.
    """

    grace_seconds: int = 3600
    """From the renewal's draft invoice to its finalisation."""

    settling_seconds: float = 0.0
    """How long a meter event stays invisible in the summaries: they are only eventually right."""

    report_seconds: float = 0.2
    """How long invalid meter events are collected before an error report names them."""

    latency_seconds: float = 0.002
    """How long a meter event is being worked on: a second one for the same customer and meter meets a 429 then."""

    synchronous_checks: bool = False
    """Refuse invalid meter events at once instead of reporting them later: undocumented for v1."""

    request_in_reports: bool = False
    """Error reports name ``request.{id, idempotency_key}`` instead of ``request.identifier``: both are documented."""

    line_per_tier: bool = True
    """A graduated price gives one invoice line per tier instead of one in all: undocumented."""

    retry_days: list[int] = field(default_factory=lambda: [3, 5, 7])
    """After how many days each failed payment of an invoice is tried again."""

    after_retries: str = "unpaid"
    """What becomes of the subscription when the last retry has failed: ``unpaid``, ``canceled`` or ``past_due``."""

    trial_usage_billed: bool = False
    """A trial's end bills the metered usage of the trial instead of a line of nothing: undocumented."""

    webhook_api_version: str = API_VERSION
    """The version that the endpoint was made with, and that snapshot events have the shape of."""

    phases_keep_items: bool = True
    """A schedule's next phase puts its prices on the items that are there, instead of new items: undocumented."""


@dataclass
class MeterEvent:
    """One accepted meter event. ``at`` is its own timestamp, ``received`` the business time of its arrival."""

    meter: str
    customer: str
    identifier: str
    value: Decimal
    at: int
    received: int
    visible_from: float


@dataclass
class State:
    """All objects by id, oldest first."""

    timeline: Timeline
    rules: Rules
    customers: dict[str, Object] = field(default_factory=dict)
    products: dict[str, Object] = field(default_factory=dict)
    prices: dict[str, Object] = field(default_factory=dict)
    tiers: dict[str, list[Object]] = field(default_factory=dict)
    """Of graduated prices; Stripe shows them only where they are expanded."""
    meters: dict[str, Object] = field(default_factory=dict)
    subscriptions: dict[str, Object] = field(default_factory=dict)
    schedules: dict[str, Object] = field(default_factory=dict)
    invoices: dict[str, Object] = field(default_factory=dict)
    coupons: dict[str, Object] = field(default_factory=dict)
    discounts: dict[str, Object] = field(default_factory=dict)
    tax_rates: dict[str, Object] = field(default_factory=dict)
    credit_notes: dict[str, Object] = field(default_factory=dict)
    invoice_payments: dict[str, Object] = field(default_factory=dict)
    refunds: dict[str, Object] = field(default_factory=dict)
    disputes: dict[str, Object] = field(default_factory=dict)
    balance_transactions: dict[str, Object] = field(default_factory=dict)
    webhook_endpoints: dict[str, Object] = field(default_factory=dict)
    events: dict[str, Object] = field(default_factory=dict)
    thin_events: dict[str, Object] = field(default_factory=dict)
    meter_events: dict[tuple[str, str], list[MeterEvent]] = field(default_factory=dict)
    """By meter and customer, in the order of arrival."""
    payment_fails: set[str] = field(default_factory=set)
    """Customers whose next payment fails."""
    payment_broken: set[str] = field(default_factory=set)
    """Customers whose payments fail until their payment method is repaired."""
    without_payment_method: set[str] = field(default_factory=set)
    """Customers who have no payment method: payments fail, and a trial's end asks for it."""
    machine_ahead: float = 0.0
    """Seconds by which a test has moved the machine's time."""

    @property
    def now(self) -> int:
        """The business time in whole seconds, as all objects carry it."""
        return int(self.timeline.now.timestamp())

    @property
    def machine_now(self) -> float:
        """The machine's time in seconds: idempotency keys, identifiers of meter events, settling."""
        return time.time() + self.machine_ahead


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def number(value: Decimal) -> int | float:
    """A count as JSON shows it."""
    return int(value) if value == value.to_integral_value() else float(value)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Object:
    """The old values of what changed, as ``previous_attributes`` holds them: nested for objects, whole for lists."""
    changed: Object = {}
    for name in after:
        old, new = before.get(name), after[name]
        if old == new:
            continue
        changed[name] = difference(old, new) if isinstance(old, dict) and isinstance(new, dict) else old
    return changed
