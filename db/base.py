"""What all models share: names of constraints, and the few column types that the schema uses."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any

from sqlalchemy import TIMESTAMP, BigInteger, Identity, MetaData, Numeric, Text, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

Id = Annotated[int, mapped_column(BigInteger, Identity(always=True), primary_key=True)]
#: An instant of the business clock: always given, never the database's now().
Instant = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True))]
#: An instant of the machine clock: stamped by the database, which all workers share.
MachineInstant = Annotated[datetime, mapped_column(TIMESTAMP(timezone=True), server_default=func.now())]
#: What Twilio charges for a call, in its price_unit; never summed across units.
Price = Annotated[Decimal, mapped_column(Numeric(12, 6))]
Document = Annotated[dict[str, Any], mapped_column(JSONB)]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "fk": "%(table_name)s_%(column_0_name)s_fkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a plain class attribute
        str: Text(),
        datetime: TIMESTAMP(timezone=True),
    }


def one_of(column: str, *values: str) -> str:
    """The text of a CHECK that ``column`` holds one of ``values``."""
    return f"{column} in ({', '.join(repr(value) for value in values)})"
