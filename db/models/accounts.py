"""Who we serve: users, the businesses they own, and the keys of their programs."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Computed, ForeignKey, Index, collate, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db.base import Base, Id, Instant, MachineInstant, one_of


class User(Base):
    __tablename__ = "users"
    __table_args__ = (
        CheckConstraint("length(name) between 1 and 200", name="name"),
        CheckConstraint(one_of("staff_role", "support", "operator", "administrator"), name="staff_role"),
        {"comment": "people who sign in, each with an address that was proven; they own businesses or are members"},
    )

    id: Mapped[Id]
    email: Mapped[str]
    name: Mapped[str]
    password_hash: Mapped[str | None] = mapped_column(comment="argon2id, with its own parameters")
    staff_role: Mapped[str | None] = mapped_column(comment="of Altiora's own people")
    totp_secret: Mapped[bytes | None] = mapped_column(comment="of the second factor, encrypted")
    second_factor: Mapped[bool] = mapped_column(Computed("totp_secret is not null", persisted=True))
    totp_offered: Mapped[bytes | None] = mapped_column(comment="one that waits for its first code, encrypted")
    totp_step: Mapped[int | None] = mapped_column(
        BigInteger, comment="the last half minute whose code was used: no code is taken twice"
    )
    created_at: Mapped[MachineInstant]
    deactivated_at: Mapped[datetime | None]
    secured_at: Mapped[datetime | None] = mapped_column(
        comment="password, address or second factor changed: links that were asked for before are good no more"
    )


Index("users_email_key", func.lower(collate(User.email, "C")), unique=True)


class Business(Base):
    __tablename__ = "businesses"
    __table_args__ = (
        CheckConstraint("length(name) between 1 and 200", name="name"),
        Index("businesses_grace_idx", "grace_until", postgresql_where=text("suspended_at is null")),
        {"comment": "the tenant: has one plan at a time; ended, never deleted"},
    )

    id: Mapped[Id]
    owner_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id"), index=True, comment="null until its owner has signed up"
    )
    name: Mapped[str]
    time_zone: Mapped[str] = mapped_column(comment="IANA name; a calendar month without a subscription is local to it")
    plan_id: Mapped[int] = mapped_column(ForeignKey("subscription_plans.id"))
    stripe_customer_id: Mapped[str | None] = mapped_column(unique=True)
    limited_until: Mapped[datetime | None] = mapped_column(
        comment="service status limited while this lies in the future; it passes by itself"
    )
    grace_until: Mapped[datetime | None] = mapped_column(
        comment="a payment is overdue; the service is suspended when this has passed"
    )
    suspended_at: Mapped[datetime | None] = mapped_column(comment="service status suspended while set")
    created_at: Mapped[Instant]
    ended_at: Mapped[datetime | None]
    billed_elsewhere_until: Mapped[datetime | None] = mapped_column(
        comment="until then it is invoiced by hand, and keeps plan and service without a subscription"
    )
    billed_elsewhere_reason: Mapped[str | None] = mapped_column(comment="who has agreed to what with it")
    contact_email: Mapped[str | None] = mapped_column(comment="whom we write to about it, beside its owner")


class FormerCustomer(Base):
    __tablename__ = "former_customers"
    __table_args__ = (
        {"comment": "customers that businesses had before the present one: what Stripe tells of them is still theirs"},
    )

    stripe_customer_id: Mapped[str] = mapped_column(primary_key=True, comment="cus_…")
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    until: Mapped[Instant] = mapped_column(comment="when another one took its place")


class ServiceTransition(Base):
    __tablename__ = "service_transitions"
    __table_args__ = (
        CheckConstraint(one_of("from_status", "active", "grace", "limited", "suspended"), name="from_status"),
        CheckConstraint(one_of("to_status", "active", "grace", "limited", "suspended"), name="to_status"),
        Index("service_transitions_business_id_at_idx", "business_id", "at"),
        {"comment": "each change of whether a business may take calls: by which of the service rules"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"))
    from_status: Mapped[str]
    to_status: Mapped[str]
    rule: Mapped[str]
    until: Mapped[datetime | None] = mapped_column(comment="when grace or limit pass by themselves")
    cause: Mapped[str] = mapped_column(comment="what was looked at: an object of Stripe's, the minutes, the clock")
    at: Mapped[Instant]


class BusinessMember(Base):
    __tablename__ = "business_members"
    __table_args__ = (
        CheckConstraint(one_of("role", "admin", "member", "billing"), name="role"),
        {"comment": "links users to businesses that they work in"},
    )

    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[str] = mapped_column(server_default=text("'member'"))
    joined_at: Mapped[MachineInstant]


class ApiKey(Base):
    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("octet_length(secret_sha256) = 32", name="secret_sha256"),
        {"comment": "keys of programs; only the digest of the secret is stored"},
    )

    id: Mapped[Id]
    business_id: Mapped[int | None] = mapped_column(
        ForeignKey("businesses.id"), index=True, comment="null: a service key, for all of them"
    )
    user_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id"), comment="who made it; it may do no more than its maker"
    )
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    name: Mapped[str]
    prefix: Mapped[str] = mapped_column(comment="the first characters, to recognise it by")
    secret_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[MachineInstant]
    last_used_at: Mapped[datetime | None] = mapped_column(comment="to the minute, written now and then")
    expires_at: Mapped[datetime | None]
    shrunk_at: Mapped[datetime | None] = mapped_column(
        comment="when its maker lost a right that it has; it ends seven days later unless somebody rotates it"
    )
    revoked_at: Mapped[datetime | None]
