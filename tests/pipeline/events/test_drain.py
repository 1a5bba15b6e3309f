"""The drain under shuffling, duplication, several workers, locks, bad rows and death."""

import contextlib
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DBAPIError

from ops.processes.repository import REPOSITORY
from pipeline import drain
from pipeline.calls import call_owner, call_reports, call_rows
from pipeline.events import queue
from pipeline.providers.twilio_words import TERMINAL
from pipeline.reading.backlog import backlog
from tests.worlds.breaking import breaks
from tests.worlds.superuser import run_as_superuser
from tests.worlds.world import NUMBER_OF_B, NUMBER_OF_F, World, at


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    yield made
    made.assert_sums()


def _minutes(seconds):
    return (seconds + 59) // 60


# Order and duplication

_reports = st.lists(
    st.tuples(
        st.sampled_from(["one", "two", "three"]),
        st.sampled_from(["ringing", "in-progress", "completed", "busy"]),
        st.integers(0, 3),
        st.integers(0, 400),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reports=_reports, order=st.randoms(use_true_random=False), batches=st.integers(1, 5))
def test_whatever_the_order_the_api_has_the_last_word_and_sums_agree(world, reports, order, batches):
    run_as_superuser(world.engine, "truncate webhook_events, calls, usage_records, usage_alerts, refreshes cascade")
    answers = {name: seconds for name, _, _, seconds in reports}
    arriving = [("callback", report) for report in reports] + [("api", item) for item in answers.items()]
    order.shuffle(arriving)
    for index, (source, item) in enumerate(arriving):
        if source == "callback":
            name, status, sequence, seconds = item
            duration = seconds if status in TERMINAL else None
            world.callback(name, CallStatus=status, SequenceNumber=sequence, CallDuration=duration)
        else:
            name, seconds = item
            world.api_answer(name, duration=str(seconds))
        if order.randrange(len(arriving)) < batches or index == len(arriving) - 1:
            world.drain()
    assert world.figures(world.b) == [
        (len(answers), sum(answers.values()), sum(_minutes(seconds) for seconds in answers.values()))
    ]
    world.assert_sums()


def test_three_workers_over_shuffled_events_give_the_figures_of_the_calls_record_by_record(world):
    world.now = at("31 Dec")
    rng = random.Random(7)
    ends = {}
    for index in range(400):
        name, business = f"call-{index}", rng.choice([NUMBER_OF_B, NUMBER_OF_F])
        ended, seconds = at("3 Nov") + timedelta(minutes=rng.randrange(60 * 24 * 50)), rng.randrange(600)
        steps = [
            {"CallStatus": "ringing", "SequenceNumber": 1},
            {"CallStatus": "in-progress", "SequenceNumber": 2},
            {"CallStatus": "completed", "CallDuration": seconds},
        ]
        rng.shuffle(steps)
        for step in steps:
            world.callback(name, To=business, ended=ended, **step)
        ends[name] = (business, ended, seconds)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set due_at = now() - random() * interval '1 hour'")
    with ThreadPoolExecutor(3) as pool:
        for drained in [pool.submit(world.drain) for _ in range(3)]:
            drained.result()
    for business_id, number in ((world.b, NUMBER_OF_B), (world.f, NUMBER_OF_F)):
        for record in world.records(business_id):
            inside = [
                seconds
                for whose, ended, seconds in ends.values()
                if whose == number and record.period_start <= ended < record.period_end
            ]
            assert (record.calls, record.seconds, record.minutes) == (
                len(inside),
                sum(inside),
                sum(map(_minutes, inside)),
            )
    assert world.rows("select state, count(*) from webhook_events group by state") == [("processed", 1200)]
    assert world.rows("select deadlocks from pg_stat_database where datname = current_database()") == [(0,)]
    assert world.rows("select * from claims") == []


def test_a_call_that_turns_out_to_be_anothers_moves_with_both_locked(world):
    moved = at("20 Nov 12:00")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("delete from phone_number_assignments where number = %s", (NUMBER_OF_B,))
        world.hold(connection, world.b, NUMBER_OF_B, None, moved)
        world.hold(connection, world.f, NUMBER_OF_B, moved, None)
    world.callback(ended=at("20 Nov 12:04"), CallDuration=300)  # from 11:59: B's
    world.drain()
    assert world.figures(world.b) == [(1, 300, 5)]
    world.api_answer(start_time="Fri, 20 Nov 2026 12:01:00 +0000", end_time="Fri, 20 Nov 2026 12:04:00 +0000",
                     duration="180")  # fmt: skip
    world.drain()
    assert (world.figures(world.b), world.figures(world.f)) == ([(0, 0, 0)], [(1, 180, 3)])


# Locks and bad rows


@breaks(
    "pipeline/shared/business_locks.py",
    'order by id for no key update"\n_LOCK_FREE = f"{_LOCK} skip locked"',
    'order by id"\n_LOCK_FREE = _LOCK',
)
def test_a_business_that_somebody_holds_waits_and_the_others_go_on(world):
    held = world.callback("held")
    free = world.callback("free", To=NUMBER_OF_F)
    with world.engine.connect() as holder:
        holder.exec_driver_sql("select from businesses where id = %s for update", (world.b,))
        world.drain()
        holder.rollback()
    assert world.event(free) == ("processed", None)
    assert world.event(held) == ("pending", "business-locked")
    assert world.rows("select max(attempts) from webhook_events") == [(0,)]
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set due_at = now()")
    world.drain()
    assert world.event(held) == ("processed", None)


def test_a_row_that_cannot_be_applied_is_dead_alone(world):
    broken = world.business("Nowhere", "free", "Mars/Olympus_Mons", "+15550000077")
    keys = [world.callback(f"call-{index}") for index in range(20)]
    bad = world.callback("bad", To="+15550000077")
    world.drain()
    assert world.event(bad) == ("dead", "failed: ZoneInfoNotFoundError")
    assert {world.event(key) for key in keys} == {("processed", None)}
    assert world.figures(world.b) == [(20, 1200, 20)]
    assert world.records(broken) == []


# Death

_LETHAL = """
import os, signal, sys
from pathlib import Path
from db.engine import make_engine
from pipeline import drain
from pipeline.calls import call_reports
from pipeline.shared import clock
decode = call_reports.decode_report
def lethal(event_id, key, content_type, body, received_at, account_sid):
    if b"lethal" in body:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(event_id, key, content_type, body, received_at, account_sid)
call_reports.decode_report = lethal
settings = drain.DrainSettings("AC" + "0" * 32, livemode=False)
drain.Drain(make_engine(sys.argv[1]), settings, clock.Clock(Path(sys.argv[2]))).run()
"""


def _drain_in_a_process(world, database_url):
    return subprocess.run(
        [sys.executable, "-c", _LETHAL, database_url, str(world.clock_file)], check=False, cwd=REPOSITORY, timeout=60
    ).returncode


@breaks(
    "pipeline/drain.py", "worker_deaths.leave_trace(self._engine, ids)", "worker_deaths.leave_trace(self._engine, [])"
)
def test_a_row_that_kills_every_worker_ends_dead_alone(world, database_url):
    bad = world.callback("bad", CallerName="lethal")
    good = [world.callback(f"call-{index}") for index in range(30)]
    deaths = waits = 0
    while world.event(bad)[0] == "pending":
        died = _drain_in_a_process(world, database_url) == -signal.SIGKILL
        deaths += died
        assert deaths < 10, "it would kill for ever"
        if not died:  # the death before was noticed, and it waits
            ((alone, waiting),) = world.rows(
                "select lone_deaths, due_at > now() + interval '50 s' * power(2, lone_deaths - 1)"
                " from webhook_events where lone_deaths > 0"
            )
            waits += 1
            assert (alone, waiting) == (waits, True)
        _make_due(world)
    assert waits == 3
    assert deaths == 5
    assert world.event(bad) == ("dead", "kills-its-worker")
    assert {world.event(key) for key in good} == {("processed", None)}
    assert world.figures(world.b) == [(30, 1800, 30)]
    assert world.rows("select * from claims") == []


def test_a_claim_that_died_in_its_effect_leaves_no_half(world, monkeypatch):
    """The last moment: everything applied, nothing committed, the connection gone."""
    keys = [world.callback(f"call-{index}") for index in range(3)]
    blocked, release = threading.Event(), threading.Event()
    from pipeline.events import worker_deaths

    remove = worker_deaths.remove_trace

    def stop_before_the_commit(connection, trace_id):
        blocked.set()
        release.wait(20)
        remove(connection, trace_id)

    monkeypatch.setattr(worker_deaths, "remove_trace", stop_before_the_commit)

    def drain():
        with contextlib.suppress(DBAPIError):
            world.drain()

    thread = threading.Thread(target=drain)
    thread.start()
    assert blocked.wait(20)
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where state = 'idle in transaction' and datname = current_database()"
        )
    monkeypatch.setattr(worker_deaths, "remove_trace", remove)
    release.set()
    thread.join(20)
    assert {world.event(key) for key in keys} == {("processed", None)}
    assert world.figures(world.b) == [(3, 180, 3)]


