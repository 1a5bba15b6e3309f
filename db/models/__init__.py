"""All models, by subject: importing this module fills the metadata."""

from db.models.accounts import ApiKey, Business, BusinessMember, ServiceTransition, User
from db.models.agents import AgentKnowledge, AgentScript, AiAgent
from db.models.audit import AuditEntry
from db.models.inbox import Claim, Halt, Listing, Refresh, ResentEvent, Source, WebhookEvent
from db.models.outbox import Drift, MeterPush, StripeSum
from db.models.plans import StripeMeter, StripePrice, SubscriptionPlan
from db.models.schema import DatabaseIdentity, SchemaServes
from db.models.sign_in import (
    AccountLink,
    AttemptLimit,
    IdempotencyKey,
    KnownDevice,
    LinkToken,
    Mail,
    RecoveryCode,
    RefreshToken,
    Session,
)
from db.models.subscriptions import (
    StripeCustomer,
    StripeInvoice,
    StripeInvoiceLine,
    Subscription,
    SubscriptionChange,
    SubscriptionItem,
)
from db.models.telephony import Call, CallTranscript, PhoneNumber, PhoneNumberAssignment
from db.models.usage import UsageAdjustment, UsageAlert, UsageRecord

__all__ = [
    "AccountLink",
    "AgentKnowledge",
    "AgentScript",
    "AiAgent",
    "ApiKey",
    "AttemptLimit",
    "AuditEntry",
    "Business",
    "BusinessMember",
    "Call",
    "CallTranscript",
    "Claim",
    "DatabaseIdentity",
    "Drift",
    "Halt",
    "IdempotencyKey",
    "KnownDevice",
    "LinkToken",
    "Listing",
    "Mail",
    "MeterPush",
    "PhoneNumber",
    "PhoneNumberAssignment",
    "RecoveryCode",
    "Refresh",
    "RefreshToken",
    "ResentEvent",
    "SchemaServes",
    "ServiceTransition",
    "Session",
    "Source",
    "StripeCustomer",
    "StripeInvoice",
    "StripeInvoiceLine",
    "StripeMeter",
    "StripePrice",
    "StripeSum",
    "Subscription",
    "SubscriptionChange",
    "SubscriptionItem",
    "SubscriptionPlan",
    "UsageAdjustment",
    "UsageAlert",
    "UsageRecord",
    "User",
    "WebhookEvent",
]
