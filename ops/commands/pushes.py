"""`altiora pushes`: what Stripe is told, and what it refused."""

from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.audit import Reason, record
from ops.commands.database import choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say
from pipeline.meter import push_planning
from pipeline.meter.push_states import PushVerdict
from pipeline.reading.pushes import business_of_push, unsettled_pushes
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.clock import business_clock

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Meter pushes: what Stripe is told, and what it refused."
)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show the meter pushes that are not settled, and those that Stripe refused."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        found = unsettled_pushes(connection)
    if as_json:
        print_json(found)
        return
    print_table(
        (
            {
                "id": str(each.id),
                "business": each.business,
                "minutes": each.minutes,
                "for (UTC)": each.timestamp,
                "state": each.state,
                "tries": each.attempts,
                "answer": each.answer,
            }
            for each in found
        ),
        numbers=["id", "minutes", "tries"],
        nothing="Every meter push is settled.",
    )


@app.command()
def settle(
    push_id: Annotated[int, typer.Argument(metavar="ID")],
    verdict: Annotated[PushVerdict, typer.Argument(help="sent: Stripe has it; void: it has not.")],
    reason: Reason = None,
) -> None:
    """Say what became of a push of unknown outcome, where neither Stripe's sum nor the invoice can tell."""
    chosen = choose_settings()
    with transaction(chosen) as connection:
        _lock(connection, push_id)
        try:
            push_planning.settle_unknown(connection, push_id, verdict, business_clock(chosen).now())
        except ValueError as error:
            raise WrongError(str(error)) from error
        _record(connection, f"pushes settle {verdict}", push_id, reason)
    after = "it counts as pushed" if verdict is PushVerdict.SENT else "its minutes are planned anew within a minute"
    say(f"Meter push {push_id} is {verdict}: {after}.")


@app.command()
def release(push_id: Annotated[int, typer.Argument(metavar="ID")], reason: Reason = None) -> None:
    """Let the minutes of a push that Stripe refused be sent anew, once its cause is repaired."""
    chosen = choose_settings()
    with transaction(chosen) as connection:
        _lock(connection, push_id)
        try:
            push_planning.release_refused(connection, push_id, business_clock(chosen).now())
        except ValueError as error:
            raise WrongError(str(error)) from error
        _record(connection, "pushes release", push_id, reason)
    say(f"Released meter push {push_id}: its minutes are planned anew within a minute.")


def _record(connection: Connection, what: str, push_id: int, reason: str | None) -> None:
    business_id = business_of_push(connection, push_id)
    record(connection, what, f"push:{push_id}", business_id=business_id, reason=reason)


def _lock(connection: Connection, push_id: int) -> None:
    business_id = business_of_push(connection, push_id)
    if business_id is None:
        raise WrongError(f"there is no meter push {push_id}; `altiora pushes list` shows them")
    lock_businesses(connection, [business_id])
