"""A process may die anywhere: it is stopped at each point in turn, and whoever comes next gets to the same state.

By enumeration: before and after each statement and before each commit of claim, apply, push, settle and close; at every
fifth of these points where it is not the soak. What dies says nothing more to the database, and its open transactions
are gone.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import Engine, event

from db.engine import make_engine
from pipeline.closing import period_close
from pipeline.meter import push_planning, push_sending
from tests.conftest import _database
from tests.worlds.breaking import breaks
from tests.worlds.ledger import EVENT_NAME, NOON, PERIOD_END, Ledger
from tests.worlds.stripe_customers import Customers
from tests.worlds.stripe_stand_in import Host
from tests.worlds.world import NUMBER_OF_F, World

GRACE = timedelta(hours=1)

#: All that is decided, without what tells of the way there: names at random, times, attempts, answers in words.
STATE = {
    "events": "select key, state, reason from webhook_events order by 1",
    "calls": "select sid, business_id, status, seconds, minutes, counted, counted_minutes from calls order by 1",
    "records": """
        select business_id, period_start, period_end, state, calls, seconds, minutes, adjustment_minutes,
               pushed_minutes, invoiced_minutes, invoice_id, statement is not null
        from usage_records order by 1, 2
    """,
    "carried": "select kind, minutes, call_sid from usage_adjustments order by 1, 2, 3",
    "pushes": "select business_id, minutes, timestamp, state from meter_pushes order by 1, 3, 4, 2",
    "differences": "select kind, subject, expected, actual, resolved_at is null from drifts order by 1, 2, 5",
    "alerts": """select business_id, kind, "limit" from usage_alerts order by 1, 2""",
    "fetches": "select kind, object_id, mark > fetched_mark from refreshes order by 1, 2",
    "trail": "select who, what, subject from audit_entries order by 1, 2, 3",
    "traces": "select count(*) from claims",
    "halts": "select work from halts",
}


class Died(BaseException):
    """The process is gone."""


@dataclass
class Death:
    """Stops whoever uses the engine at the ``at``th point; ``points`` counts how many there were."""

    engine: Engine
    at: int
    points: int = 0

    def __enter__(self) -> Self:
        for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.listen(self.engine, name, self._point)
        return self

    def __exit__(self, *_: object) -> None:
        for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
            event.remove(self.engine, name, self._point)
        self.engine.dispose()

    def _point(self, *_: object) -> None:
        self.points += 1
        if self.points > self.at:
            raise Died


@dataclass
class Scene:
    """Something to be done: ``work`` does it, once or as often as it takes."""

    engine: Engine
    work: Callable[[], object]
    stripe_has: Callable[[], object] = lambda: None
    time_passes: Callable[[], object] = lambda: None
    """Leases end, and waits."""

    def state(self) -> dict[str, Any]:
        with self.engine.connect() as connection:
            found = {name: list(map(tuple, connection.exec_driver_sql(sql))) for name, sql in STATE.items()}
        return found | {"Stripe": self.stripe_has()}


def claim_and_apply(engine: Engine, folder: Path, _: Host) -> Iterator[Scene]:
    """Events of two businesses, one that says too little, one of nobody, one of Stripe's."""
    world = World(engine, folder / "clock")
    world.store_all([world.body(f"call-{number}", CallDuration=100 * number) for number in range(4)])
    world.callback("of-f", To=NUMBER_OF_F)
    world.callback("of-nobody", To="+15558888888")
    world.callback("too-little", CallStatus="in-progress")
    world.stripe_event("evt_1", "customer.subscription.updated", {"id": "sub_1", "object": "subscription"}, world.now)

    def time_passes() -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("update webhook_events set due_at = now() where state = 'pending'")

    yield Scene(engine, world.drain, time_passes=time_passes)


def push(engine: Engine, folder: Path, host: Host) -> Iterator[Scene]:
    """Minutes of two businesses are planned and sent."""
    with host.fresh(folder) as stand_in:
        world = Customers(Ledger(engine), stand_in)
        records = [world.paying(minutes) for minutes in (7, 12)]

        def work() -> None:
            push_planning.plan_due_pushes(engine, EVENT_NAME, NOON)
            push_sending.send_due_pushes(engine, world.api, NOON)

        yield Scene(engine, work, lambda: list(map(world.summed, records)), world.ledger.make_due)


def close_and_settle(engine: Engine, _: Path, __: Host) -> Iterator[Scene]:
    """A period whose invoice lacks minutes, one whose invoice has too many, a free one, one with an unanswered push."""
    ledger = Ledger(engine)
    for sent, invoiced in ((5, 5), (9, 11)):
        record_id = ledger.paying(0)
        ledger.call(record_id, 9)
        ledger.run("update usage_records set calls = 1, seconds = 540, minutes = 9 where id = %s", record_id)
        ledger.sent(record_id, sent)
        ledger.following(record_id)
        ledger.invoice(record_id, minutes=invoiced, status="open")
    ledger.record(ledger.business("free"), 3, plan="free")
    asked = ledger.paying(4)
    ledger.push(asked, 4, NOON.replace(second=0), state="unknown", attempts=2, first_sent_at=NOON)
    ledger.invoice(asked, minutes=4, status="paid")
    yield Scene(engine, lambda: period_close.close_due(engine, PERIOD_END + 73 * GRACE))


@breaks(
    "pipeline/meter/push_states.py",
    "p.state in ('planned', 'sending') and p.due_at <=",
    "p.state = 'planned' and p.due_at <=",
)
@pytest.mark.parametrize("scene", [claim_and_apply, push, close_and_settle], ids=lambda scene: scene.__name__)
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_who_dies_anywhere_is_followed_by_somebody_who_gets_to_the_same_state(
    scene, step, servers, administration, template_database, tmp_path, host
):
    wanted: dict[str, Any] = {}
    last = 10**6
    points = 0
    at = last  # first without a death: that is the state to get to
    while at >= last or at < points:
        for url in _database(servers, administration, template_database):
            engine = make_engine(url)
            for its in scene(engine, tmp_path, host):
                with Death(engine, at) as death, contextlib.suppress(Died):
                    its.work()
                if at == last:
                    points = death.points
                for _ in range(4):
                    its.time_passes()
                    its.work()
                if at == last:
                    wanted = its.state()
                assert its.state() == wanted, f"after a death at point {at} of {points}"
            engine.dispose()
        at = 0 if at == last else at + step
    assert points > 30
