"""The ways out of a change's states: each leaves the states that it may leave, and touches no other change."""

import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from psycopg.types.json import Jsonb
from sqlalchemy import Connection

from ops.processes.repository import REPOSITORY
from pipeline.providers.outbox_sender import Retry
from pipeline.subscription_changes import change_states
from pipeline.subscription_changes.change_requests import AFTER_LAST_PUSH, CHANGE_BEHAVIOURS, ChangeKind
from pipeline.subscription_changes.change_states import Change, ChangeState
from tests.worlds.ledger import MINUTE_OF_NOON, NOON, Ledger

LEASE = 120.0
UNSETTLED = {ChangeState.PLANNED, ChangeState.SENDING}


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def change_in(ledger: Ledger, state: ChangeState, kind: ChangeKind = ChangeKind.KEEP, **columns: Any) -> int:
    """A change of a business of its own unless told, tried once unless it is planned; not due."""
    if "business_id" not in columns:
        columns["business_id"] = ledger.business()
        columns["subscription_id"] = ledger.subscription(columns["business_id"])
    given = {
        "kind": kind.value,
        "params": Jsonb({}),
        "state": state.value,
        "identifier": f"change-{ledger.one('select count(*) from subscription_changes')}",
        "reason": "a test",
        "created_at": NOON,
        "attempts": int(state is not ChangeState.PLANNED),
        "due_at": ledger.one("select clock_timestamp() + interval '1 hour'"),
        "answer": "of before",
    }
    return ledger.insert("subscription_changes", **given | columns)


def row_of(ledger: Ledger, change_id: int) -> Any:
    return ledger.row("subscription_changes", change_id)


def as_claimed(ledger: Ledger, change_id: int) -> Change:
    """The change as whoever claimed it last has it."""
    row = row_of(ledger, change_id)
    return Change(
        id=row.id,
        business_id=row.business_id,
        stripe_id="sub_1",
        kind=ChangeKind(row.kind),
        params=row.params,
        identifier=row.identifier,
        attempts=row.attempts,
        server_errors=row.server_errors,
    )


def take(ledger: Ledger, limit: int = 50) -> list[Change]:
    with ledger.engine.begin() as connection:
        return change_states.take_due_changes(connection, NOON, limit=limit, lease_seconds=LEASE)


def again(connection: Connection, change: Change, *, given_back: bool = False, server_error: bool = False) -> None:
    change_states.plan_again(connection, change, Retry("sorry", 1.0, given_back, server_error))


#: Each way: how it is gone, the states that it may leave, and the state that it leads to.
WAYS: dict[str, tuple[Callable[[Connection, Change], None], set[ChangeState], ChangeState]] = {
    "end_change, done": (
        lambda c, change: change_states.end_change(c, change.id, ChangeState.DONE, "yes"),
        UNSETTLED,
        ChangeState.DONE,
    ),
    "end_change, failed": (
        lambda c, change: change_states.end_change(c, change.id, ChangeState.FAILED, "no"),
        UNSETTLED,
        ChangeState.FAILED,
    ),
    "plan_again": (again, {ChangeState.SENDING}, ChangeState.PLANNED),
    "set_recognised": (
        lambda c, change: change_states.set_recognised(c, [change.identifier]),
        UNSETTLED,
        ChangeState.DONE,
    ),
}


@pytest.mark.parametrize("state", ChangeState)
@pytest.mark.parametrize("way", WAYS)
def test_a_way_leaves_only_the_states_that_it_may_leave_and_no_other_change(ledger, way, state):
    go, leaves, leads_to = WAYS[way]
    change_id, other = change_in(ledger, state), change_in(ledger, state)
    before, beside = row_of(ledger, change_id), row_of(ledger, other)
    with ledger.engine.begin() as connection:
        go(connection, as_claimed(ledger, change_id))
    after = row_of(ledger, change_id)
    if state in leaves:
        assert after.state == leads_to
        assert (after.settled_at is not None) == (leads_to in {"done", "failed"})
    else:
        assert after == before
    assert row_of(ledger, other) == beside


# Claims


@pytest.mark.parametrize("state", ChangeState)
def test_only_what_is_due_and_open_is_claimed_and_its_lease_keeps_others_off(ledger, state):
    change_id = change_in(ledger, state)
    assert take(ledger) == [], "not due, or leased"
    ledger.run("update subscription_changes set due_at = clock_timestamp() - interval '1 second'")
    taken = take(ledger)
    assert [change.id for change in taken] == ([change_id] if state in UNSETTLED else [])
    assert take(ledger) == []
    if taken:
        row = row_of(ledger, change_id)
        assert (row.state, row.attempts) == ("sending", 1 if state is ChangeState.PLANNED else 2)
        assert timedelta(seconds=LEASE - 20) < row.due_at - ledger.one("select clock_timestamp()")


