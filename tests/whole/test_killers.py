"""An event that ends every worker that touches it, with the real waits: some minutes, so only with `make soak`."""

import statistics
import sys
import time

import pytest

from ops.processes import recipes
from tasks.queues import QUEUES
from tests.receiver.test_receiver_outages import count
from tests.worlds.webhooks import callback, from_twilio, send, start_receiver

#: Events in a second, and seconds for which the usual is measured.
RATE, USUAL_SECONDS = 20, 60
#: What was promised.
DEAD_WITHIN = 15 * 60

_LATENCIES = """
select extract(epoch from processed_at - stored_at)::float from webhook_events
where id > %s and id <= %s and state <> 'pending' and reason is distinct from 'kills-its-worker'
"""


@pytest.mark.soak
def test_a_killer_is_dead_within_15_minutes_and_the_others_hardly_notice(environment, processes, engine, tmp_path):
    argv = (sys.executable, "-m", "celery", "-A", "tests.worlds.lethal_app", "worker", "--concurrency", "2")
    real = {"LETHAL_LONE_WAIT_SECONDS": "60"}
    worker = recipes.Process(
        "worker", (*argv, "-Q", ",".join(QUEUES)), lambda printed: " ready." in printed, real, grace=30
    )
    worker.start(processes, environment)
    recipes.beat(tmp_path / "beat").start(processes, environment)
    port = start_receiver(processes, environment)
    numbers = iter(range(10**6))

    def send_some() -> None:
        began = time.monotonic()
        for _ in range(RATE):
            assert send(port, from_twilio(callback(next(numbers)))).status == 200
        time.sleep(max(0.0, 1 - (time.monotonic() - began)))

    def newest() -> int:
        with engine.connect() as connection:
            return int(connection.exec_driver_sql("select coalesce(max(id), 0) from webhook_events").scalar_one())

    def p99(first: int, last: int) -> float:
        with engine.connect() as connection:
            found = connection.exec_driver_sql(_LATENCIES, (first, last)).scalars().all()
        return float(statistics.quantiles(found, n=100)[-1])

    for _ in range(5):  # warm
        send_some()
    before = newest()
    for _ in range(USUAL_SECONDS):
        send_some()
    planted = newest()
    lethal = dict(callback(next(numbers))) | {"CallerName": "kill-the-worker"}
    assert send(port, from_twilio(list(lethal.items()))).status == 200
    began = time.monotonic()
    while not count(engine, "reason = 'kills-its-worker' and state = 'dead'"):
        assert time.monotonic() - began < DEAD_WITHIN
        send_some()
    took, dead = time.monotonic() - began, newest()
    while count(engine, "state = 'pending'"):
        time.sleep(0.1)
    usual, meanwhile = p99(before, planted), p99(planted, dead)
    told = f"dead after {took:.0f} s; p99 usually {usual * 1000:.0f} ms, meanwhile {meanwhile * 1000:.0f} ms"
    sys.stdout.write(told + "\n")
    assert meanwhile <= 2 * usual, told