def test_stored_calls_are_read_by_sid_also_by_plans_that_were_made_for_empty_tables(world):
    looks = {call_rows._FROZEN, call_rows._RANKED, call_owner._STORED}
    with world.engine.begin() as connection:
        connection.exec_driver_sql("analyze calls, usage_records")
        queue.plan_by_index(connection)
        for look in looks:
            plan = connection.exec_driver_sql(f"explain (generic_plan) {look.replace('%b', '$1')}").scalars().all()
            assert any("calls_pkey" in line for line in plan), plan


@breaks(
    "pipeline/events/worker_deaths.py",
    "server_started_at <> pg_postmaster_start_time() as restarted",
    "false as restarted",
)
def test_80_a_restart_of_the_server_is_no_death(world):
    """It takes the worker's lock, and leaves its trace; so does a failover."""
    key = world.callback("alone")
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into claims (worker, event_ids, server_started_at)"
            " select 'elsewhere:1', array_agg(id), pg_postmaster_start_time() - interval '1 hour' from webhook_events"
        )
    world.drain()
    assert world.event(key) == ("processed", None)
    assert world.rows("select lone_deaths, attempts from webhook_events") == [(0, 0)]
    assert world.rows("select from claims") == []


def test_80_suspects_come_after_all_others_and_one_worker_at_a_time_has_some(world):
    for name in ("first", "second"):
        world.callback(name)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set batch_limit = 1, due_at = now() - interval '1 hour'")
    world.callback("healthy")
    with world.engine.connect() as one, world.engine.connect() as other:
        assert len(queue.claim_due(one)) == 1
        assert len(queue.claim_suspects(one)) == 1
        assert queue.claim_suspects(other) == []
        one.rollback()
        assert len(queue.claim_suspects(other)) == 1
        other.rollback()
    world.drain()
    assert world.rows("select distinct state from webhook_events") == [("processed",)]


