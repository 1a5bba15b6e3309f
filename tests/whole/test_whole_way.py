"""From HTTP to totals with real processes: receivers, Celery workers, beat, and what kills, empties or repeats."""

import contextlib
import json
import os
import random
import signal
import sys
import time
from datetime import timedelta
from urllib.parse import parse_qsl

import psutil
import pytest
import redis

from ops.processes import recipes
from ops.processes.supervisor import free_port
from tasks.nudge import Nudge
from tests.worlds.breaking import breaks
from tests.worlds.webhooks import ACCOUNT, from_stripe, from_twilio, send_all, start_receiver
from tests.worlds.world import NUMBER_OF_B, NUMBER_OF_F, World, at

#: What tests/worlds/lethal_app.py lies in wait for; importing that file would set its trap here too.
LETHAL = "kill-the-worker"


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    made.now = at("31 Dec")
    yield made
    made.assert_sums()


def _stored(world, count, seed=1):
    """Store ``count`` callbacks of as many calls; returns the figures of each record they must give."""
    rng = random.Random(seed)
    bodies = []
    for index in range(count):
        ended = at("6 Nov") + timedelta(seconds=rng.randrange(28 * 24 * 3600))
        number, seconds = rng.choice([NUMBER_OF_B, NUMBER_OF_F]), rng.randrange(600)
        bodies.append(world.body(f"{seed}-{index}", ended=ended, To=number, CallDuration=seconds))
    world.store_all(bodies)
    return bodies


