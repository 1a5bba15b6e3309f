"""The mirror of Stripe: customers, subscriptions, invoices. The object at Stripe is the truth."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Document, Id, Instant, MachineInstant, one_of


class StripeCustomer(Base):
    __tablename__ = "stripe_customers"
    __table_args__ = (
        {"comment": "mirror of customers: which business one names in its metadata, and whether it lives"},
    )

    id: Mapped[str] = mapped_column(primary_key=True, comment="cus_…")
    named_business_id: Mapped[int | None] = mapped_column(BigInteger, comment="metadata.business_id, unchecked")
    deleted: Mapped[bool] = mapped_column(server_default=text("false"))
    snapshot_at: Mapped[Instant]
    balance: Mapped[int] = mapped_column(
        BigInteger,
        server_default=text("0"),
        comment="in its currency's smallest unit; negative: a credit, which lowers its next invoice",
    )
    currency: Mapped[str | None]


class Subscription(Base):
    __tablename__ = "subscriptions"
    __table_args__ = (
        CheckConstraint("period_start < period_end", name="period"),
        Index("subscriptions_business_id_idx", "business_id"),
        {"comment": "mirror of Stripe's subscriptions; status is Stripe's own word"},
    )

    id: Mapped[Id]
    stripe_id: Mapped[str] = mapped_column(unique=True, comment="sub_…")
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"))
    stripe_customer_id: Mapped[str]
    status: Mapped[str]
    plan_id: Mapped[int | None] = mapped_column(
        ForeignKey("subscription_plans.id"), comment="by its prices; null while none of them is mapped"
    )
    metered_item_id: Mapped[str | None]
    metered_price_id: Mapped[str | None]
    metered_since: Mapped[datetime | None] = mapped_column(
        comment="when the metered price came, where that was inside the period: its included minutes count from then"
    )
    period_start: Mapped[datetime | None] = mapped_column(comment="of the metered item where there is one")
    period_end: Mapped[datetime | None]
    billing_cycle_anchor: Mapped[datetime | None]
    started_at: Mapped[datetime]
    trial_end: Mapped[datetime | None]
    cancel_at_period_end: Mapped[bool] = mapped_column(server_default=text("false"))
    cancel_at: Mapped[datetime | None] = mapped_column(
        comment="when it ends, where somebody has said so: at its period's end, or at an instant (the portal's way)"
    )
    canceled_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    pause_collection: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    price_ids: Mapped[list[str]] = mapped_column(JSONB, server_default=text("'[]'"), comment="written no longer")
    api_version: Mapped[str | None]
    snapshot_at: Mapped[Instant] = mapped_column(comment="when Stripe said so; only strictly newer ones replace it")
    currency: Mapped[str | None]
    minutes_ended_at: Mapped[datetime | None] = mapped_column(
        comment="when its minutes item was removed, while it lives on"
    )
    billing_mode: Mapped[str | None] = mapped_column(comment="classic or flexible; null: not told yet")


class SubscriptionItem(Base):
    __tablename__ = "subscription_items"
    __table_args__ = (
        CheckConstraint(one_of("role", "minutes", "fee", "add-on"), name="role"),
        {"comment": "mirror of the items that subscriptions have: minutes and fee are the plan's, the rest add-ons"},
    )

    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True, comment="si_…")
    price_id: Mapped[str] = mapped_column(index=True)
    role: Mapped[str] = mapped_column(comment="what its price is to us")
    quantity: Mapped[int | None] = mapped_column(BigInteger, comment="null: metered")


class StripeInvoice(Base):
    __tablename__ = "stripe_invoices"
    __table_args__ = (
        CheckConstraint(one_of("status", "draft", "open", "paid", "uncollectible", "void"), name="status"),
        Index(
            "stripe_invoices_overdue_idx", "business_id", postgresql_where=text("status = 'open' and attempt_count > 0")
        ),
        {"comment": "mirror of subscription invoices; a period is billable while its invoice is a draft"},
    )

    id: Mapped[str] = mapped_column(primary_key=True, comment="in_…")
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    stripe_subscription_id: Mapped[str | None]
    status: Mapped[str]
    billing_reason: Mapped[str | None]
    created_at: Mapped[Instant]
    automatically_finalizes_at: Mapped[datetime | None]
    finalized_at: Mapped[datetime | None]
    attempt_count: Mapped[int] = mapped_column(server_default=text("0"), comment="attempts to collect it")
    amount_due_cents: Mapped[int] = mapped_column(BigInteger)
    currency: Mapped[str]
    snapshot_at: Mapped[Instant]
    total_cents: Mapped[int | None] = mapped_column(
        BigInteger, comment="of its lines, less discounts, with taxes; null: not told yet"
    )
    tax_cents: Mapped[int | None] = mapped_column(
        BigInteger, comment="that is added to its lines; what they include already is not in it"
    )
    discount_cents: Mapped[int | None] = mapped_column(BigInteger, comment="that is taken from its lines")
    number: Mapped[str | None] = mapped_column(comment="as customers know it")
    charges: Mapped[list[Any] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="its lines: for what, price, quantity, amount, whether a proration; the first 250",
    )
    credit_notes: Mapped[list[Any] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="what was given back of it: id, number, total, the part of its minutes' lines, whose",
    )
    paid_back: Mapped[list[Any] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="refunds that no credit note tells, and what banks hold in disputes: id, what, amount, status",
    )


class StripeInvoiceLine(Base):
    __tablename__ = "stripe_invoice_lines"
    __table_args__ = (
        CheckConstraint("period_start < period_end", name="period"),
        Index("stripe_invoice_lines_span_idx", "stripe_subscription_id", "period_end"),
        {
            "comment": "minutes that an invoice bills, by price and the time that it counted for: the lines of all its"
            " tiers together; final once the invoice is no draft"
        },
    )

    invoice_id: Mapped[str] = mapped_column(ForeignKey("stripe_invoices.id", ondelete="CASCADE"), primary_key=True)
    price_id: Mapped[str] = mapped_column(primary_key=True)
    period_start: Mapped[Instant] = mapped_column(primary_key=True)
    period_end: Mapped[Instant] = mapped_column(primary_key=True)
    stripe_subscription_id: Mapped[str]
    minutes: Mapped[int]
    amount_cents: Mapped[int] = mapped_column(BigInteger)
    mid_period: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="its price came inside the period, in place of another"
    )


class SubscriptionChange(Base):
    """One change of a subscription for Stripe. Those of a subscription are sent in their order. States:

    planned   to be sent when due (way out: sending)
    sending   handed to a worker until due_at (way out: done, failed, planned again)
    done      Stripe has it, by its answer or because a look showed it
    failed    Stripe refused it for good; its words are in ``answer``
    """

    __tablename__ = "subscription_changes"
    __table_args__ = (
        CheckConstraint(
            one_of(
                "kind",
                "cancel-at-period-end",
                "keep",
                "cancel-now",
                "upgrade",
                "downgrade",
                "pause-collection",
                "resume-collection",
                "metadata",
            ),
            name="kind",
        ),
        CheckConstraint(one_of("state", "planned", "sending", "done", "failed"), name="state"),
        Index(
            "subscription_changes_one_unsettled",
            "subscription_id",
            "kind",
            "state",
            unique=True,
            postgresql_where=text("state in ('planned', 'sending')"),
        ),
        Index("subscription_changes_due_idx", "due_at", postgresql_where=text("state in ('planned', 'sending')")),
        {"comment": "outbox: changes of subscriptions for Stripe; frozen"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    subscription_id: Mapped[int] = mapped_column(ForeignKey("subscriptions.id"))
    kind: Mapped[str]
    params: Mapped[Document] = mapped_column(comment="what is wanted, in the words of its kind")
    identifier: Mapped[str] = mapped_column(unique=True, comment="begins the idempotency keys")
    state: Mapped[str] = mapped_column(server_default=text("'planned'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"), comment="429 costs none")
    server_errors: Mapped[int] = mapped_column(
        server_default=text("0"), comment="5xx answers: each makes the next idempotency key a new one"
    )
    due_at: Mapped[MachineInstant] = mapped_column(comment="not before; while sending, the end of the lease")
    answer: Mapped[str | None]
    reason: Mapped[str] = mapped_column(comment="who or what wanted it")
    created_at: Mapped[Instant]
    settled_at: Mapped[datetime | None] = mapped_column(comment="machine clock")
