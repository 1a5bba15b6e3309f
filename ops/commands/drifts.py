"""`altiora drifts`: differences that were found, what is proposed, and how a person resolves one."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Annotated, Literal

import typer
from sqlalchemy import Connection

from ops.commands.audit import record
from ops.commands.database import choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_blocks, print_json, say, shown
from pipeline.closing import invoice_settlement
from pipeline.credits import credit_requests
from pipeline.credits.credit_requests import CREDITABLE
from pipeline.reading.drifts import KeptDrift, open_drifts, read_drift
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import business_clock
from pipeline.shared.drifts import DriftKind
from pipeline.usage import late_minutes, waiting_minutes
from pipeline.usage.late_minutes import AdjustmentKind

app = typer.Typer(add_completion=False, no_args_is_help=True)

#: What a settlement gave up, by the difference that tells of it.
_GIVEN_UP: Mapping[str, Literal[AdjustmentKind.UNBILLABLE, AdjustmentKind.UNDER_BILLED]] = {
    DriftKind.LOST_USAGE: AdjustmentKind.UNBILLABLE,
    DriftKind.UNDER_BILLED: AdjustmentKind.UNDER_BILLED,
}

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
    now = business_clock(chosen).now()
    with transaction(chosen) as connection:
        drift = _find(connection, drift_id)
        if drift.resolved_at is not None:
            raise WrongError(f"difference {drift_id} was resolved on {shown(drift.resolved_at)} UTC already")
        if carry and credit:
            raise WrongError("--carry bills minutes, --credit gives money back: choose one")
        if credit and (drift.kind not in CREDITABLE or drift.business_id is None):
            raise WrongError(
                f"difference {drift_id} is {drift.kind}: only {', '.join(sorted(CREDITABLE))} can be credited"
            )
        if carry and not _can_be_carried(drift):
            raise WrongError(
                f"difference {drift_id} is {drift.kind} of {drift.subject}: only late-minutes, lost-usage and"
                " under-billed of a record can be carried"
            )
        if drift.business_id is not None:
            lock_businesses(connection, [drift.business_id])
            if credit:
                with _no_record():
                    credit_requests.request_credit(
                        connection,
                        drift.business_id,
                        drift.kind,
                        drift.subject,
                        drift.evidence,
                        note,
                        now,
                    )
            else:
                _follow(connection, drift, carry=carry, now=now, note=note)
        drifts.resolve_by_hand(connection, drift.id, now, note)
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


def _follow(connection: Connection, drift: KeptDrift, *, carry: bool, now: datetime, note: str) -> None:
    """What a person's word means for the minutes that the difference is about; the business's lock is held."""
    assert drift.business_id is not None
    record_id = int(drift.subject.split(":")[1]) if drift.subject.startswith("record:") else 0
    given_up = _GIVEN_UP.get(drift.kind)
    if carry and given_up is not None:
        told = drift.evidence.get("amount")
        with _no_record():
            late_minutes.charge_given_up(connection, record_id, given_up, told if isinstance(told, int) else None, now)
    elif drift.kind == DriftKind.LATE_MINUTES:
        for held in late_minutes.held_minutes(connection, drift.business_id):
            if f"record:{held.origin_record_id}" == drift.subject:
                with _no_record():
                    late_minutes.decide_held(connection, held, "carry" if carry else "write-off", now, note)
    elif drift.kind == DriftKind.UNBILLABLE:
        waiting_minutes.give_up_waiting(connection, drift.business_id, drift.subject)
    elif drift.kind in {DriftKind.UNUSABLE_INVOICE, DriftKind.NO_INVOICE}:
        invoice_settlement.give_up(connection, record_id, now)


def _can_be_carried(drift: KeptDrift) -> bool:
    """What a comparison of money says (``:carried``) has no minutes of its own."""
    of_record = drift.subject.count(":") == 1
    return drift.kind == DriftKind.LATE_MINUTES or (drift.kind in _GIVEN_UP and of_record)


@contextlib.contextmanager
def _no_record() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise WrongError(str(error)) from error


def _find(connection: Connection, drift_id: int) -> KeptDrift:
    drift = read_drift(connection, drift_id)
    if drift is None:
        raise WrongError(f"there is no difference {drift_id}; `altiora drifts list` shows those that are open")
    return drift
