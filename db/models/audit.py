"""The audit trail: who decided what, when and why."""

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import Text

from db.base import Base, Document, Id, MachineInstant


class AuditEntry(Base):
    __tablename__ = "audit_entries"
    __table_args__ = (
        Index("audit_entries_business_id_idx", "business_id", "id"),
        {"comment": "who decided what, when and why; rows are added and never changed, a trigger sees to it"},
    )

    id: Mapped[Id]
    at: Mapped[MachineInstant]
    who: Mapped[str] = mapped_column(comment="user@host of a command, or pipeline, or stripe")
    what: Mapped[str] = mapped_column(comment="the command, or the decision in a few words")
    subject: Mapped[str] = mapped_column(comment="what it is about, as business:12, plan:starter, record:7")
    business_id: Mapped[int | None] = mapped_column(
        BigInteger, comment="whose it is; no foreign key, since an entry outlives everything"
    )
    reason: Mapped[str | None]
    by_right: Mapped[str | None] = mapped_column(comment="the right that it was done by, as members:write")
    request_id: Mapped[str | None] = mapped_column(comment="of the API, to find it in the logs")
    fields: Mapped[list[str]] = mapped_column(
        ARRAY(Text), server_default=text("'{}'"), comment="names of what was changed, without values"
    )
    detail: Mapped[Document] = mapped_column(server_default=text("'{}'"), comment="ids and figures, nothing personal")
