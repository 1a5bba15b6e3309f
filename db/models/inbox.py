"""The queue of record: events as they arrived, the traces of claims, and what must be fetched from its owner."""

from datetime import datetime, timedelta

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Identity,
    Index,
    LargeBinary,
    Sequence,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Id, Instant, MachineInstant, one_of


class WebhookEvent(Base):
    """One event as it arrived. States:

    pending    stored, to be applied when due (way out: one of the others)
    processed  its effect and this state were committed together
    ignored    nothing here needs it; ``reason`` says why
    dead       it can't be applied; ``reason`` says why; counted, shown, replayable (way out: pending, by a replay)
    """

    __tablename__ = "webhook_events"
    __table_args__ = (
        UniqueConstraint("provider", "key"),
        CheckConstraint(one_of("provider", "stripe", "twilio"), name="provider"),
        CheckConstraint(one_of("state", "pending", "processed", "ignored", "dead"), name="state"),
        CheckConstraint("state not in ('ignored', 'dead') or reason is not null", name="reason"),
        CheckConstraint("batch_limit > 0", name="batch_limit"),
        Index("webhook_events_due_idx", "due_at", "id", postgresql_where=text("state = 'pending'")),
        Index("webhook_events_dead_idx", "id", postgresql_where=text("state = 'dead'")),
        Index("webhook_events_received_at_idx", "received_at", postgresql_using="brin"),
        {
            "comment": "the queue of record: a 2xx means that the row is here",
            # A queue's rows die young: vacuum by count, not by a share of millions of rows.
            "postgresql_with": {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_vacuum_cost_delay": "0"},
        },
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    provider: Mapped[str]
    key: Mapped[str] = mapped_column(
        Text(collation="C"), comment="unique for the provider; begins with the CallSid or is the event id"
    )
    type: Mapped[str | None] = mapped_column(comment="Stripe's event type, or call.<status>")
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    reason: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    batch_limit: Mapped[int | None] = mapped_column(
        comment="set when a batch with this row died: it is tried again only with so many others"
    )
    lone_deaths: Mapped[int] = mapped_column(
        SmallInteger, server_default=text("0"), comment="of workers that had nothing but this row"
    )
    due_at: Mapped[MachineInstant] = mapped_column(comment="not before")
    received_at: Mapped[Instant] = mapped_column(comment="business clock")
    stored_at: Mapped[MachineInstant]
    processed_at: Mapped[datetime | None] = mapped_column(comment="machine clock, when it left pending")
    recovered: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="found by asking the provider, not sent by it"
    )
    content_type: Mapped[str]
    body: Mapped[bytes] = mapped_column(LargeBinary, comment="raw, as signed")


class ResentEvent(Base):
    __tablename__ = "resent_events"
    __table_args__ = (
        {"comment": "dead events that their sender has sent again since: a wish to have them applied, until one looks"},
    )

    event_id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, comment="no foreign key: its check would wait for who works on the event"
    )
    resent_at: Mapped[MachineInstant]


class Claim(Base):
    __tablename__ = "claims"
    __table_args__ = (
        {
            "comment": "trace of a claim, committed before its effect and deleted with it; one that is left while its"
            " rows are pending and unlocked tells of a worker that died"
        },
    )

    id: Mapped[Id]
    worker: Mapped[str] = mapped_column(comment="host:pid")
    event_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    claimed_at: Mapped[MachineInstant]
    server_started_at: Mapped[datetime] = mapped_column(
        server_default=text("pg_postmaster_start_time()"),
        comment="by which server it was written: one that has restarted since took the worker's locks itself",
    )


class Halt(Base):
    __tablename__ = "halts"
    __table_args__ = ({"comment": "work that has stopped since everything failed alike; it goes on by itself"},)

    work: Mapped[str] = mapped_column(
        primary_key=True,
        comment="drain, close, close-looks, pushes, service, plans; restored: all but the drain, and sending",
    )
    error: Mapped[str] = mapped_column(comment="in which everything failed, without its values")
    since: Mapped[MachineInstant]
    next_try_at: Mapped[datetime] = mapped_column(
        server_default=text("now()"), comment="when one more is tried: if it passes, the row goes"
    )


#: Every mark is larger than those before it, so that a fetch clears only what it has seen.
refresh_marks = Sequence("refresh_marks", metadata=Base.metadata)


class Refresh(Base):
    """An object of Stripe's or Twilio's that must be fetched: ``mark > fetched_mark``."""

    __tablename__ = "refreshes"
    __table_args__ = (
        CheckConstraint(
            one_of("kind", "call", "customer", "subscription", "invoice", "payment", "price", "meter", "event"),
            name="kind",
        ),
        Index("refreshes_due_idx", "due_at", postgresql_where=text("mark > fetched_mark")),
        {"comment": "objects to fetch from their owner: what we know of them is stale, or was never known"},
    )

    kind: Mapped[str] = mapped_column(primary_key=True)
    object_id: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    mark: Mapped[int] = mapped_column(BigInteger, server_default=refresh_marks.next_value())
    fetched_mark: Mapped[int] = mapped_column(
        BigInteger, server_default=text("0"), comment="the mark that stood before the last fetch; 0: never fetched"
    )
    attempts: Mapped[int] = mapped_column(server_default=text("0"), comment="since the last success")
    due_at: Mapped[MachineInstant]
    marked_at: Mapped[MachineInstant]
    error: Mapped[str | None]


class Listing(Base):
    __tablename__ = "listings"
    __table_args__ = ({"comment": "up to when a source has been listed in full, or its days compared"},)

    source: Mapped[str] = mapped_column(primary_key=True)
    listed_until: Mapped[Instant]
    listed_at: Mapped[MachineInstant]


class Source(Base):
    """Who sends us webhooks, and when we last heard of it: zero usage and a broken source look alike otherwise."""

    __tablename__ = "sources"
    __table_args__ = (
        CheckConstraint(one_of("source", "twilio-callbacks", "stripe-events"), name="source"),
        {"comment": "heartbeats: when something last came from a source, and for how long it usually does not"},
    )

    source: Mapped[str] = mapped_column(primary_key=True)
    heard_at: Mapped[datetime | None] = mapped_column(comment="business clock; null: never yet")
    heard_machine_at: Mapped[datetime | None] = mapped_column(comment="machine clock")
    longest_gap: Mapped[timedelta] = mapped_column(
        server_default=text("'24 hours'"), comment="the longest silence of late; an old one counts ever less"
    )
