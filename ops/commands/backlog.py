"""`altiora backlog`: what is stored and not done yet."""

from typing import Any

from ops.commands.database import choose_settings, reading
from ops.commands.output import AsJson, age, print_json, print_table
from pipeline.reading.backlog import Backlog
from pipeline.reading.backlog import backlog as read_backlog
from pipeline.shared.clock import business_clock


def backlog(as_json: AsJson = False) -> None:
    """Show what is stored and not done yet, and how old the oldest of each kind is."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        rows = read_backlog(connection, business_clock(chosen).now())
    if as_json:
        print_json([{"kind": row.kind, "count": row.count, "oldest_seconds": row.oldest_seconds} for row in rows])
    else:
        print_table([_row(row) for row in rows], numbers=["count"])


def _row(row: Backlog) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "count": row.count,
        "oldest": age(row.oldest_seconds),
        "": "too old" if row.overdue else "",
    }