def test_of_a_subscription_only_the_first_is_claimed_also_while_it_is_being_sent(ledger):
    first = change_in(ledger, ChangeState.PLANNED)
    row = row_of(ledger, first)
    of_the_same = {"business_id": row.business_id, "subscription_id": row.subscription_id}
    second = change_in(ledger, ChangeState.PLANNED, ChangeKind.PAUSE_COLLECTION, **of_the_same)
    ledger.make_due()
    assert [change.id for change in take(ledger)] == [first]
    assert take(ledger) == []
    with ledger.engine.begin() as connection:
        change_states.end_change(connection, first, ChangeState.DONE, "yes")
    assert [change.id for change in take(ledger)] == [second]


def test_no_more_than_the_limit_is_claimed(ledger):
    for _ in range(3):
        change_in(ledger, ChangeState.PLANNED)
    ledger.make_due()
    assert [len(take(ledger, limit=2)) for _ in range(3)] == [2, 1, 0]


@pytest.mark.parametrize("kind", [ChangeKind.CANCEL_NOW, ChangeKind.KEEP])
@pytest.mark.parametrize("state", ["planned", "sending", "unknown", "sent"])
def test_what_ends_the_count_waits_for_the_pushes_and_nothing_else_does(ledger, kind, state):
    record = ledger.paying(7, pushed_minutes=7)
    ledger.push(record, 7, MINUTE_OF_NOON, state=state)
    row = ledger.row("usage_records", record)
    change_in(ledger, ChangeState.PLANNED, kind, business_id=row.business_id, subscription_id=row.subscription_id)
    ledger.make_due()
    waits = kind in AFTER_LAST_PUSH and state != "sent"
    assert len(take(ledger)) == (0 if waits else 1)
    if waits:  # and not for ever (76)
        ledger.run("update subscription_changes set created_at = created_at - interval '2 hours'")
        assert len(take(ledger)) == 1


# Leases that ended


@pytest.fixture
def claimed_twice(ledger):
    """The claim of a worker that lost its lease, and the present one."""
    change_in(ledger, ChangeState.PLANNED)
    ledger.make_due()
    (late,) = take(ledger)
    ledger.make_due()
    (present,) = take(ledger)
    return late, present


@pytest.mark.parametrize("given_back", [True, False])
def test_a_worker_that_lost_its_lease_plans_nothing_again(ledger, claimed_twice, given_back):
    late, present = claimed_twice
    before = row_of(ledger, late.id)
    with ledger.engine.begin() as connection:
        again(connection, late, given_back=given_back)
    assert row_of(ledger, late.id) == before
    with ledger.engine.begin() as connection:
        again(connection, present, given_back=given_back)
    row = row_of(ledger, late.id)
    assert (row.state, row.attempts) == ("planned", 1 if given_back else 2)


@pytest.mark.parametrize("state", [ChangeState.DONE, ChangeState.FAILED])
def test_the_first_answer_for_good_stands(ledger, claimed_twice, state):
    late, present = claimed_twice
    with ledger.engine.begin() as connection:
        change_states.end_change(connection, late.id, state, "the late one's word")
    before = row_of(ledger, late.id)
    with ledger.engine.begin() as connection:
        change_states.end_change(connection, present.id, ChangeState.DONE, "the present one's word")
        again(connection, present)
        change_states.set_recognised(connection, [present.identifier])
    assert row_of(ledger, late.id) == before
    assert (before.state, before.answer) == (state, "the late one's word")


# What stands beside the state


@pytest.mark.parametrize(("server_error", "key"), [(True, "change-0:2"), (False, "change-0")])
def test_only_a_server_error_makes_the_next_key_a_new_one(ledger, claimed_twice, server_error, key):
    _, present = claimed_twice
    assert present.idempotency_key == "change-0"
    with ledger.engine.begin() as connection:
        again(connection, present, server_error=server_error)
    ledger.make_due()
    assert [change.idempotency_key for change in take(ledger)] == [key]


def test_what_was_wanted_anew_meanwhile_is_not_planned_a_second_time(ledger, claimed_twice):
    _, present = claimed_twice
    row = row_of(ledger, present.id)
    newer = change_in(ledger, ChangeState.PLANNED, business_id=row.business_id, subscription_id=row.subscription_id)
    with ledger.engine.begin() as connection:
        again(connection, present)
    assert [row_of(ledger, each).state for each in (present.id, newer)] == ["done", "planned"]
    assert row_of(ledger, present.id).answer == "wanted anew meanwhile"


# Kinds


def test_every_kind_has_its_behaviour():
    assert list(CHANGE_BEHAVIOURS) == list(ChangeKind)


def test_who_reads_states_and_kinds_does_not_load_the_stripe_package():
    program = (
        "import sys; import pipeline.meter.push_states, pipeline.subscription_changes.change_states;"
        " import ops.commands.subscription_rehearsal; sys.exit('stripe' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=60, check=False).returncode == 0
