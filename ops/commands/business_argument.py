"""What people write on the command line, and what it means: businesses and times."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.output import WrongError
from pipeline.businesses.service_rules import status_at

#: How a business is named on the command line.
BusinessArgument = Annotated[str, typer.Argument(metavar="BUSINESS", help="Its id, or its exact name.")]


def service_status(limited_until: datetime | None, suspended_at: datetime | None, now: datetime) -> str:
    """Whether a business may take calls at ``now`` (business time): active, limited or suspended."""
    return status_at(limited_until=limited_until, grace_until=None, suspended_at=suspended_at, now=now)


def find(connection: Connection, business: str) -> int:
    """The id of the business that is named so. Raises WrongError when there is none, or more than one."""
    if business.isascii() and business.isdigit() and len(business) < 19:
        found = connection.exec_driver_sql("select id from businesses where id = %s", (int(business),)).all()
    else:
        found = connection.exec_driver_sql("select id from businesses where name = %s", (business,)).all()
    if not found:
        raise WrongError(f"there is no business {business}; `altiora business list` shows them")
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found)
        raise WrongError(f"{len(found)} businesses are called {business}; name one by its id: {ids}")
    return int(found[0].id)


def instant(text: str) -> datetime:
    """An ISO 8601 time from the command line, UTC where it has no offset. typer makes a usage error of ValueError."""
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
