"""`altiora drifts`: differences that were found, what is proposed, and how a person resolves one."""

import json
from datetime import datetime
from typing import Annotated, Any

import typer
from sqlalchemy import Connection

from ops.commands.database import transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import business_clock
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes

app = typer.Typer(add_completion=False, no_args_is_help=True)

_DRIFTS = """
select id, kind, subject, business_id, expected, actual, evidence, repair, found_at
from drifts
where resolved_at is null
order by id
"""

_DRIFT = """
select id, kind, subject, business_id, expected, actual, evidence, repair, found_at, resolved_at, note
from drifts where id = %s
"""

_Id = Annotated[int, typer.Argument(metavar="ID")]


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
                "id": str(row["id"]),
                "found (UTC)": row["found_at"],
                "kind": row["kind"],
                "subject": row["subject"],
                "expected": row["expected"],
                "actual": row["actual"],
                "repair": row["repair"],
            }
            for row in rows
        ),
        nothing="No difference is open.",
    )


@app.command()
def show(drift_id: _Id, as_json: AsJson = False) -> None:
    """Show one difference with its evidence, and what is proposed to be done."""
    with transaction() as connection:
        row = _find(connection, drift_id)
    if as_json:
        print_json(row)
        return
    for name, value in row.items():
        if value is not None:
            words = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else shown(value)
            say(f"{name.replace('_', ' ')}: {words}")


@app.command()
def resolve(
    drift_id: _Id,
    note: Annotated[str, typer.Option("--note", help="What was found out and done; it is kept with the difference.")],
    carry: Annotated[
        bool, typer.Option("--carry", help="Of late-minutes: bill what is held in the open period, not write it off.")
    ] = False,
) -> None:
    """Resolve a difference by hand. One that a check finds again is opened again; held late minutes are written off."""
    now = business_clock().now()
    with transaction() as connection:
        row = _find(connection, drift_id)
        if row["resolved_at"] is not None:
            raise WrongError(f"difference {drift_id} was resolved on {shown(row['resolved_at'])} UTC already")
        if carry and row["kind"] != DriftKind.LATE_MINUTES:
            raise WrongError(f"difference {drift_id} is {row['kind']}: only late-minutes can be carried")
        if row["kind"] == DriftKind.LATE_MINUTES:
            lock_businesses(connection, [row["business_id"]])
            for held in late_minutes.held_minutes(connection, row["business_id"]):
                if f"record:{held.origin_record_id}" == row["subject"]:
                    _decide(connection, held, carry=carry, now=now, note=note)
        drifts.resolve(connection, row["kind"], row["subject"], now, note=note)
    say(f"Resolved difference {drift_id} ({row['kind']}, {row['subject']}).")


def _decide(connection: Connection, held: late_minutes.HeldMinutes, *, carry: bool, now: datetime, note: str) -> None:
    try:
        late_minutes.decide_held(connection, held, "carry" if carry else "write-off", now, note)
    except ValueError as error:
        raise WrongError(str(error)) from error


def _find(connection: Connection, drift_id: int) -> dict[str, Any]:
    row = connection.exec_driver_sql(_DRIFT, (drift_id,)).mappings().first()
    if row is None:
        raise WrongError(f"there is no difference {drift_id}; `altiora drifts list` shows those that are open")
    return dict(row)
