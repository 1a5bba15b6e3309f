"""Beat and a clock that was wrong (85)."""

import shelve
import time
from datetime import timedelta

import pytest
import redis

from ops.processes import recipes
from tasks.beat import SENT_FILE, Scheduler
from tests.worlds.breaking import breaks


def _wait(true, seconds=30):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)


def _ahead(schedule, by):
    """As a beat leaves its file whose clock was so far ahead."""
    with shelve.open(str(schedule), writeback=True) as stored:
        for entry in stored["entries"].values():
            entry.last_run_at += by


def test_85_a_beat_whose_clock_was_ahead_by_six_hours_sends_again_at_once(environment, processes, tmp_path):
    broker = redis.Redis.from_url(environment["ALTIORA_BROKER_URL"], socket_timeout=10)
    schedule = tmp_path / "beat"
    for _ in range(2):
        broker.flushall()
        recipes.beat(schedule).start(processes, environment)
        _wait(lambda: broker.llen("events"))
        assert (tmp_path / SENT_FILE).exists()
        processes.stop("beat")
        _ahead(schedule, timedelta(hours=6))
    broker.close()


@breaks(
    "tasks/beat.py",
    "> AHEAD_SECONDS]",
    "> 10**9]",
)
@pytest.mark.parametrize("hours", [6, 0])
def test_85_a_clock_that_is_put_back_while_it_runs(tmp_path, monkeypatch, hours):
    from tasks.app import app

    monkeypatch.setenv("ALTIORA_BROKER_URL", "redis://127.0.0.1:1/0")
    scheduler = Scheduler(app, schedule_filename=str(tmp_path / "beat"), lazy=False)
    monkeypatch.setattr(Scheduler, "producer", None)  # which would connect
    sent = []
    monkeypatch.setattr(scheduler, "apply_entry", lambda entry, **_: sent.append(entry.name))
    while scheduler.tick() == 0:
        pass
    sent.clear()
    for entry in scheduler.schedule.values():
        assert entry.last_run_at is not None
        entry.last_run_at += timedelta(hours=hours)
    while scheduler.tick() == 0:
        pass
    assert set(sent) == (set(scheduler.schedule) if hours else set())
    scheduler.close()
