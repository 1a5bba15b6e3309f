"""`altiora audit`: who decided what, when and why; and how commands add to it."""

import getpass
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ops.commands.business_argument import find
from ops.commands.database import choose_settings, reading
from ops.commands.output import AsJson, Limit, print_json, print_table
from pipeline.reading.audit import list_entries
from pipeline.shared import trail

Reason = Annotated[str | None, typer.Option("--reason", help="Why; it is kept in the audit trail (altiora audit).")]


def record(
    connection: Connection,
    what: str,
    subject: str,
    *,
    business_id: int | None = None,
    reason: str | None = None,
    fields: Sequence[str] = (),
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Note that a person did this, in the transaction that does it."""
    trail.note(connection, trail.Entry(who_runs_it(), what, subject, business_id, reason, fields, detail or {}))


def who_runs_it() -> str:
    """The user of the system, and its name."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def audit(
    business: Annotated[
        str | None, typer.Option(help="Only of this business: its number, or a part of its name.")
    ] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show who decided what, when and why, the newest first: people by their commands, and the pipeline itself."""
    with reading(choose_settings()) as connection:
        business_id = None if business is None else find(connection, business)
        found = list_entries(connection, business_id, limit or (None if as_json else 50))
    if as_json:
        print_json(found)
        return
    print_table(
        (
            {
                "at (UTC)": each.at,
                "who": each.who,
                "what": each.what,
                "about": each.subject,
                "why": "; ".join(filter(None, (each.reason, ", ".join(each.fields)))),
            }
            for each in found
        ),
        nothing="Nothing has been decided yet.",
    )
