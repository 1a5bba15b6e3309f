"""Which code and which tables work together (case 84).

A migration names the oldest code that its tables serve, the code names the oldest tables that it needs. Both are named
by the numbers of migrations: code is as new as the newest migration that it comes with. It is looked at when a process
starts and on each new connection, so that no event is applied by code and tables that don't fit.
"""

from typing import Final

#: This code: the newest migration that it comes with.
CODE: Final = "0034"
#: The oldest tables that this code works with.
NEEDS: Final = "0034"

#: Asks for both numbers of the tables, on a new connection.
ASK: Final = "select (select max(version_num) from alembic_version), (select oldest_code from schema_serves)"


class SchemaError(Exception):
    """Code and tables don't fit; the words say what to run."""


def check(tables: str | None, oldest_code: str | None) -> None:
    """See that this code fits what was asked for; None where the tables are too old to say. Raises SchemaError."""
    if tables is None or oldest_code is None or tables < NEEDS:
        at = f"at {tables}" if tables else "older"
        raise SchemaError(f"the database's tables are {at}, and this version needs {NEEDS}: run `altiora migrate`")
    if oldest_code > CODE:
        raise SchemaError(
            f"the database's tables serve versions from {oldest_code} on, and this is {CODE}: start the newer version"
        )
