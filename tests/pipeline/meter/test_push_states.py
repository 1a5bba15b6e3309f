"""The ways out of a push's states: each leaves the states that it may leave, and touches no other push."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Connection

from pipeline.meter import push_states
from pipeline.meter.push_states import PUSH_COLUMNS, Push, PushState, PushVerdict, push_of
from tests.worlds.ledger import MINUTE_OF_NOON, NOON, Ledger

LEASE = 120.0
UNSETTLED = {PushState.PLANNED, PushState.SENDING, PushState.UNKNOWN}


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def push_in(ledger: Ledger, state: PushState, **columns: object) -> int:
    """A push of a business of its own, tried once unless it is planned; not due."""
    sent = state not in {PushState.PLANNED, PushState.VOID}
    machine_now = ledger.one("select clock_timestamp()")
    given = {
        "state": state.value,
        "attempts": int(sent),
        "first_sent_at": machine_now if sent else None,
        "due_at": machine_now + timedelta(hours=1),
        "answer": "of before",
    }
    return ledger.push(ledger.paying(7), 7, MINUTE_OF_NOON, **given | columns)


def read(connection: Connection, push_id: int) -> Push:
    query = f"select {PUSH_COLUMNS} from meter_pushes p where id = %s"
    return push_of(connection.exec_driver_sql(query, (push_id,)).one())


def take(ledger: Ledger, limit: int = 100) -> list[Push]:
    with ledger.engine.begin() as connection:
        return push_states.take_due_pushes(connection, NOON, limit=limit, lease_seconds=LEASE)


#: Each way: how it is gone, the states that it may leave, and the state that it leads to (None: the same).
WAYS: dict[str, tuple[Callable[[Connection, Push], object], set[PushState], PushState | None]] = {
    "set_sent": (lambda c, p: push_states.set_sent(c, p.id, "yes", NOON), UNSETTLED, PushState.SENT),
    "set_refused": (lambda c, p: push_states.set_refused(c, p, "no"), {PushState.SENDING}, PushState.FAILED),
    "give_back": (lambda c, p: push_states.give_back(c, p, "slower", 1.0), {PushState.SENDING}, PushState.PLANNED),
    "set_planned_again": (
        lambda c, p: push_states.set_planned_again(c, p, "sorry", 1.0, server_error=True),
        {PushState.SENDING},
        PushState.PLANNED,
    ),
    "set_not_counted": (
        lambda c, p: push_states.set_not_counted(c, p.id, "not there"),
        {PushState.UNKNOWN},
        PushState.VOID,
    ),
    "set_by_a_person, sent": (
        lambda c, p: push_states.set_by_a_person(c, p.id, PushVerdict.SENT),
        {PushState.UNKNOWN},
        PushState.SENT,
    ),
    "set_by_a_person, void": (
        lambda c, p: push_states.set_by_a_person(c, p.id, PushVerdict.VOID),
        {PushState.UNKNOWN},
        PushState.VOID,
    ),
    "set_period_closed": (
        lambda c, p: push_states.set_period_closed(c, [_record_of(c, p)]),
        {PushState.PLANNED},
        PushState.VOID,
    ),
    "set_failed": (
        lambda c, p: push_states.set_failed(c, p.identifier, "invalid"),
        {PushState.SENT, PushState.UNKNOWN},
        PushState.FAILED,
    ),
    "set_released": (lambda c, p: push_states.set_released(c, p.id), {PushState.FAILED}, PushState.RELEASED),
    "put_in_doubt": (
        lambda c, _: push_states.put_in_doubt(c, "evt_1", MINUTE_OF_NOON, MINUTE_OF_NOON, ["push-1"]),
        {PushState.SENT, PushState.SENDING},
        None,
    ),
}


def _record_of(connection: Connection, push: Push) -> int:
    query = "select usage_record_id from meter_pushes where id = %s"
    return int(connection.exec_driver_sql(query, (push.id,)).scalar_one())


@pytest.mark.parametrize("state", PushState)
@pytest.mark.parametrize("way", WAYS)
def test_a_way_leaves_only_the_states_that_it_may_leave_and_no_other_push(ledger, way, state):
    go, leaves, leads_to = WAYS[way]
    push_id, other = push_in(ledger, state), push_in(ledger, state)
    before, beside = ledger.row("meter_pushes", push_id), ledger.row("meter_pushes", other)
    with ledger.engine.begin() as connection:
        go(connection, read(connection, push_id))
    after = ledger.row("meter_pushes", push_id)
    if state in leaves:
        assert after.state == (leads_to or state)
        assert after != before
    else:
        assert after == before
    assert ledger.row("meter_pushes", other) == beside


def test_what_is_not_in_the_state_is_told_so(ledger):
    push_id = push_in(ledger, PushState.RELEASED)
    with ledger.engine.begin() as connection:
        push = read(connection, push_id)
        assert push_states.set_sent(connection, push_id, "yes", NOON) is False
        assert push_states.set_refused(connection, push, "no") is None
        assert push_states.set_by_a_person(connection, push_id, PushVerdict.SENT) is None
        assert push_states.set_failed(connection, push.identifier, "invalid") is None
        assert push_states.set_released(connection, push_id) is None


# Claims


@pytest.mark.parametrize("state", PushState)
def test_only_what_is_due_and_open_is_claimed_and_its_lease_keeps_others_off(ledger, state):
    push_in(ledger, state)
    assert take(ledger) == [], "not due, or leased"
    ledger.run("update meter_pushes set due_at = clock_timestamp() - interval '1 second'")
    taken = take(ledger)
    assert [push.state for push in taken] == (["sending"] if state in {"planned", "sending"} else [])
    assert take(ledger) == []
    if taken:
        left = ledger.one("select extract(epoch from due_at - clock_timestamp()) from meter_pushes")
        assert LEASE - 20 < left <= LEASE
        assert taken[0].attempts == (1 if state is PushState.PLANNED else 2)


def test_no_more_than_the_limit_is_claimed_the_longest_due_first(ledger):
    late, later = push_in(ledger, PushState.PLANNED), push_in(ledger, PushState.PLANNED)
    ledger.make_due()
    ledger.run("update meter_pushes set due_at = due_at - interval '1 hour' where id = %s", later)
    assert [push.id for push in take(ledger, limit=1)] == [later]
    assert [push.id for push in take(ledger, limit=1)] == [late]


def test_what_another_claims_right_now_is_left_to_it(ledger):
    push_in(ledger, PushState.PLANNED)
    ledger.make_due()
    with ledger.engine.begin() as connection:
        assert push_states.take_due_pushes(connection, NOON, limit=100, lease_seconds=LEASE)
        assert take(ledger) == []


@pytest.mark.parametrize(
    ("sent_hours_ago", "period_gone", "state", "words"),
    [
        (None, False, "sending", "of before"),
        (22, False, "sending", "of before"),
        (24, False, "unknown", "of before; no answer for 23 hours after it was first sent"),
        (None, True, "void", "of before; its period can not be billed any more"),
        (1, True, "unknown", "of before; its period can not be billed any more"),
    ],
)
def test_what_comes_too_late_is_void_if_it_was_never_sent_and_else_unknown(
    ledger, sent_hours_ago, period_gone, state, words
):
    push_id = push_in(ledger, PushState.PLANNED)
    ledger.make_due()
    if sent_hours_ago is not None:
        ago = timedelta(hours=sent_hours_ago)
        ledger.run("update meter_pushes set first_sent_at = clock_timestamp() - %s::interval", ago)
    if period_gone:
        ledger.run("update usage_records set subscription_id = null")
    (push,) = take(ledger)
    assert (push.state, push.answer) == (state, words)
    row = ledger.row("meter_pushes", push_id)
    assert row.attempts == (state == "sending")
    assert (row.settled_at is not None) == (state == "void")


# Leases that ended


@pytest.fixture
def claimed_twice(ledger):
    """The claim of a worker that lost its lease, and the present one."""
    push_in(ledger, PushState.PLANNED)
    ledger.make_due()
    (late,) = take(ledger)
    ledger.make_due()
    (present,) = take(ledger)
    return late, present


@pytest.mark.parametrize("way", ["set_refused", "give_back", "set_planned_again"])
def test_a_worker_that_lost_its_lease_changes_nothing_by_a_failure(ledger, claimed_twice, way):
    late, present = claimed_twice
    before = ledger.the_push()
    with ledger.engine.begin() as connection:
        WAYS[way][0](connection, late)
    assert ledger.the_push() == before
    with ledger.engine.begin() as connection:
        WAYS[way][0](connection, present)
    assert ledger.the_push().state == ("unknown" if way == "set_refused" else "planned")


def test_a_worker_that_lost_its_lease_can_say_that_stripe_has_it_once(ledger, claimed_twice):
    late, present = claimed_twice
    with ledger.engine.begin() as connection:
        assert push_states.set_sent(connection, late.id, "the late one's word", NOON)
        assert not push_states.set_sent(connection, present.id, "the present one's word", NOON)
    assert (ledger.the_push().state, ledger.the_push().answer) == ("sent", "the late one's word")


# What stands beside the state


def test_a_push_given_back_was_never_sent_if_that_was_its_first_attempt(ledger, claimed_twice):
    _, present = claimed_twice
    first = ledger.the_push().first_sent_at
    with ledger.engine.begin() as connection:
        push_states.give_back(connection, present, "", 1.0)
    row = ledger.the_push()
    assert (row.attempts, row.first_sent_at, row.answer) == (1, first, "of before")
    ledger.make_due()
    ledger.run("update meter_pushes set attempts = 0")
    (only,) = take(ledger)
    with ledger.engine.begin() as connection:
        push_states.give_back(connection, only, "slower", 1.0)
    row = ledger.the_push()
    assert (row.attempts, row.first_sent_at, row.answer) == (0, None, "slower")


@pytest.mark.parametrize(("server_error", "key"), [(True, "push-0:2"), (False, "push-0")])
def test_only_a_server_error_makes_the_next_key_a_new_one(ledger, server_error, key):
    push_in(ledger, PushState.PLANNED)
    ledger.make_due()
    (push,) = take(ledger)
    assert push.idempotency_key == "push-0"
    with ledger.engine.begin() as connection:
        push_states.set_planned_again(connection, push, "sorry", 1.0, server_error=server_error)
    ledger.make_due()
    assert [again.idempotency_key for again in take(ledger)] == [key]


def test_a_person_ends_the_doubt_and_what_is_known_clears_it(ledger):
    for state in (PushState.UNKNOWN, PushState.SENT):
        push_in(ledger, state, doubt="evt_1")
    unknown, sent = (row.id for row in ledger.pushes())
    with ledger.engine.begin() as connection:
        assert push_states.set_by_a_person(connection, unknown, PushVerdict.SENT) == "push-0"
        push_states.clear_doubt(connection, sent)
    assert [(row.state, row.doubt) for row in ledger.pushes()] == [("sent", None)] * 2
    assert ledger.row("meter_pushes", unknown).answer == "of before; by a person"


def test_a_planned_push_that_was_sent_once_outlives_the_close_of_its_period_and_can_be_doubted(ledger):
    push_id = push_in(ledger, PushState.PLANNED, first_sent_at=NOON)
    with ledger.engine.begin() as connection:
        push_states.set_period_closed(connection, [ledger.row("meter_pushes", push_id).usage_record_id])
        assert push_states.put_in_doubt(connection, "evt_1", NOON, NOON, []) == 1
        assert (
            push_states.put_in_doubt(connection, "evt_2", NOON + timedelta(days=2), NOON + timedelta(days=3), []) == 0
        )
    assert (ledger.the_push().state, ledger.the_push().doubt) == ("planned", "evt_1")
