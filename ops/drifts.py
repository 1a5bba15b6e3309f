"""`altiora drifts`: differences that were found."""

import typer

from ops.database import transaction
from ops.output import AsJson, print_json, print_table

app = typer.Typer(add_completion=False, no_args_is_help=True)

_DRIFTS = """
select id, kind, subject, business_id, expected, actual, evidence, found_at
from drifts
where resolved_at is null
order by id
"""


@app.callback()
def _drifts() -> None:
    """Differences that were found, and are not resolved."""


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show the differences that are not resolved."""
    with transaction() as connection:
        rows = connection.exec_driver_sql(_DRIFTS).mappings().all()
    if as_json:
        print_json([dict(row) for row in rows])
        return
    print_table(
        (
            {
                "found (UTC)": row["found_at"],
                "kind": row["kind"],
                "subject": row["subject"],
                "expected": row["expected"],
                "actual": row["actual"],
            }
            for row in rows
        ),
        nothing="No difference is open.",
    )
