"""The nudge reaches workers when it can, and never holds up whoever sends it."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import redis
from sqlalchemy import text

from ops.processes import embedded, recipes
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import free_port
from tasks.nudge import ENOUGH, Nudge
from tasks.queues import QUEUES, queue_of

DRAIN = "events.drain"


@pytest.fixture
def broker(broker_url) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(broker_url, socket_timeout=10) as client:
        yield client


@pytest.fixture
def nudge(broker_url) -> Iterator[Nudge]:
    made = Nudge(broker_url)
    yield made
    made.close()


def eventually(condition, seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.02)


def test_it_is_one_message_of_celerys_for_the_tasks_queue(nudge, broker):
    nudge.send(DRAIN)
    nudge.close()
    (message,) = broker.lrange("events", 0, -1)
    envelope = json.loads(message)
    assert envelope["headers"]["task"] == DRAIN
    assert envelope["headers"]["lang"] == "py"
    assert envelope["content-type"] == "application/json"
    assert envelope["properties"]["delivery_info"]["routing_key"] == "events"


def test_each_task_has_its_queue(nudge, broker):
    for task_name in ("events.drain", "stripe.refresh", "periods.close-due", "twilio.fetch-calls"):
        nudge.send(task_name)
    nudge.close()
    assert {name: broker.llen(name) for name in QUEUES} == {"events": 1, "usage": 1, "stripe": 1, "maintenance": 1}


def test_what_is_sent_together_is_sent_once_or_twice(nudge, broker):
    for _ in range(1000):
        nudge.send(DRAIN)
    nudge.close()
    assert 1 <= broker.llen("events") <= 3


def test_a_queue_that_nobody_reads_does_not_grow(nudge, broker):
    for number in range(3 * ENOUGH):
        nudge.send(DRAIN)
        eventually(lambda number=number: broker.llen("events") >= min(number + 1, ENOUGH))
    nudge.close()
    assert broker.llen("events") == ENOUGH


def test_the_message_after_an_emptied_broker_arrives(nudge, broker):
    nudge.send(DRAIN)
    eventually(lambda: broker.llen("events") == 1)
    broker.flushall()
    nudge.send(DRAIN)
    eventually(lambda: broker.llen("events") == 1)


def test_a_broker_that_hangs_holds_up_nobody_and_gets_the_next_one(processes):
    url = embedded.start_valkey(processes)
    nudge = Nudge(url)
    with redis.Redis.from_url(url, socket_timeout=10) as broker:
        nudge.send(DRAIN)
        eventually(lambda: broker.llen("events") == 1)
        os.kill(processes.pid("valkey"), signal.SIGSTOP)
        began = time.monotonic()
        for _ in range(10_000):
            nudge.send(DRAIN)
        # A single answer of the broker is awaited longer than all of these sends took.
        assert time.monotonic() - began < 0.5
        time.sleep(1.5)  # until it has been given up, at least once
        os.kill(processes.pid("valkey"), signal.SIGCONT)
        before = broker.llen("events")
        nudge.send(DRAIN)
        eventually(lambda: broker.llen("events") > before)
    nudge.close()


@pytest.mark.parametrize("address", ["redis://127.0.0.1:{port}/0", "redis://you-forgot-to-mock:1/0", "nonsense://x"])
def test_a_broker_that_is_not_there_is_no_error(address):
    nudge = Nudge(address.format(port=free_port()))
    for _ in range(3):
        nudge.send(DRAIN)
        time.sleep(0.1)
    nudge.close()


def test_a_name_without_a_queue_is_no_error_for_the_sender(nudge, broker):
    nudge.send("nobody.knows")
    nudge.send(DRAIN)
    nudge.close()
    assert broker.llen("events") == 1
    with pytest.raises(ValueError, match="no queue is set for tasks named nobody"):
        queue_of("nobody.knows")


def test_it_survives_a_fork(nudge, broker):
    nudge.send(DRAIN)
    eventually(lambda: broker.llen("events") == 1)

    def in_child() -> None:
        nudge.send(DRAIN)
        nudge.close()

    child = multiprocessing.get_context("fork").Process(target=in_child)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    nudge.send(DRAIN)
    eventually(lambda: broker.llen("events") == 3)


def test_a_closed_nudge_can_be_used_again(nudge, broker):
    for _ in range(2):
        nudge.send(DRAIN)
        nudge.close()
        nudge.close()
    assert broker.llen("events") == 2


# The app that reads them


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=REPOSITORY,
        env={key: value for key, value in os.environ.items() if not key.startswith("ALTIORA_")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_broker_address_the_app_says_what_is_missing():
    assert run("import tasks.app").returncode == 0
    answer = run("import tasks.app; tasks.app.app.conf.broker_url")
    assert answer.returncode == 1
    assert "ALTIORA_BROKER_URL is missing: set it to the address of Redis" in answer.stderr


def test_the_app_knows_its_queues_and_refuses_others(poisoned_broker):
    code = (
        "from tasks.app import app; app.loader.import_default_modules();"
        "print(sorted(app.amqp.queues));"
        "print(sorted({app.amqp.router.route({}, n)['queue'].name for n in app.tasks if not n.startswith('celery.')}));"
        "print({e['options']['queue'] == app.amqp.router.route({}, e['task'])['queue'].name"
        " for e in app.conf.beat_schedule.values()});"
        "app.amqp.queues.select(['evnts'])"
    )
    answer = run(code, ALTIORA_BROKER_URL=poisoned_broker)
    queues = "['events', 'maintenance', 'stripe', 'usage']"
    assert answer.stdout.splitlines() == [queues, queues, "{True}"], answer.stderr
    assert "evnts" in answer.stderr


def test_a_worker_runs_what_was_nudged_and_its_lines_name_the_task(environment, processes, engine, nudge):
    recipes.worker(1, queues="events").start(processes, environment)
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into webhook_events (provider, key, type, received_at, content_type, body)"
                " values ('stripe', 'evt_1', 'x', now(), 'application/json', 'not json')"
            )
        )
    nudge.send(DRAIN)
    dead = text("select count(*) from webhook_events where state = 'dead'")

    def drained() -> bool:
        with engine.connect() as connection:
            return bool(connection.execute(dead).scalar_one())

    eventually(drained, 30)
    eventually(lambda: '"event": "drained"' in processes.log("worker").read_text())
    (line,) = [line for line in processes.log("worker").read_text().splitlines() if '"event": "drained"' in line]
    drained_line = json.loads(line)
    assert drained_line["task"] == DRAIN
    assert drained_line["task_id"]
