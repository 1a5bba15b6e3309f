"""Whether a business may take calls: the rules, in the order in which they are asked. The first that holds decides."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, StrEnum, auto
from typing import Final


class ServiceStatus(StrEnum):
    """Whether a business may take calls."""

    ACTIVE = "active"
    GRACE = "grace"
    """It may, until the plan's days of grace have passed."""
    LIMITED = "limited"
    """It may not, until its period ends."""
    SUSPENDED = "suspended"
    """It may not, until it is paid or resumed."""


class Matter(Enum):
    """What the rules go by, and what a change of it is called the cause of."""

    SUBSCRIPTION = auto()
    INVOICE = auto()
    MINUTES = auto()
    GRACE = auto()
    """The days of grace have passed, and nothing else has happened."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at, for one business at one instant (``now``, business time)."""

    now: datetime
    unpaid: bool
    """A subscription is `unpaid`: Stripe has given up collecting."""
    paused: bool
    """A subscription is `paused`, by somebody or since a trial ended without a means of payment."""
    overdue_since: datetime | None
    """When the oldest invoice that was tried and is still open became final."""
    grace_days: int
    """Of the plan."""
    limited_until: datetime | None
    """The end of the period whose included minutes are used up, on a plan without overage."""

    @property
    def grace_until(self) -> datetime | None:
        return None if self.overdue_since is None else self.overdue_since + timedelta(days=self.grace_days)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: if ``holds``, the service is ``status``, until an instant where it passes by itself."""

    name: str
    when: str
    holds: Callable[[Facts], bool]
    status: ServiceStatus
    then: str
    matters: tuple[Matter, ...]
    """Which change brings it about: of several in one transaction the first of these."""
    until: Callable[[Facts], datetime | None] = lambda _: None


RULES: Final = (
    Rule(
        "unpaid",
        "Stripe has given up collecting a payment",
        lambda facts: facts.unpaid,
        ServiceStatus.SUSPENDED,
        "no calls; collection paused at Stripe until it is paid",
        (Matter.SUBSCRIPTION, Matter.INVOICE),
    ),
    Rule(
        "payment-overdue",
        "a payment failed, and the plan's days of grace have passed",
        lambda facts: facts.grace_until is not None and facts.grace_until <= facts.now,
        ServiceStatus.SUSPENDED,
        "no calls; collection paused at Stripe until it is paid",
        (Matter.GRACE, Matter.INVOICE, Matter.SUBSCRIPTION),
    ),
    Rule(
        "paused",
        "the subscription is paused",
        lambda facts: facts.paused,
        ServiceStatus.SUSPENDED,
        "no calls until it is resumed",
        (Matter.SUBSCRIPTION,),
    ),
    Rule(
        "free-limit",
        "a plan without overage has used its included minutes",
        lambda facts: facts.limited_until is not None and facts.limited_until > facts.now,
        ServiceStatus.LIMITED,
        "no new calls until the period ends",
        (Matter.MINUTES, Matter.SUBSCRIPTION),
        lambda facts: facts.limited_until,
    ),
    Rule(
        "payment-failed",
        "a payment failed",
        lambda facts: facts.grace_until is not None,
        ServiceStatus.GRACE,
        "calls go on until the plan's days of grace have passed",
        (Matter.INVOICE, Matter.SUBSCRIPTION),
        lambda facts: facts.grace_until,
    ),
    Rule(
        "in-order",
        "none of the above",
        lambda _: True,
        ServiceStatus.ACTIVE,
        "calls go on",
        (Matter.INVOICE, Matter.SUBSCRIPTION, Matter.MINUTES),
    ),
)


def deciding_rule(facts: Facts) -> Rule:
    """The rule that decides."""
    return next(rule for rule in RULES if rule.holds(facts))


def status_at(
    *, limited_until: datetime | None, grace_until: datetime | None, suspended_at: datetime | None, now: datetime
) -> ServiceStatus:
    """Whether a business may take calls at ``now``: suspended and limited may not, active and grace may."""
    if suspended_at is not None:
        return ServiceStatus.SUSPENDED
    if limited_until is not None and limited_until > now:
        return ServiceStatus.LIMITED
    return ServiceStatus.ACTIVE if grace_until is None else ServiceStatus.GRACE
