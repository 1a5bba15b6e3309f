"""What is sent to Stripe, and the differences that were found."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Id, Instant, MachineInstant, one_of


class MeterPush(Base):
    """One meter event for Stripe: frozen when it is planned. States:

    planned   to be sent when due (way out: sending, or void when its period can't be billed any more)
    sending   handed to a worker until due_at (way out: sent, failed, planned again, unknown)
    sent      Stripe has it: a 2xx, or "an event already exists" (way out: failed, when Stripe reports it invalid later)
    failed    refused for good; Stripe's words are in ``answer``; blocks its record until an operator releases it
    released  was failed; its minutes may be planned anew
    unknown   sent, and no answer until the identifier's window ended: to be verified, never sent again
    void      too late for its period: never sent, or not on the finalised invoice
    """

    __tablename__ = "meter_pushes"
    __table_args__ = (
        CheckConstraint(
            one_of("state", "planned", "sending", "sent", "failed", "released", "unknown", "void"), name="state"
        ),
        CheckConstraint("minutes <> 0", name="minutes"),
        CheckConstraint("mod(extract(epoch from timestamp), 60) = 0", name="timestamp"),
        CheckConstraint("length(identifier) <= 100", name="identifier"),
        Index(
            "meter_pushes_one_unsettled",
            "business_id",
            unique=True,
            postgresql_where=text("state in ('planned', 'sending', 'unknown')"),
        ),
        Index("meter_pushes_due_idx", "due_at", postgresql_where=text("state in ('planned', 'sending')")),
        Index("meter_pushes_failed_idx", "usage_record_id", postgresql_where=text("state = 'failed'")),
        Index("meter_pushes_business_id_timestamp_idx", "business_id", "timestamp"),
        Index("meter_pushes_doubt_idx", "id", postgresql_where=text("doubt is not null")),
        Index("meter_pushes_created_at_idx", "created_at", postgresql_using="brin"),
        {"comment": "outbox: meter events for Stripe; a trigger keeps identifier, value and timestamp frozen"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"))
    usage_record_id: Mapped[int] = mapped_column(ForeignKey("usage_records.id"), index=True)
    identifier: Mapped[str] = mapped_column(unique=True)
    event_name: Mapped[str]
    stripe_customer_id: Mapped[str]
    minutes: Mapped[int] = mapped_column(comment="the delta; negative corrects")
    timestamp: Mapped[Instant] = mapped_column(comment="a whole minute inside the period")
    state: Mapped[str] = mapped_column(server_default=text("'planned'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"), comment="429 costs none")
    server_errors: Mapped[int] = mapped_column(
        server_default=text("0"), comment="5xx answers: each makes the next idempotency key a new one"
    )
    due_at: Mapped[MachineInstant] = mapped_column(comment="not before; while sending, the end of the lease")
    first_sent_at: Mapped[datetime | None] = mapped_column(
        comment="machine clock; Stripe's identifier window runs from it"
    )
    last_sent_at: Mapped[datetime | None] = mapped_column(
        comment="machine clock; Stripe's sum can tell of it some time later"
    )
    settled_at: Mapped[datetime | None] = mapped_column(comment="machine clock")
    answer: Mapped[str | None] = mapped_column(comment="Stripe's words")
    doubt: Mapped[str | None] = mapped_column(
        comment="under verification: the event of Stripe's that says some of its time were invalid, not which"
    )
    looked_at: Mapped[datetime | None] = mapped_column(comment="machine clock: Stripe's sum was last asked for then")
    created_at: Mapped[Instant]
    accepted_at: Mapped[datetime | None] = mapped_column(
        comment="business clock: Stripe's answer came then; in a draft's last moment it may be on no invoice"
    )


class Credit(Base):
    """One amount that is given back at Stripe. States:

    planned   to be sent when due (way out: sending)
    sending   handed to a worker until due_at (way out: done, failed, planned again)
    done      Stripe has it, as ``answer`` says
    failed    Stripe refused it for good; its words are in ``answer``
    """

    __tablename__ = "credits"
    __table_args__ = (
        CheckConstraint(one_of("state", "planned", "sending", "done", "failed"), name="state"),
        CheckConstraint("amount > 0", name="amount"),
        Index("credits_due_idx", "due_at", postgresql_where=text("state in ('planned', 'sending')")),
        Index("credits_invoice_id_idx", "invoice_id"),
        {"comment": "outbox: what is given back at Stripe, by a credit note or on a balance; frozen"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    subject: Mapped[str] = mapped_column(comment="of the difference that it settles")
    invoice_id: Mapped[str | None] = mapped_column(comment="that charged too much; null: none is known")
    amount: Mapped[int] = mapped_column(
        BigInteger, comment="in the currency's smallest unit, before discounts and taxes"
    )
    currency: Mapped[str]
    minutes: Mapped[int] = mapped_column(comment="that are given back so; 0: money alone")
    identifier: Mapped[str] = mapped_column(unique=True, comment="begins the idempotency keys, and stands at Stripe")
    state: Mapped[str] = mapped_column(server_default=text("'planned'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"), comment="429 costs none")
    server_errors: Mapped[int] = mapped_column(
        server_default=text("0"), comment="5xx answers: each makes the next idempotency key a new one"
    )
    due_at: Mapped[MachineInstant] = mapped_column(comment="not before; while sending, the end of the lease")
    answer: Mapped[str | None]
    reason: Mapped[str] = mapped_column(comment="what a person said who decided it")
    created_at: Mapped[Instant]
    settled_at: Mapped[datetime | None] = mapped_column(comment="machine clock")


class StripeSum(Base):
    """What Stripe's meter had summed up of a usage record, when it was last compared."""

    __tablename__ = "stripe_sums"
    __table_args__ = ({"comment": "Stripe's own sum of a record's minutes beside what it was sent, as last compared"},)

    usage_record_id: Mapped[int] = mapped_column(ForeignKey("usage_records.id", ondelete="CASCADE"), primary_key=True)
    until: Mapped[Instant] = mapped_column(comment="minutes from here on were not settled yet, and are left out")
    sent: Mapped[int] = mapped_column(comment="minutes of the pushes that Stripe took")
    summed: Mapped[Decimal] = mapped_column(comment="minutes by Stripe's summary")
    compared_at: Mapped[MachineInstant]


class Drift(Base):
    __tablename__ = "drifts"
    __table_args__ = (
        Index("drifts_open_key", "kind", "subject", unique=True, postgresql_where=text("resolved_at is null")),
        {"comment": "a difference found: what was expected, what is; open until it is resolved"},
    )

    id: Mapped[Id]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(comment="what it is about, as price:price_… or record:12")
    business_id: Mapped[int | None] = mapped_column(ForeignKey("businesses.id"), index=True)
    expected: Mapped[str]
    actual: Mapped[str]
    evidence: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    repair: Mapped[str | None] = mapped_column(comment="what is proposed to be done")
    found_at: Mapped[Instant]
    resolved_at: Mapped[datetime | None]
    note: Mapped[str | None] = mapped_column(comment="how a person resolved it; null: it ended by itself")
