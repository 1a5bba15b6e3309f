"""What the tables say of themselves."""

from sqlalchemy import CheckConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base


class SchemaServes(Base):
    __tablename__ = "schema_serves"
    __table_args__ = (
        CheckConstraint("one", name="one"),
        {"comment": "one row: which code these tables serve; written by each migration (db/schema_version.py)"},
    )

    one: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    oldest_code: Mapped[str] = mapped_column(comment="the newest migration that the oldest such code comes with")


class DatabaseIdentity(Base):
    __tablename__ = "database_identity"
    __table_args__ = (
        CheckConstraint("one", name="one"),
        {"comment": "one row: which database these rows were written in (pipeline/shared/restores.py)"},
    )

    one: Mapped[bool] = mapped_column(primary_key=True, server_default=text("true"))
    identity: Mapped[str] = mapped_column(
        comment="PostgreSQL's own number of its cluster, and of meter_pushes in it: a restored dump has others"
    )
