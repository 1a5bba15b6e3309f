"""Minutes by billing period, what was carried between periods, and the alerts they raised."""

from datetime import date, datetime
from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB, ExcludeConstraint
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Id, Instant, one_of


class UsageRecord(Base):
    """One business in one billing period. States:

    open      the period is running, or waits to be confirmed (way out: closing, when it ends)
    closing   the period is over; late calls are still counted, and pushed while the invoice is a draft
              (way out: closed, before the invoice finalises; without a subscription 72 h after the end)
    closed    final, with a statement; what comes later is carried
    """

    __tablename__ = "usage_records"
    __table_args__ = (
        UniqueConstraint("business_id", "period_start"),
        CheckConstraint("period_start < period_end", name="period"),
        CheckConstraint(one_of("state", "open", "closing", "closed"), name="state"),
        CheckConstraint("(state = 'closed') = (closed_at is not null)", name="closed_at"),
        CheckConstraint("calls >= 0 and seconds >= 0", name="figures"),
        CheckConstraint("increment_seconds between 1 and 3600", name="increment_seconds"),
        CheckConstraint(one_of("late_policy", "carry", "write-off"), name="late_policy"),
        Index("usage_records_due_idx", "period_end", postgresql_where=text("state = 'open'")),
        Index("usage_records_closing_idx", "period_end", postgresql_where=text("state = 'closing'")),
        Index(
            "usage_records_unsettled_idx",
            "business_id",
            postgresql_where=text("state = 'closed' and subscription_id is not null and settled_at is null"),
        ),
        Index(
            "usage_records_pushable_idx",
            "business_id",
            postgresql_where=text("state <> 'closed' and subscription_id is not null"),
        ),
        {
            "comment": "one business in one billing period, half-open, UTC",
            # Minutes move all the time: room on the page keeps those updates out of all indexes (HOT), the
            # exclusion constraint's among them; so no index may name a figure.
            "postgresql_with": {"fillfactor": "50"},
        },
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"))
    plan_id: Mapped[int] = mapped_column(ForeignKey("subscription_plans.id"))
    subscription_id: Mapped[int | None] = mapped_column(
        ForeignKey("subscriptions.id"),
        comment="whose metered item's period this is; null: calendar month, not for Stripe",
    )
    period_start: Mapped[Instant]
    period_end: Mapped[Instant]
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    provisional: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="bounds by anchor arithmetic; nothing is pushed or closed from it"
    )
    included_minutes: Mapped[int] = mapped_column(comment="the plan's, when the record was made or the plan changed")
    calls: Mapped[int] = mapped_column(server_default=text("0"))
    seconds: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    minutes: Mapped[int] = mapped_column(server_default=text("0"), comment="of its calls and its adjustments")
    adjustment_minutes: Mapped[int] = mapped_column(server_default=text("0"), comment="the part carried into it")
    pushed_minutes: Mapped[int] = mapped_column(
        server_default=text("0"), comment="sum of the pushes with a timestamp in the period that Stripe accepted"
    )
    time_zone: Mapped[str | None] = mapped_column(comment="its days are local to it; null: to its business's, as ever")
    allowance_month: Mapped[date | None] = mapped_column(
        comment="without a subscription: the local calendar month whose included minutes its records share"
    )
    cut: Mapped[bool] = mapped_column(
        server_default=text("false"),
        comment="ended inside Stripe's period by another price: Stripe has counted, and takes nothing more for it",
    )
    opened_at: Mapped[Instant]
    closed_at: Mapped[datetime | None]
    invoiced_minutes: Mapped[int | None] = mapped_column(comment="on the finalised invoice")
    settled_at: Mapped[datetime | None] = mapped_column(
        comment="when the finalised invoice was compared and the difference carried"
    )
    statement: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), comment="frozen at the close")
    increment_seconds: Mapped[int] = mapped_column(
        server_default=text("60"), comment="of the plan when it was made: its calls are rounded up to it"
    )
    late_policy: Mapped[str] = mapped_column(server_default=text("'carry'"), comment="of the plan when it was made")
    late_limit_minutes: Mapped[int] = mapped_column(server_default=text("3000"), comment="of the plan when it was made")
    price_id: Mapped[str | None] = mapped_column(comment="that bills its minutes")
    currency: Mapped[str | None]
    tiers: Mapped[list[Any] | None] = mapped_column(
        JSONB(none_as_null=True), comment="of that price in that currency; null: none bills it, or not known"
    )
    trial: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="of a trial: its included minutes are free, and more are not for sale"
    )
    invoice_id: Mapped[str | None] = mapped_column(comment="that settled it; null: none did")
    plan_minutes: Mapped[int | None] = mapped_column(comment="that its plan included when it was made")


