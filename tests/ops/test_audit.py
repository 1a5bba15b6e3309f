"""The audit trail: whoever decides something leaves an entry, in the same transaction, and nobody changes one."""

import getpass
import inspect
import socket

import pytest
from sqlalchemy.exc import DBAPIError
from typer.main import get_command

from ops.cli import app
from pipeline.businesses import service_status
from pipeline.businesses.service_rules import Matter
from pipeline.events import queue
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from tests.worlds.breaking import breaks
from tests.worlds.superuser import run_as_superuser
from tests.worlds.world import World, at

ME = f"{getpass.getuser()}@{socket.gethostname()}"

#: Commands that only look, or that run until they are told to stop.
LOOKS = {
    *("audit", "backlog", "doctor", "explain", "statement", "usage", "business list", "business show"),
    *("drifts list", "drifts show", "events list", "events show", "plans list", "pushes list", "subscription show"),
    *("user list", "key list"),
    *("receiver", "api", "worker", "beat", "flower", "sandbox", "demo", "up"),
}
#: What the deployment does, or beat does all the time: nobody decides anything.
ROUTINE = {"migrate", "seed", "close"}


@pytest.fixture
def world(engine, tmp_path, altiora):
    return World(engine, tmp_path / "clock")


def entries(world):
    return world.rows("select who, what, subject, business_id, reason, fields, detail from audit_entries order by id")


def _commands(command, name=""):
    context = command.make_context("altiora", [], resilient_parsing=True)
    for each in command.list_commands(context):
        found = command.get_command(context, each)
        if hasattr(found, "list_commands"):
            yield from _commands(found, f"{each} ")
        else:
            yield f"{name}{each}", found


def test_every_command_that_writes_leaves_an_entry():
    writing = {name: command for name, command in _commands(get_command(app)) if name not in LOOKS | ROUTINE}
    assert len(writing) > 12
    for name, command in writing.items():
        module = inspect.getmodule(inspect.unwrap(command.callback))
        assert module is not None
        source = inspect.getsource(module)
        assert "record(" in source or "note_replayed(" in source, name


def test_who_did_what_and_why(altiora, world):
    altiora("business", "add", "Florist", "--plan", "free", "--time-zone", "UTC")
    altiora("business", "add-number", "Florist", "+15550000042")
    altiora("plans", "set", "starter", "--price-cents", "5900", "--agents", "4", "--reason", "new list of 2027")
    with world.engine.begin() as connection:
        drifts.report(
            connection,
            DriftKind.UNKNOWN_PUSH,
            "push:1",
            business_id=world.b,
            expected="x",
            actual="y",
            evidence={},
            now=at("20 Nov 12:00"),
        )
    altiora("drifts", "resolve", "1", "--note", "asked Stripe")
    told = entries(world)
    assert {row[0] for row in told} == {ME}
    florist = told[0][3]
    assert [row[1:6] for row in told] == [
        ("business add", f"business:{florist}", florist, None, []),
        ("business add-number", f"business:{florist}", florist, None, []),
        ("plans set", "plan:starter", None, "new list of 2027", ["price_cents", "agents"]),
        ("drifts resolve", "drift:1", world.b, "asked Stripe", []),
    ]
    assert "Florist" not in str([row[6] for row in told])
    shown = altiora("audit")
    assert "plans set" in shown
    assert "new list of 2027" in shown
    assert [each["what"] for each in altiora.json("audit", "--business", "Florist")] == [
        "business add-number",
        "business add",
    ]


def test_a_command_that_is_refused_leaves_none(altiora, world):
    altiora("plans", "set", "nobody", "--price-cents", "1", status=1)
    altiora("business", "add", "Bakery", "--plan", "gold", "--time-zone", "UTC", status=1)
    assert entries(world) == []


def test_a_replay_keeps_how_the_events_had_ended(altiora, world):
    key = world.callback("lost", To="+15559998877")
    world.drain()
    assert world.event(key) == ("dead", "unknown-number +15559998877")
    altiora("events", "replay", "--state", "dead")
    ((who, what, subject, _, reason, _, detail),) = entries(world)
    assert (who, what, reason) == (ME, "events replay", "unknown-number +15559998877")
    assert detail == {"state": "dead", "attempts": 0}
    assert subject.startswith("event:")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set state = 'dead', reason = 'failed: X', attempts = 3")
        connection.exec_driver_sql("insert into resent_events (event_id) select id from webhook_events")
        assert queue.revive_resent(connection) == 1
    assert entries(world)[-1][:2] == ("stripe", "resend")
    assert entries(world)[-1][-1] == {"state": "dead", "attempts": 3}


@breaks("pipeline/businesses/service_status.py", "    if ServiceStatus.SUSPENDED in {", "    if None in {")
def test_what_the_pipeline_decides_by_itself_is_there_too(altiora, world):
    causes = {world.b: {(Matter.SUBSCRIPTION, "sub_1"): "subscription sub_1 is unpaid"}}
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscriptions set status = 'unpaid'")
        lock_businesses(connection, [world.b])
        service_status.settle_service(connection, causes, at("20 Nov 12:00"))
    told = [row[:3] for row in entries(world)]
    assert told == [("pipeline", "suspended", f"business:{world.b}")]


@pytest.mark.parametrize("change", ["update audit_entries set reason = 'other'", "delete from audit_entries"])
def test_an_entry_stays_as_it_is(altiora, world, change):
    altiora("plans", "retire", "enterprise")
    with pytest.raises(DBAPIError, match="stays as it is"):
        run_as_superuser(world.engine, change)
