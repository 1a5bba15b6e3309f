"""Whatever people and programs are shown is read: no function of `pipeline/reading` can write, or holds a lock."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb

import pipeline.reading
from pipeline.calls.transcripts import Message, Speaker, append_messages
from pipeline.reading import statement_check
from pipeline.reading.calls import CallFilter
from pipeline.reading.usage_breakdown import By
from pipeline.shared import drifts, trail
from pipeline.shared.rows import NEWEST_INSTANT
from tests.worlds.ledger import Ledger
from tests.worlds.world import NUMBER_OF_B, World, at, sid_of

FUNCTIONS: dict[str, Callable[..., Any]] = {
    f"{module.name}.{name}": function
    for module in pkgutil.iter_modules(pipeline.reading.__path__)
    for name, function in vars(importlib.import_module(f"pipeline.reading.{module.name}")).items()
    if inspect.isfunction(function)
    and function.__module__ == f"pipeline.reading.{module.name}"
    and not name.startswith("_")
    and "connection" in inspect.signature(function).parameters
}


@pytest.fixture
def read(engine, tmp_path):
    """A function that calls one of ``FUNCTIONS`` about a closed record, in a transaction that can't write."""
    world = World(engine, tmp_path / "clock")
    world.callback()
    world.callback("late", ended=world.now - timedelta(hours=1))
    world.callback("busy", CallStatus="busy")
    world.drain()
    ledger = Ledger(engine)
    (record,) = world.rows("select id, subscription_id from usage_records where business_id = %s", world.b)
    ledger.run("update usage_records set state = 'closed', closed_at = now(), statement = '{\"minutes\": 2}'")
    ledger.run(
        "update calls set counted = false, counted_seconds = 0, counted_minutes = 0 where sid = %s", sid_of("late")
    )
    ledger.run("update subscriptions set pause_collection = '{}'")
    ledger.run("insert into stripe_customers (id, balance, snapshot_at) values ('cus_1', 5, now())")
    ledger.run("insert into former_customers values ('cus_1', %s, now())", world.b)
    ledger.invoice(
        record.id,
        charges=Jsonb([{"for": "x", "price": "p", "quantity": "1", "amount": 1, "proration": False}]),
        credit_notes=Jsonb([{"id": "cn_1", "number": "N1", "total": 1, "minutes": 1, "credit": None}]),
    )
    ledger.run("update usage_records set tiers = '[[null, \"1\", \"0\"]]', currency = 'usd'")
    ledger.push(record.id, 2, at("20 Nov 12:00"), state="failed")
    ledger.insert(
        "usage_adjustments",
        business_id=world.b,
        kind="carried",
        usage_record_id=record.id,
        origin_record_id=record.id,
        call_sid=sid_of("late"),
        minutes=1,
        created_at=world.now,
    )
    plan = ledger.one("select plan_id from usage_records where id = %s", record.id)
    alert = {"business_id": world.b, "kind": "minutes-80", "usage_record_id": record.id, "plan_id": plan}
    ledger.insert("usage_alerts", **alert, **{"value": 1, '"limit"': 1}, raised_at=world.now)
    ledger.insert(
        "subscription_changes",
        business_id=world.b,
        subscription_id=record.subscription_id,
        kind="keep",
        params="{}",
        identifier="c1",
        reason="a test",
        created_at=world.now,
    )
    ledger.insert(
        "service_transitions",
        business_id=world.b,
        from_status="active",
        to_status="grace",
        rule="payment-failed",
        cause="a test",
        at=world.now,
    )
    with engine.begin() as connection:
        kind, subject = drifts.DriftKind.NO_INVOICE, f"record:{record.id}"
        drifts.report(connection, kind, subject, business_id=world.b, expected="a", actual="b", now=world.now)
        trail.note(connection, trail.Entry("a test", "closed", f"record:{record.id}", world.b))
    agent_id = ledger.insert("ai_agents", business_id=world.b, name="Ada")
    knows = {"agent_id": agent_id, "business_id": world.b}
    entry_id = ledger.insert("agent_knowledge", **knows, question="a", answer="b")
    ledger.insert("agent_scripts", **knows, name="ordering", flow="{}")
    with engine.begin() as connection:
        connection.exec_driver_sql("update phone_numbers set agent_id = %s where business_id = %s", (agent_id, world.b))
        connection.exec_driver_sql("insert into phone_numbers (number) values ('+15550000009')")
        connection.exec_driver_sql(
            "insert into phone_numbers (number, twilio_sid, free_from) values ('+15550000010', 'PN1', '2026-11-01')"
        )
        connection.exec_driver_sql(
            "insert into phone_number_assignments (number, business_id, held)"
            " values ('+15550000009', %s, '[2026-01-01, 2026-01-02)')",
            (world.b,),
        )
    first = Message(0, Speaker.AGENT, "Hello.", None, None)
    with engine.begin() as connection:
        append_messages(connection, sid_of("late"), [first])
    world.callback("of-nobody", To="+15550000009")
    world.drain()
    dead = ledger.one("select reason from webhook_events where state = 'dead'")
    about: dict[str, Any] = {
        "business_id": world.b,
        "record_id": record.id,
        "record_ids": [record.id],
        "start": at("1 Nov 0:00"),
        "end": at("1 Dec 0:00"),
        "record": type("Record", (), {"id": record.id, "business_id": world.b, "increment_seconds": 60}),
        "now": world.now,
        "since": at("1 Nov 0:00"),
        "named": "B",
        "customer": "cus_1",
        "subscription_id": record.subscription_id,
        "subscription": None,
        "invoice": None,
        "event_id": 1,
        "number": "+15550000009",
        "event_ids": [1],
        "push_id": 1,
        "drift_id": 1,
        "plan": "starter",
        "reason": dead,
        "state": None,
        "limit": 10,
        "ids": [world.b],
        "before": 2**63 - 1,
        "counted": True,
        "threshold": 1,
        "time_zone": "UTC",
        "bill_child_legs": False,
        "frozen": "x",
        "agent_id": agent_id,
        "entry_id": entry_id,
        "name": "ordering",
        "dialled": NUMBER_OF_B,
        "which": CallFilter(),
        "began_before": NEWEST_INSTANT,
        "sid": sid_of("late"),
        "status": None,
        "by": By.DAY,
        "q": "",
        "until": at("1 Dec 0:00"),
        "made_before": NEWEST_INSTANT,
        "invoice_id": ledger.one("select id from stripe_invoices"),
    }
    about["record"].period_start, about["record"].period_end = at("1 Nov 0:00"), at("1 Dec 0:00")
    about["record"].time_zone, about["record"].provisional = "UTC", False

    def read(function: Callable[..., Any]) -> Any:
        wanted = [name for name, each in inspect.signature(function).parameters.items() if each.default is each.empty]
        with engine.connect() as connection:
            connection.execution_options(postgresql_readonly=True)
            answer = function(connection=connection, **{name: about[name] for name in wanted if name != "connection"})
            assert connection.exec_driver_sql("select pg_current_xact_id_if_assigned()").scalar_one() is None
        return answer

    return read


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_a_read_only_transaction_it_answers(read, name):
    """With rows in each list that it shows: an empty one is made of any query, and shows no field."""
    answer = read(FUNCTIONS[name])
    assert answer is not None
    assert list(_empty(answer, name)) == []


def _empty(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, list | set | tuple) and not value:
        yield name
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _empty(getattr(value, field.name), f"{name}.{field.name}")


def test_what_is_read_is_typed():
    """Frozen dataclasses, not rows or dictionaries."""
    untyped = [
        f"{name}: {parameter}"
        for name, function in FUNCTIONS.items()
        for parameter, annotation in function.__annotations__.items()
        if "Any" in str(annotation) or (parameter == "return" and "dict[" in str(annotation))
    ]
    assert untyped == []
    assert statement_check.read_statement in FUNCTIONS.values()