UsageRecord.__table__.append_constraint(  # type: ignore[attr-defined]  # __table__ is typed as its base class
    ExcludeConstraint(
        (UsageRecord.business_id, "="),
        (func.tstzrange(UsageRecord.period_start, UsageRecord.period_end), "&&"),
        using="gist",
        name="usage_records_no_overlap",
    )
)


class UsageAdjustment(Base):
    """Minutes of a period that could not take them any more. Kinds:

    carried       into the record named by usage_record_id, and billed there
    written-off   of a closed period that was not for Stripe, or given away by a person; on no record
    unbillable    Stripe dropped them: a drift names the money
    held          more late minutes than the plan's limit: on no record yet (way out: one of the others, by a person)
    waiting       while the business has nothing that bills it: a drift names the money (way out: carried, by itself)
    over-billed   the final invoice has more minutes than we know of (negative): a drift names the money
    under-billed  the final invoice has fewer, and our pushes do not explain it: a drift names the money
    credited      given back by a credit note: on no record any more
    """

    __tablename__ = "usage_adjustments"
    __table_args__ = (
        CheckConstraint(
            one_of(
                "kind",
                "carried",
                "written-off",
                "unbillable",
                "held",
                "waiting",
                "over-billed",
                "under-billed",
                "credited",
            ),
            name="kind",
        ),
        CheckConstraint("(kind = 'carried') = (usage_record_id is not null)", name="carried_somewhere"),
        CheckConstraint("minutes <> 0", name="minutes"),
        Index("usage_adjustments_usage_record_id_idx", "usage_record_id"),
        Index("usage_adjustments_origin_record_id_idx", "origin_record_id"),
        Index("usage_adjustments_call_sid_idx", "call_sid"),
        Index("usage_adjustments_settlement_record_id_idx", "settlement_record_id"),
        Index("usage_adjustments_held_idx", "origin_record_id", postgresql_where=text("kind = 'held'")),
        Index("usage_adjustments_waiting_idx", "business_id", postgresql_where=text("kind = 'waiting'")),
        Index(
            "usage_adjustments_disputed_idx",
            "business_id",
            postgresql_where=text("kind in ('over-billed', 'under-billed')"),
        ),
        {"comment": "minutes carried between periods, each with its call (or settlement) and its own period"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    kind: Mapped[str]
    usage_record_id: Mapped[int | None] = mapped_column(ForeignKey("usage_records.id"))
    origin_record_id: Mapped[int] = mapped_column(ForeignKey("usage_records.id"))
    call_sid: Mapped[str | None] = mapped_column(comment="null: the difference to the finalised invoice")
    minutes: Mapped[int]
    event_id: Mapped[int | None] = mapped_column(BigInteger)
    created_at: Mapped[Instant]
    settlement_record_id: Mapped[int | None] = mapped_column(
        ForeignKey("usage_records.id"),
        comment="the record whose settlement made it: the difference to its invoice; null: a call did",
    )
    told_amount: Mapped[int | None] = mapped_column(
        BigInteger,
        comment="in the currency's smallest unit: what a person was told that it is worth, who had it carried; null:"
        " by the tiers of its own period",
    )


class UsageAlert(Base):
    __tablename__ = "usage_alerts"
    __table_args__ = (
        CheckConstraint(one_of("kind", "minutes-80", "minutes-100", "agents", "numbers"), name="kind"),
        Index(
            "usage_alerts_once",
            "business_id",
            "kind",
            "usage_record_id",
            "plan_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
            postgresql_where=text("resolved_at is null"),
        ),
        {"comment": "a limit reached: minutes once per record, agents and numbers once until it is resolved"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"))
    kind: Mapped[str]
    usage_record_id: Mapped[int | None] = mapped_column(ForeignKey("usage_records.id"))
    plan_id: Mapped[int] = mapped_column(ForeignKey("subscription_plans.id"))
    value: Mapped[int] = mapped_column(comment="what there was: minutes, agents, numbers")
    limit: Mapped[int] = mapped_column(comment="what the plan includes")
    raised_at: Mapped[Instant]
    resolved_at: Mapped[datetime | None]
