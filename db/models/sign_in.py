"""How people come in and stay in: links by mail, sessions, second factors, and how often somebody may try."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Id, MachineInstant, one_of


class AccountLink(Base):
    """What a link in a mail is for. It has its secrets beside it, made when a mail is sent."""

    __tablename__ = "account_links"
    __table_args__ = (
        CheckConstraint(one_of("kind", "sign-up", "invitation", "staff", "reset", "address", "ownership"), name="kind"),
        CheckConstraint(one_of("role", "admin", "member", "billing"), name="role"),
        CheckConstraint(one_of("staff_role", "support", "operator", "administrator"), name="staff_role"),
        CheckConstraint("(kind in ('invitation', 'ownership')) = (business_id is not null)", name="business"),
        Index("account_links_business_id_idx", "business_id", postgresql_where=text("ended_at is null")),
        {"comment": "what somebody with this address may do by a link that was mailed there, once"},
    )

    id: Mapped[Id]
    kind: Mapped[str]
    email: Mapped[str] = mapped_column(comment="where it is mailed, and whose it is")
    user_id: Mapped[int | None] = mapped_column(
        ForeignKey("users.id"), index=True, comment="whose password or address it changes"
    )
    former_email: Mapped[str | None] = mapped_column(comment="the address before the change, which is told of it")
    business_id: Mapped[int | None] = mapped_column(ForeignKey("businesses.id"))
    role: Mapped[str | None] = mapped_column(comment="that an invitation gives; owner's is the kind ownership")
    staff_role: Mapped[str | None]
    invited_by: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[MachineInstant]
    ended_at: Mapped[datetime | None] = mapped_column(comment="used, or taken back, or replaced by a newer one")


class LinkToken(Base):
    __tablename__ = "link_tokens"
    __table_args__ = (
        CheckConstraint("octet_length(token_sha256) = 32", name="token_sha256"),
        {"comment": "the secrets of links: each mail that may have left has its own, and any of them is good"},
    )

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    link_id: Mapped[int] = mapped_column(ForeignKey("account_links.id"), index=True)
    created_at: Mapped[MachineInstant]
    expires_at: Mapped[datetime]


class Mail(Base):
    """A mail to a person. States:

    planned   to be sent when due (way out: sending)
    sending   handed to a worker until due_at (way out: sent, failed, planned again)
    sent      the mail server took it
    failed    it refused the address, or the mail, for good
    void      there was nothing to tell anybody any more
    """

    __tablename__ = "mails"
    __table_args__ = (
        CheckConstraint(one_of("state", "planned", "sending", "sent", "failed", "void"), name="state"),
        CheckConstraint("link_id is not null or user_id is not null", name="recipient"),
        Index("mails_due_idx", "due_at", postgresql_where=text("state in ('planned', 'sending')")),
        {"comment": "outbox of mails: kinds and ids; texts and secrets are made when they are sent"},
    )

    id: Mapped[Id]
    kind: Mapped[str]
    link_id: Mapped[int | None] = mapped_column(ForeignKey("account_links.id"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    business_id: Mapped[int | None] = mapped_column(ForeignKey("businesses.id"))
    state: Mapped[str] = mapped_column(server_default=text("'planned'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    due_at: Mapped[MachineInstant]
    created_at: Mapped[MachineInstant]
    settled_at: Mapped[datetime | None]
    answer: Mapped[str | None] = mapped_column(comment="the mail server's number, without its words")


class Session(Base):
    __tablename__ = "sessions"
    __table_args__ = (
        Index("sessions_user_id_idx", "user_id", postgresql_where=text("ended_at is null")),
        {"comment": "who is signed in, on which device; all its refresh tokens are one family"},
    )

    id: Mapped[Id]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[MachineInstant]
    used_at: Mapped[MachineInstant]
    proven_at: Mapped[MachineInstant] = mapped_column(comment="when password and code were last given")
    second_factor: Mapped[bool] = mapped_column(comment="whether a code was given with the password")
    idle_seconds: Mapped[int] = mapped_column(comment="it ends when it was not used for so long")
    ends_at: Mapped[datetime] = mapped_column(comment="at the latest")
    device: Mapped[str] = mapped_column(comment="what the browser says it is, for the person to recognise")
    address: Mapped[str] = mapped_column(comment="the network address it began from")
    ended_at: Mapped[datetime | None]
    ended_by: Mapped[str | None] = mapped_column(
        comment="sign-out, reuse, password, address, second-factor, deactivated, staff"
    )


class RefreshToken(Base):
    __tablename__ = "refresh_tokens"
    __table_args__ = (
        CheckConstraint("octet_length(token_sha256) = 32", name="token_sha256"),
        UniqueConstraint("session_id", "number"),
        {"comment": "the chain of a session's tokens: each is made of the one before, and known by its digest"},
    )

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    session_id: Mapped[int] = mapped_column(ForeignKey("sessions.id"))
    number: Mapped[int] = mapped_column(comment="in its session, from 1")
    created_at: Mapped[MachineInstant]
    used_at: Mapped[datetime | None] = mapped_column(comment="first used; from then on the one before is good for 10 s")


class KnownDevice(Base):
    __tablename__ = "known_devices"
    __table_args__ = ({"comment": "browsers from which somebody has signed in: no stranger can lock them out"},)

    token_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[MachineInstant]


class RecoveryCode(Base):
    __tablename__ = "recovery_codes"
    __table_args__ = ({"comment": "for who has lost the second factor: each works once"},)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    code_sha256: Mapped[bytes] = mapped_column(primary_key=True)
    created_at: Mapped[MachineInstant]
    used_at: Mapped[datetime | None]


class AttemptLimit(Base):
    __tablename__ = "attempt_limits"
    __table_args__ = ({"comment": "how often something was tried: one instant a bucket (GCRA), named by a digest"},)

    bucket: Mapped[bytes] = mapped_column(primary_key=True)
    full_at: Mapped[datetime] = mapped_column(comment="when all that was used up is there again", index=True)


class IdempotencyKey(Base):
    __tablename__ = "idempotency_keys"
    __table_args__ = (
        CheckConstraint("octet_length(body_sha256) = 32", name="body_sha256"),
        {"comment": "requests of the API that may be sent again: what was answered, for a day"},
    )

    actor: Mapped[str] = mapped_column(primary_key=True, comment="user:7 or key:3")
    path: Mapped[str] = mapped_column(primary_key=True, comment="of the request, with the business in it")
    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[bytes]
    status: Mapped[int]
    answer: Mapped[bytes | None] = mapped_column(comment="null where it held a secret")
    location: Mapped[str | None]
    created_at: Mapped[MachineInstant] = mapped_column(index=True)
