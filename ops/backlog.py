"""`altiora backlog` and `altiora close`: what waits, and doing what is due of it."""

from typing import Any

from ops.database import engine, transaction
from ops.output import AsJson, age, print_json, print_table, say
from pipeline import closing
from pipeline.backlog import Backlog
from pipeline.backlog import backlog as read_backlog
from pipeline.clock import business_clock


def backlog(as_json: AsJson = False) -> None:
    """Show what is stored and not done yet, and how old the oldest of each kind is."""
    with transaction() as connection:
        rows = read_backlog(connection, business_clock().now())
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


def close(as_json: AsJson = False) -> None:
    """Close the billing periods that are due, now and once; beat does it all the time."""
    with engine() as made:
        counts = closing.close_due(made, business_clock().now())
    done = {name: counts[name] for name in ("closing", "closed", "settled", "requested")}
    if as_json:
        print_json(done)
    else:
        say(
            f"{done['closing']} records began to close, {done['closed']} closed, {done['settled']} settled with their"
            f" invoice; {done['requested']} objects are to be fetched first."
        )