@breaks(
    "pipeline/events/queue.py",
    "    batch_limit = case when former.reason in ('kills-its-worker',",
    "    batch_limit = case when former.reason in ('',",
)
def test_89_what_is_sent_again_is_applied_with_fresh_attempts_and_a_killer_alone(world):
    failed, killer, done, neighbour = (world.callback(name) for name in ("failed", "killer", "done", "neighbour"))
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "update webhook_events set state = w.state, reason = w.reason, attempts = 9, lone_deaths = 3,"
            " processed_at = now() from (values (%(failed)s, 'dead', 'failed: X'),"
            " (%(killer)s, 'dead', 'kills-its-worker'), (%(done)s, 'ignored', 'not-needed')) as w (key, state, reason)"
            " where webhook_events.key = w.key",
            {"failed": failed, "killer": killer, "done": done},
        )
        connection.exec_driver_sql("insert into resent_events (event_id) select id from webhook_events")
    with world.engine.connect() as connection:
        assert queue.revive_resent(connection) == 2
        assert {event.key for event in queue.claim_due(connection)} == {failed, neighbour}
        assert [event.key for event in queue.claim_suspects(connection)] == [killer]
        connection.rollback()
    world.drain()
    assert world.event(failed) == world.event(killer) == ("processed", None)
    assert world.event(done) == ("ignored", "not-needed")
    assert world.rows("select distinct attempts, lone_deaths from webhook_events where state = 'processed'") == [(0, 0)]
    assert world.rows("select from resent_events") == []


# Whose fault


@contextlib.contextmanager
def _locked(world, table):
    with world.engine.connect() as holder:
        holder.exec_driver_sql(f"lock table {table} in access exclusive mode")
        yield
        holder.rollback()


@breaks(
    "db/faults.py",
    '"55P03": Fault.WAIT,',
    '"55P03": Fault.EVENT,',
)
@pytest.mark.parametrize("table", ["calls", "usage_records"])
def test_81_the_events_that_a_locked_table_keeps_waiting_cost_no_attempt(world, table, monkeypatch):
    monkeypatch.setattr(drain, "MOST_WAITS", 1)  # each costs a lock_timeout
    keys = [world.callback(f"call-{index}") for index in range(4)]
    with _locked(world, table):
        world.drain()
    assert {world.event(key) for key in keys} == {("pending", "waits: LockNotAvailable")}
    assert world.rows("select distinct attempts from webhook_events") == [(0,)]
    _make_due(world)
    world.drain()
    assert {world.event(key) for key in keys} == {("processed", None)}


