"""Stripe's own words that we go by, spelled as its API spells them. What is not listed is stored as it came."""

from enum import StrEnum
from typing import Final


class SubscriptionStatus(StrEnum):
    """``status`` of a subscription (Stripe: "The Subscription object")."""

    INCOMPLETE = "incomplete"
    INCOMPLETE_EXPIRED = "incomplete_expired"
    TRIALING = "trialing"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    CANCELED = "canceled"
    UNPAID = "unpaid"
    PAUSED = "paused"


#: In these a subscription bills nothing: its first payment never came, or it is over.
NOT_LIVING: Final = (
    SubscriptionStatus.INCOMPLETE,
    SubscriptionStatus.INCOMPLETE_EXPIRED,
    SubscriptionStatus.CANCELED,
)


class InvoiceStatus(StrEnum):
    """``status`` of an invoice (Stripe: "Status transitions and finalization")."""

    DRAFT = "draft"
    OPEN = "open"
    PAID = "paid"
    UNCOLLECTIBLE = "uncollectible"
    VOID = "void"


class UsageType(StrEnum):
    """``recurring.usage_type`` of a price."""

    METERED = "metered"
    LICENSED = "licensed"


#: The key in ``metadata`` by which our own credits are known.
CREDIT_MARK: Final = "altiora_credit"
#: ``status`` of a credit note that was taken back; the other is "issued".
VOID_NOTE: Final = "void"

#: ``status`` of a refund whose money is ours again.
NOT_REFUNDED: Final = frozenset({"failed", "canceled"})
#: ``status`` of a dispute in which the bank holds the payment, or keeps it; in the others it is ours.
DISPUTED: Final = frozenset({"needs_response", "under_review", "lost"})

#: ``status`` of a meter that takes events; the other is "inactive".
ACTIVE_METER: Final = "active"

#: ``billing_mode`` of a subscription in which usage under a price that goes is dropped; the other is "flexible".
CLASSIC_MODE: Final = "classic"

#: ``billing_reason`` of an invoice that renews a subscription.
RENEWAL: Final = "subscription_cycle"

#: ``billing_reason`` of an invoice that comes in the middle of a period, since a threshold was reached.
THRESHOLD: Final = "subscription_threshold"

#: ``behavior`` of ``pause_collection`` by which what is invoiced meanwhile is given away; "keep_as_draft" keeps it.
GIVING_AWAY: Final = frozenset({"void", "mark_uncollectible"})
