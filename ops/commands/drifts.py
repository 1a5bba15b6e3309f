"""`altiora drifts`: differences that were found, what is proposed, and how a person resolves one."""

import dataclasses
import json
from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.audit import record
from ops.commands.database import choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_blocks, print_json, say, shown
from pipeline.closing import drift_decisions
from pipeline.closing.drift_decisions import DecisionError
from pipeline.reading.drifts import KeptDrift, open_drifts, read_drift
from pipeline.shared.clock import business_clock

app = typer.Typer(add_completion=False, no_args_is_help=True)

_Id = Annotated[int, typer.Argument(metavar="ID")]


@app.callback()
def _drifts() -> None:
    """Differences that were found, and are not resolved."""


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show the differences that are not resolved."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        found = open_drifts(connection)
    if as_json:
        print_json(found)
        return
    print_blocks(
        (
            (
                f"{each.id}  {each.kind}  {each.subject}",
                {
                    "business": each.business_id,
                    "found": f"{shown(each.found_at)} UTC",
                    "expected": each.expected,
                    "actual": each.actual,
                    "repair": each.repair,
                },
            )
            for each in found
        ),
        nothing="No difference is open.",
    )


@app.command()
def show(drift_id: _Id, as_json: AsJson = False) -> None:
    """Show one difference with its evidence, and what is proposed to be done."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        drift = _find(connection, drift_id)
    if as_json:
        print_json(drift)
        return
    for field in dataclasses.fields(drift):
        value = getattr(drift, field.name)
        if value is not None:
            words = json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else shown(value)
            say(f"{field.name.replace('_', ' ')}: {words}")


@app.command()
def resolve(
    drift_id: _Id,
    note: Annotated[str, typer.Option("--note", help="What was found out and done; it is kept with the difference.")],
    carry: Annotated[
        bool,
        typer.Option(
            "--carry",
            help="Of late-minutes, lost-usage, under-billed: bill the minutes in the open period, not write them off.",
        ),
    ] = False,
    credit: Annotated[
        bool,
        typer.Option(
            "--credit",
            help="Of credit-due, over-billed, and unbillable corrections: give the amount back at Stripe, by a credit"
            " note or on the customer's balance.",
        ),
    ] = False,
) -> None:
    """Resolve a difference by hand; held late minutes, and those that no invoice bills, are written off so.

    One that a check finds again is opened again.
    """
    chosen = choose_settings()
    with transaction(chosen) as connection:
        drift = _find(connection, drift_id)
        try:
            drift_decisions.decide(connection, drift, business_clock(chosen).now(), note, carry=carry, credit=credit)
        except DecisionError as error:
            raise WrongError(str(error)) from error
        how = "drifts resolve" + (" --carry" if carry else " --credit" if credit else "")
        record(
            connection,
            how,
            f"drift:{drift.id}",
            business_id=drift.business_id,
            reason=note,
            detail={"kind": drift.kind, "subject": drift.subject},
        )
    say(f"Resolved difference {drift_id} ({drift.kind}, {drift.subject}).")


def _find(connection: Connection, drift_id: int) -> KeptDrift:
    drift = read_drift(connection, drift_id)
    if drift is None:
        raise WrongError(f"there is no difference {drift_id}; `altiora drifts list` shows those that are open")
    return drift
