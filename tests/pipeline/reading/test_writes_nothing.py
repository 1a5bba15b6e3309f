"""Whatever people and programs are shown is read: no function of `pipeline/reading` can write, or holds a lock."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

import pipeline.reading
from pipeline.reading import statement_check
from tests.worlds.ledger import Ledger
from tests.worlds.world import World, at

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
    world.drain()
    world.stripe_event("evt_1", "price.created", {"id": "price_x"}, at("20 Nov 12:00"))
    ledger = Ledger(engine)
    (record,) = world.rows("select id from usage_records where business_id = %s", world.b)
    ledger.run("update usage_records set state = 'closed', closed_at = now(), statement = '{\"calls_sha256\": \"x\"}'")
    about: dict[str, Any] = {
        "business_id": world.b,
        "record_id": record.id,
        "record": type("Record", (), {"id": record.id, "business_id": world.b, "increment_seconds": 60}),
        "now": world.now,
        "since": at("1 Nov 0:00"),
        "named": "B",
        "subscription_id": 1,
        "subscription": None,
        "invoice": None,
        "event_id": 1,
        "event_ids": [1],
        "push_id": 1,
        "drift_id": 1,
        "plan": "starter",
        "reason": "unknown-number",
        "state": None,
        "limit": 10,
        "counted": True,
        "threshold": 1,
        "time_zone": "UTC",
        "bill_child_legs": False,
        "frozen": "x",
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
    read(FUNCTIONS[name])


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
