"""Numbers, who held them when, and the calls."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.dialects.postgresql import TSTZRANGE, ExcludeConstraint, Range
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Id, MachineInstant, Price, one_of
from db.models.agents import agent_of_the_same_business


class PhoneNumber(Base):
    __tablename__ = "phone_numbers"
    __table_args__ = (
        CheckConstraint(r"number ~ '^\+[1-9][0-9]{1,14}$'", name="e164"),
        CheckConstraint("agent_id is null or business_id is not null", name="agent"),
        agent_of_the_same_business(),
        {"comment": "a Twilio number and its present holder"},
    )

    number: Mapped[str] = mapped_column(primary_key=True, comment="E.164")
    business_id: Mapped[int | None] = mapped_column(ForeignKey("businesses.id"), index=True)
    agent_id: Mapped[int | None] = mapped_column(BigInteger, index=True)
    twilio_sid: Mapped[str | None] = mapped_column(unique=True)
    label: Mapped[str] = mapped_column(server_default=text("''"))
    free_from: Mapped[datetime | None] = mapped_column(
        comment="business clock: its last holder let it go thirty days before; null: nobody did"
    )


class PhoneNumberAssignment(Base):
    __tablename__ = "phone_number_assignments"
    __table_args__ = (
        ExcludeConstraint(("number", "="), ("held", "&&"), using="gist", name="phone_number_assignments_one_holder"),
        CheckConstraint("not isempty(held)", name="held"),
        agent_of_the_same_business(),
        {"comment": "who held a number when; a call belongs to the holder at its start"},
    )

    id: Mapped[Id]
    number: Mapped[str] = mapped_column(ForeignKey("phone_numbers.number"), index=True)
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    held: Mapped[Range[datetime]] = mapped_column(TSTZRANGE, comment="half-open, business clock")
    agent_id: Mapped[int | None] = mapped_column(BigInteger, comment="who answered it meanwhile")


class Call(Base):
    """One Twilio call leg. The ``was_*`` columns hold what the row counted before its last upsert.

    An upsert can't see the row it replaced (a CTE's read may be older than what it updates), so the row itself
    keeps the former figures, and RETURNING hands them to the statement that moves the usage record.
    """

    __tablename__ = "calls"
    __table_args__ = (
        CheckConstraint(
            one_of(
                "status",
                "queued",
                "initiated",
                "ringing",
                "in-progress",
                "completed",
                "busy",
                "no-answer",
                "failed",
                "canceled",
            ),
            name="status",
        ),
        CheckConstraint("seconds >= 0", name="seconds"),
        CheckConstraint("minutes >= 0 and counted_minutes >= 0 and counted_seconds >= 0", name="figures"),
        CheckConstraint("not counted or usage_record_id is not null", name="counted_somewhere"),
        CheckConstraint("counted or (counted_minutes = 0 and counted_seconds = 0)", name="counted_figures"),
        CheckConstraint("(price is null) = (price_unit is null)", name="price"),
        CheckConstraint("agent_id is null or business_id is not null", name="agent"),
        agent_of_the_same_business(),
        Index("calls_usage_record_id_idx", "usage_record_id"),
        # Without the SID, which makes it three times as large: those of one instant are few, and sorted when read.
        Index("calls_business_id_started_at_idx", "business_id", text("started_at desc")),
        # Only ended legs, so that the reports of a call in progress don't touch it.
        Index(
            "calls_uncounted_idx",
            "business_id",
            "ended_at",
            postgresql_where=text("usage_record_id is null and ended_at is not null"),
        ),
        Index("calls_orphans_idx", "parent_sid", postgresql_where=text("business_id is null")),
        Index("calls_started_at_idx", "started_at", postgresql_using="brin"),
        {"comment": "one Twilio call leg"},
    )

    sid: Mapped[str] = mapped_column(primary_key=True)
    parent_sid: Mapped[str | None]
    business_id: Mapped[int | None] = mapped_column(
        ForeignKey("businesses.id"), comment="null: a child leg whose parent is not known yet"
    )
    number: Mapped[str | None] = mapped_column(comment="the number of ours that the call was charged by")
    direction: Mapped[str | None]
    from_number: Mapped[str | None]
    to_number: Mapped[str | None]
    status: Mapped[str]
    rank: Mapped[int] = mapped_column(
        BigInteger, comment="orders reports of a call: terminal, API over callback, sequence or fetch instant"
    )
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None] = mapped_column(comment="null until the leg has ended")
    estimated: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="the end is when we received it, for want of a timestamp"
    )
    seconds: Mapped[int | None] = mapped_column(comment="null: not known (yet)")
    minutes: Mapped[int] = mapped_column(server_default=text("0"), comment="billable minutes by all that is known")
    counted: Mapped[bool] = mapped_column(
        server_default=text("false"), comment="part of its usage record's figures; frozen once the record has closed"
    )
    counted_minutes: Mapped[int] = mapped_column(server_default=text("0"))
    counted_seconds: Mapped[int] = mapped_column(server_default=text("0"))
    usage_record_id: Mapped[int | None] = mapped_column(ForeignKey("usage_records.id"))
    price: Mapped[Price | None] = mapped_column(comment="what Twilio charged us; often known only later")
    price_unit: Mapped[str | None]
    event_id: Mapped[int | None] = mapped_column(BigInteger, comment="the webhook event that set the present state")
    was_business_id: Mapped[int | None] = mapped_column(BigInteger)
    was_usage_record_id: Mapped[int | None] = mapped_column(BigInteger)
    was_counted: Mapped[bool] = mapped_column(server_default=text("false"))
    was_minutes: Mapped[int] = mapped_column(server_default=text("0"))
    was_counted_minutes: Mapped[int] = mapped_column(server_default=text("0"))
    was_counted_seconds: Mapped[int] = mapped_column(server_default=text("0"))
    agent_id: Mapped[int | None] = mapped_column(
        BigInteger, comment="who answered: the agent of the number when the call began"
    )


class CallTranscript(Base):
    __tablename__ = "call_transcripts"
    __table_args__ = (
        UniqueConstraint("call_sid", "position"),
        CheckConstraint(one_of("speaker", "agent", "caller"), name="speaker"),
        CheckConstraint("position >= 0", name="position"),
        {"comment": "what was said"},
    )

    id: Mapped[Id]
    call_sid: Mapped[str] = mapped_column(ForeignKey("calls.sid"))
    language: Mapped[str | None]
    content: Mapped[str]
    created_at: Mapped[MachineInstant]
    position: Mapped[int] = mapped_column(comment="0 is said first")
    speaker: Mapped[str]
    said_at: Mapped[datetime | None] = mapped_column(comment="by the phone platform's clock")
    redacted_at: Mapped[datetime | None] = mapped_column(comment="its content was taken out, for good")