@pytest.mark.parametrize("table", ["webhook_events", "claims"])
def test_81_while_the_queue_itself_is_locked_the_worker_waits(world, table):
    key = world.callback("one")
    with _locked(world, table):
        assert world.drain().more
    assert world.event(key) == ("pending", None)
    world.drain()
    assert world.event(key) == ("processed", None)


@breaks(
    "pipeline/drain.py",
    "if alike > ALIKE_BY_THEMSELVES or (",
    "if alike > 10_000 and (",
)
def test_82_what_everything_fails_in_halts_the_drain_and_no_event_ends(world):
    keys = [world.callback(f"call-{index}") for index in range(200)]
    run_as_superuser(world.engine, "alter table calls rename column counted to counted_before")
    world.drain()
    world.drain()
    assert world.rows("select state, count(*) from webhook_events group by 1") == [("pending", 200)]
    halted = world.rows("select error, next_try_at > now() from halts")
    assert [(error.partition(" at ")[0], waits) for error, waits in halted] == [("UndefinedColumn", True)]
    assert backlog_of(world)["halted"] == 1
    run_as_superuser(world.engine, "alter table calls rename column counted_before to counted")
    world.drain()
    assert world.rows("select count(*) from webhook_events where state <> 'pending'") == [(0,)], "a minute is not over"
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update halts set next_try_at = now()")
    _make_due(world)
    world.drain()
    assert {world.event(key) for key in keys} == {("processed", None)}
    assert world.rows("select from halts") == []


def test_82_one_that_fails_so_while_others_pass_is_stuck_alone_and_dead_after_a_day(world, monkeypatch):
    def no_memory(event_id, key, content_type, body, *rest):
        if b"hungry" in body:
            raise MemoryError
        return decode(event_id, key, content_type, body, *rest)

    decode = call_reports.decode_report
    monkeypatch.setattr(call_reports, "decode_report", no_memory)
    bad = world.callback("bad", CallerName="hungry")
    good = [world.callback(f"call-{index}") for index in range(20)]
    world.drain()
    assert {world.event(key) for key in good} == {("processed", None)}
    assert world.event(bad) == ("pending", "stuck: MemoryError")
    assert world.rows("select from halts") == []
    assert backlog_of(world)["stuck"] == 1
    waits = []
    while world.event(bad)[0] == "pending":
        ((wait,),) = world.rows(
            "select round(extract(epoch from due_at - now()))::int from webhook_events where state = 'pending'"
        )
        waits.append(wait)
        _make_due(world)
        world.callback(f"other-{len(waits)}")
        world.drain()
    assert world.event(bad) == ("dead", "stuck: MemoryError")
    assert (waits[0], waits[1], max(waits)) == (60, 120, 3600)
    assert 23.5 * 3600 < sum(waits) < 24.5 * 3600


@breaks(
    "pipeline/drain.py",
    "alike <= ALIKE_BY_THEMSELVES:",
    "alike <= 10_000:",
)
def test_82_more_than_twenty_that_fail_alike_by_themselves_are_a_bad_release(world, monkeypatch):
    def broken(*_):
        raise KeyError

    decode = call_reports.decode_report
    monkeypatch.setattr(call_reports, "decode_report", broken)
    for index in range(200):
        world.callback(f"call-{index}")
    world.drain()
    world.drain()
    assert world.rows("select state, count(*) from webhook_events group by 1 order by 1") == [
        ("dead", 20),
        ("pending", 180),
    ]
    monkeypatch.setattr(call_reports, "decode_report", decode)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update halts set next_try_at = now()")
    _make_due(world)
    world.drain()
    assert world.rows("select state, count(*) from webhook_events group by 1 order by 1") == [
        ("dead", 20),
        ("processed", 180),
    ]


@breaks(
    "db/faults.py",
    '"25006": Fault.CONNECTION,',
    '"25006": Fault.ENVIRONMENT,',
)
def test_83_connections_to_a_node_that_became_read_only_are_thrown_away(world):
    keys = [world.callback(f"call-{index}") for index in range(3)]
    lent = [world.engine.connect() for _ in range(3)]
    for connection in lent:
        connection.exec_driver_sql("set session characteristics as transaction read only")
        connection.commit()
    for connection in lent:
        connection.close()
    world.drain()
    assert {world.event(key) for key in keys} == {("processed", None)}
    assert world.rows("select distinct attempts from webhook_events") == [(0,)]


def _make_due(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set due_at = now() where state = 'pending'")


def backlog_of(world):
    with world.engine.connect() as connection:
        return {row.kind: row.count for row in backlog(connection, world.now)}
