"""What is sold, and the Stripe prices that stand for it."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, SmallInteger, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Instant, one_of


class SubscriptionPlan(Base):
    __tablename__ = "subscription_plans"
    __table_args__ = (
        CheckConstraint("price_cents >= 0 and included_minutes >= 0 and agents >= 0 and numbers >= 0", name="figures"),
        CheckConstraint("increment_seconds between 1 and 3600", name="increment_seconds"),
        CheckConstraint(one_of("late_policy", "carry", "write-off"), name="late_policy"),
        CheckConstraint("late_limit_minutes >= 0", name="late_limit_minutes"),
        {"comment": "the plans; seeded, idempotently"},
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    code: Mapped[str] = mapped_column(unique=True, comment="free, starter, professional, enterprise")
    name: Mapped[str] = mapped_column(unique=True)
    price_cents: Mapped[int] = mapped_column(comment="a month, in cents of the business's currency")
    included_minutes: Mapped[int] = mapped_column(comment="a billing period")
    agents: Mapped[int]
    numbers: Mapped[int]
    increment_seconds: Mapped[int] = mapped_column(
        server_default=text("60"), comment="seconds are rounded up to it, then to whole minutes"
    )
    payment_grace_days: Mapped[int] = mapped_column(
        server_default=text("7"), comment="from an invoice whose payment failed to the suspension of the service"
    )
    bills_overage: Mapped[bool] = mapped_column(
        comment="true: Stripe's graduated price bills it; false: it is unbilled and the business is limited"
    )
    late_policy: Mapped[str] = mapped_column(
        server_default=text("'carry'"), comment="what becomes of minutes that come too late for a paid period"
    )
    late_limit_minutes: Mapped[int] = mapped_column(
        server_default=text("3000"), comment="late minutes of one period beyond this are held, for a person to decide"
    )
    retired_at: Mapped[datetime | None] = mapped_column(comment="not for sale since; who has it keeps it")


class StripeMeter(Base):
    __tablename__ = "stripe_meters"
    __table_args__ = ({"comment": "mirror of the meters that prices name: one of them counts minutes"},)

    id: Mapped[str] = mapped_column(primary_key=True, comment="mtr_…")
    event_name: Mapped[str]
    active: Mapped[bool]
    sums_by_our_keys: Mapped[bool] = mapped_column(comment="it adds up the value of each stripe_customer_id")
    snapshot_at: Mapped[Instant] = mapped_column(comment="when Stripe said so")


class StripePrice(Base):
    __tablename__ = "stripe_prices"
    __table_args__ = (
        CheckConstraint(one_of("usage_type", "licensed", "metered"), name="usage_type"),
        {"comment": "mirror of the prices seen; plan_id is null while no plan has claimed one (drift unmapped-price)"},
    )

    id: Mapped[str] = mapped_column(primary_key=True, comment="price_…")
    product_id: Mapped[str | None] = mapped_column(index=True)
    plan_id: Mapped[int | None] = mapped_column(ForeignKey("subscription_plans.id"))
    usage_type: Mapped[str]
    meter_id: Mapped[str | None]
    active: Mapped[bool]
    snapshot_at: Mapped[Instant] = mapped_column(comment="when Stripe said so")
    currency: Mapped[str | None] = mapped_column(comment="its own; it may have others")
    billing_interval: Mapped[str | None] = mapped_column(comment="day, week, month or year")
    interval_count: Mapped[int | None]
    lookup_key: Mapped[str | None]
    tariffs: Mapped[dict[str, Any] | None] = mapped_column(
        JSONB(none_as_null=True),
        comment="by currency: included minutes, and tiers of end, amount a unit, flat amount; null: not fetched yet",
    )
    product_default: Mapped[bool] = mapped_column(server_default=text("false"), comment="its product's default price")
