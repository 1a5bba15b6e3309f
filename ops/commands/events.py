"""`altiora events`: what was stored, how it ended, and applying it again."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.audit import record, who_runs_it
from ops.commands.business_argument import find
from ops.commands.database import choose_settings, engine, reading, transaction
from ops.commands.output import AsJson, Limit, WrongError, print_json, print_table, say, shown
from pipeline.events import queue
from pipeline.events.outcomes import EventState
from pipeline.reading.events import ended_events, known_events, list_events, read_event
from pipeline.shared.settings import BrokerSettings, load

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="What was stored: show events, and apply them again."
)

#: Rows that one transaction sends back into the queue: few enough for no worker to wait long.
_BATCH = 5_000


class Ended(StrEnum):
    """The states that events are replayed from as a whole; single ones may be processed too."""

    IGNORED = EventState.IGNORED
    DEAD = EventState.DEAD


@app.command("list")
def list_(
    state: Annotated[EventState | None, typer.Option(help="Only those in this state.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those that ended, or wait, for this reason.")] = None,
    call: Annotated[str | None, typer.Option(metavar="SID", help="Only those of this call, CA…")] = None,
    business: Annotated[
        str | None, typer.Option(help="Only those of its calls and numbers: its number, or a part of its name.")
    ] = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Show stored events, the newest first."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        business_id = None if business is None else find(connection, business)
        found = list_events(
            connection,
            state,
            limit or (None if as_json else 50),
            reason=reason,
            call=call,
            business_id=business_id,
        )
    if as_json:
        print_json(found)
        return
    print_table(
        (
            {
                "id": str(each.id),
                "received (UTC)": each.received_at,
                "type": each.type or each.provider,
                "state": each.state,
                "reason": each.reason,
                "tries": each.attempts,
            }
            for each in found
        ),
        numbers=["id", "tries"],
        nothing="No such event is stored.",
    )


@app.command()
def show(event_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Show one event with what it said."""
    chosen = choose_settings()
    with reading(chosen) as connection:
        event = read_event(connection, event_id)
    if event is None:
        raise WrongError(f"there is no event {event_id}; `altiora events list` shows the newest")
    told = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)} | {"body": event.said}
    if as_json:
        print_json(told)
        return
    body = told.pop("body")
    told["id"] = str(event.id)
    for name, value in told.items():
        say(f"{name.replace('_', ' '):14}{shown(value)}")
    say("\n" + (body if isinstance(body, str) else json.dumps(body, indent=2)))


@app.command()
def replay(
    event_ids: Annotated[list[int] | None, typer.Argument(metavar="ID")] = None,
    reason: Annotated[
        str | None, typer.Option(help="All that ended for this reason, as unknown-number or 'unknown-number +1555…'.")
    ] = None,
    state: Annotated[Ended | None, typer.Option(help="All that ended so.")] = None,
    as_json: AsJson = False,
) -> None:
    """Let ended events be applied again. Whatever they did already is not done twice."""
    if bool(event_ids) == bool(reason or state):
        raise typer.BadParameter("say which events: their ids, or --reason, or --state dead")
    chosen = choose_settings()
    with engine(chosen) as made:
        broker_url = load(BrokerSettings, chosen).broker_url.get_secret_value()
        with made.connect() as connection:
            ended = _known(connection, event_ids) if event_ids else ended_events(connection, reason, state)
        replayed = 0
        for begin in range(0, len(ended), _BATCH):
            with made.begin() as connection:
                done = queue.replay(connection, ended[begin : begin + _BATCH])
                queue.note_replayed(connection, who_runs_it(), "events replay", done)
                replayed += len(done)
    if replayed:
        nudge(broker_url)
    if as_json:
        print_json({"replayed": replayed})
    else:
        say(f"Events that will be applied again: {replayed:,}")


@app.command()
def dismiss(
    event_id: Annotated[int, typer.Argument(metavar="ID")],
    reason: Annotated[str, typer.Option(help="Why nothing is lost by it; it is kept with the event.")],
) -> None:
    """Be done with a dead event that nobody needs; a replay undoes it."""
    chosen = choose_settings()
    with transaction(chosen) as connection:
        if not queue.dismiss(connection, event_id):
            raise WrongError(f"there is no dead event {event_id}; `altiora events list --state dead` shows them")
        record(connection, "events dismiss", f"event:{event_id}", reason=reason)
    say(f"Event {event_id} is done with.")


def _known(connection: Connection, event_ids: Sequence[int]) -> list[int]:
    known = known_events(connection, event_ids)
    unknown = [str(event_id) for event_id in event_ids if event_id not in known]
    if unknown:
        raise WrongError(f"there is no event {', '.join(unknown)}; nothing was replayed")
    return sorted(known)


def nudge(broker_url: str) -> None:
    """Have the workers look now at what is to be applied again."""
    from pipeline.shared import logs  # noqa: PLC0415 - what logs and what sends is slow to load, and only this needs it
    from tasks.nudge import Nudge  # noqa: PLC0415 - as above

    logs.configure(logging.WARNING)
    nudge = Nudge(broker_url)
    nudge.send("events.drain")
    nudge.close()
