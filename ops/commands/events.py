"""`altiora events`: what was stored, how it ended, and applying it again."""

import json
import logging
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import parse_qsl

import typer
from sqlalchemy import Connection

from ops.commands.database import engine, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown
from pipeline.events import queue
from pipeline.shared.settings import BrokerSettings, load

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="What was stored: show events, and apply them again."
)

#: Rows that one transaction sends back into the queue: few enough for no worker to wait long.
_BATCH = 5_000


class State(StrEnum):
    """The states of webhook_events."""

    PENDING = "pending"
    PROCESSED = "processed"
    IGNORED = "ignored"
    DEAD = "dead"


class Ended(StrEnum):
    """The states that events are replayed from as a whole; single ones may be processed too."""

    IGNORED = "ignored"
    DEAD = "dead"


_LIST = """
select id, provider, key, type, state, reason, attempts, received_at
from webhook_events
where %(state)s::text is null or state = %(state)s
order by id desc
limit %(limit)s
"""

_SHOW = """
select id, provider, key, type, state, reason, attempts, received_at, stored_at, due_at, processed_at, recovered,
       content_type, body
from webhook_events
where id = %s
"""

# A reason's first word says what, the rest which one: "unknown-number" finds "unknown-number +15550000009" too.
_ENDED = """
select id from webhook_events
where state in ('ignored', 'dead')
  and (%(state)s::text is null or state = %(state)s)
  and (%(reason)s::text is null or reason = %(reason)s or starts_with(reason, %(reason)s || ' '))
order by id
"""

_KNOWN = "select id from webhook_events where id = any(%s::bigint[])"


@app.command("list")
def list_(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="At most so many, the newest; 50 in a table, all of them as JSON.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show stored events, the newest first."""
    with transaction() as connection:
        most = limit or (None if as_json else 50)
        rows = connection.exec_driver_sql(_LIST, {"state": state, "limit": most}).mappings().all()
    if as_json:
        print_json([dict(row) for row in rows])
        return
    print_table(
        (
            {
                "id": str(row["id"]),
                "received (UTC)": row["received_at"],
                "type": row["type"] or row["provider"],
                "state": row["state"],
                "reason": row["reason"],
                "tries": row["attempts"],
            }
            for row in rows
        ),
        numbers=["id", "tries"],
        nothing="No such event is stored.",
    )


@app.command()
def show(event_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Show one event with what it said."""
    with transaction() as connection:
        row = connection.exec_driver_sql(_SHOW, (event_id,)).mappings().first()
    if row is None:
        raise WrongError(f"there is no event {event_id}; `altiora events list` shows the newest")
    event = dict(row)
    event["body"] = _decoded(event["content_type"], event["body"])
    if as_json:
        print_json(event)
        return
    body = event.pop("body")
    event["id"] = str(event["id"])
    for name, value in event.items():
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
    with engine() as made:
        broker_url = load(BrokerSettings).broker_url.get_secret_value()
        with made.connect() as connection:
            chosen = _known(connection, event_ids) if event_ids else _ended(connection, reason, state)
        replayed = 0
        for begin in range(0, len(chosen), _BATCH):
            with made.begin() as connection:
                replayed += queue.replay(connection, chosen[begin : begin + _BATCH])
    if replayed:
        nudge(broker_url)
    if as_json:
        print_json({"replayed": replayed})
    else:
        say(f"Events that will be applied again: {replayed:,}")


def _known(connection: Connection, event_ids: Sequence[int]) -> list[int]:
    known = set(connection.exec_driver_sql(_KNOWN, (list(event_ids),)).scalars())
    unknown = [str(event_id) for event_id in event_ids if event_id not in known]
    if unknown:
        raise WrongError(f"there is no event {', '.join(unknown)}; nothing was replayed")
    return sorted(known)


def _ended(connection: Connection, reason: str | None, state: Ended | None) -> list[int]:
    return list(connection.exec_driver_sql(_ENDED, {"reason": reason, "state": state}).scalars())


def nudge(broker_url: str) -> None:
    """Have the workers look now at what is to be applied again."""
    from pipeline.shared import logs  # noqa: PLC0415 - what logs and what sends is slow to load, and only this needs it
    from tasks.nudge import Nudge  # noqa: PLC0415 - as above

    logs.configure(logging.WARNING)
    nudge = Nudge(broker_url)
    nudge.send("events.drain")
    nudge.close()


def _decoded(content_type: str, body: bytes) -> Any:
    """A stored body as people read it; bytes that are no UTF-8 as escapes."""
    text = body.decode("utf-8", "backslashreplace")
    if content_type.startswith("application/json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    params: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        params[name] = [*params[name], value] if name in params else [value]
    return {name: values[0] if len(values) == 1 else values for name, values in params.items()}