def _expected(world, bodies):
    """Calls, seconds and minutes by business, by independent arithmetic over the bodies."""
    figures: dict[int, tuple[int, int, int]] = {}
    for body in bodies:
        params = dict(parse_qsl(body.decode()))
        business = {NUMBER_OF_B: world.b, NUMBER_OF_F: world.f}[params["To"]]
        seconds = int(params["CallDuration"])
        calls, total, minutes = figures.get(business, (0, 0, 0))
        figures[business] = (calls + 1, total + seconds, minutes + -(-seconds // 60))
    return figures


def _totals(world):
    rows = world.rows("select business_id, sum(calls), sum(seconds), sum(minutes) from usage_records group by 1")
    return {row[0]: tuple(map(int, row[1:])) for row in rows}


def _wait(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.1)


def _pending(world):
    ((count,),) = world.rows("select count(*) from webhook_events where state = 'pending'")
    return count


def _start(processes, environment, world, *started):
    settings = environment | {"ALTIORA_CLOCK": str(world.clock_file)}
    for process in started:
        process.start(processes, settings)


def test_the_same_events_three_times_by_sixteen_clients_to_two_receivers_with_two_workers(
    world, environment, processes
):
    ports = [free_port(), free_port()]
    receivers = [recipes.receiver(port) for port in ports]
    second = recipes.Process("receiver-2", receivers[1].argv, receivers[1].ready)
    workers = [recipes.worker(1, name="worker-1"), recipes.worker(1, name="worker-2")]
    _start(processes, environment, world, receivers[0], second, *workers)
    bodies = [world.body(f"call-{index}", To=random.Random(index).choice([NUMBER_OF_B, NUMBER_OF_F]),
                         CallDuration=index % 400) for index in range(1000)]  # fmt: skip
    arriving = [from_twilio(parse_qsl(body.decode(), keep_blank_values=True)) for body in bodies] * 3
    random.Random(5).shuffle(arriving)
    assert send_all(ports, arriving, clients=16) == {200: 3000}
    _wait(lambda: _pending(world) == 0)
    assert world.rows("select count(*), count(distinct state) from webhook_events") == [(1000, 1)]
    assert _totals(world) == _expected(world, bodies)
    assert world.rows("select deadlocks from pg_stat_database where datname = current_database()") == [(0,)]


@breaks("tasks/events.py", "orphans_linked=linked)\n    drain()\n", "orphans_linked=linked)\n")
def test_what_no_nudge_tells_of_is_found_by_the_sweep(world, environment, processes, tmp_path):
    bodies = _stored(world, 100)
    _start(processes, environment, world, recipes.worker(1), recipes.beat(tmp_path / "beat"))
    _wait(lambda: _pending(world) == 0, 30)
    assert _totals(world) == _expected(world, bodies)


def test_an_emptied_broker_loses_nothing(world, environment, processes, tmp_path):
    _start(processes, environment, world, recipes.worker(2), recipes.beat(tmp_path / "beat"))
    broker = redis.Redis.from_url(environment["ALTIORA_BROKER_URL"], socket_timeout=10)
    nudge = Nudge(environment["ALTIORA_BROKER_URL"])
    bodies = []
    for part in range(4):
        bodies += _stored(world, 5000, seed=part)
        nudge.send("events.drain")
        _wait(lambda part=part: _pending(world) < 5000 * (part + 1))
        broker.flushall()
    nudge.close()
    broker.close()
    _wait(lambda: _pending(world) == 0)
    assert _totals(world) == _expected(world, bodies)


def test_a_worker_child_killed_in_the_middle_of_a_batch(world, environment, processes, tmp_path):
    bodies = _stored(world, 8000)
    _start(processes, environment, world, recipes.worker(2), recipes.beat(tmp_path / "beat"))
    killed = 0
    while killed < 3 and _pending(world):
        for (worker,) in world.rows("select worker from claims"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(worker.rpartition(":")[2]), signal.SIGKILL)
                killed += 1
        time.sleep(0.05)
    assert killed
    _wait(lambda: _pending(world) == 0, 90)
    assert world.rows("select distinct state from webhook_events") == [("processed",)]
    assert _totals(world) == _expected(world, bodies)


def test_a_row_that_kills_every_worker_is_dead_alone(world, environment, processes, tmp_path):
    bodies = _stored(world, 60)
    lethal = world.callback("lethal", CallerName=LETHAL)
    more = _stored(world, 60, seed=2)
    argv = (
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.worlds.lethal_app",
        "worker",
        "--concurrency",
        "1",
        "-Q",
        "events",
    )
    settings = {"ALTIORA_BEAT_PACE": "5"}
    worker = recipes.Process("worker", argv, lambda printed: " ready." in printed, settings, grace=30)
    beat = recipes.beat(tmp_path / "beat")
    _start(processes, environment, world, worker, recipes.Process("beat", beat.argv, beat.ready, settings))
    _wait(lambda: _pending(world) == 0, 90)
    assert world.event(lethal) == ("dead", "kills-its-worker")
    assert world.rows("select count(*) from webhook_events where state = 'processed'") == [(120,)]
    assert _totals(world) == _expected(world, bodies + more)
    assert psutil.pid_exists(processes.pid("worker"))


def test_every_real_body_three_times(world, environment, processes, payloads):
    """Fixtures of Stripe and callbacks of Twilio as others saw them; only the account is made ours."""
    port = start_receiver(processes, environment | {"ALTIORA_CLOCK": str(world.clock_file)})
    requests, minutes = [], {}
    for number, path in enumerate(sorted((payloads / "stripe").glob("*.json"))):
        event = json.loads(path.read_text()) | {"id": f"evt_{number}"}  # many of them share one id
        requests.append(from_stripe(json.dumps(event).encode()))
    for path in sorted((payloads / "twilio").glob("*.json")):
        params = json.loads(path.read_text()) | {"AccountSid": ACCOUNT}
        requests.append(from_twilio(list(params.items())))
        if params["CallStatus"] == "completed" and params["To"]:
            with world.engine.begin() as connection:
                world.hold(connection, world.f, params["To"])
            minutes[params["CallSid"]] = -(-int(params["CallDuration"]) // 60)
    assert send_all([port], requests * 3, clients=4) == {200: 3 * len(requests)}
    world.drain()
    with world.engine.begin() as connection:  # as a fetch that found nothing leaves it
        connection.exec_driver_sql("update refreshes set fetched_mark = mark")
        connection.exec_driver_sql("update webhook_events set due_at = now()")
    world.drain()
    assert world.rows("select count(*) from webhook_events") == [(len(requests),)]
    ended = world.rows("select key, state, reason from webhook_events where state not in ('processed', 'ignored')")
    assert {(row.state, row.reason) for row in ended} <= {("dead", "unknown-customer"), ("dead", "unknown-number")}
    assert dict(world.rows("select sid, counted_minutes from calls where counted")) == minutes
    # The child leg of one of them is known, with its parent's business, and not billed.
    assert len(world.rows("select from calls where parent_sid is not null and business_id = %s", world.f)) == 1
