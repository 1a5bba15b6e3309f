"""What people write on the command line, and what it means: businesses and times."""

from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.output import WrongError
from pipeline.reading.businesses import businesses_called

#: How a business is named on the command line.
BusinessArgument = Annotated[str, typer.Argument(metavar="BUSINESS", help="Its id, or its exact name.")]


def find(connection: Connection, business: str) -> int:
    """The id of the business that is named so. Raises WrongError when there is none, or more than one."""
    found = businesses_called(connection, business)
    if not found:
        raise WrongError(f"there is no business {business}; `altiora business list` shows them")
    if len(found) > 1:
        ids = ", ".join(map(str, found))
        raise WrongError(f"{len(found)} businesses are called {business}; name one by its id: {ids}")
    return found[0]


def instant(text: str) -> datetime:
    """An ISO 8601 time from the command line, UTC where it has no offset. typer makes a usage error of ValueError."""
    read = datetime.fromisoformat(text)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
