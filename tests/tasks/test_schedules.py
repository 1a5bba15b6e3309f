"""The beat table: plain data that fits the tasks and queues that there are."""

import json
import subprocess
import sys

import pytest

from schedules.table import TABLE, beat_schedule
from tasks.queues import queue_of


def test_every_entry_goes_where_its_task_is_routed_and_says_why():
    for entry in TABLE:
        assert entry.queue == queue_of(entry.task)
        assert len(entry.reason) > 20
    assert len({entry.task for entry in TABLE}) == len(TABLE)


def test_a_close_never_expires_and_pokes_do():
    by_task = {entry.task: entry for entry in TABLE}
    assert "expires" not in beat_schedule()["periods.close-due"]["options"]
    assert all(entry.expires is not None for name, entry in by_task.items() if name != "periods.close-due")
    assert all(entry.expires >= entry.seconds for entry in TABLE if entry.expires is not None)


def test_every_entry_names_a_task_that_the_workers_have(poisoned_broker):
    program = (
        "import json; from tasks.app import app; app.loader.import_default_modules();"
        "print(json.dumps([sorted(app.tasks), app.conf.beat_schedule]))"
    )
    environment = {"ALTIORA_BROKER_URL": poisoned_broker, "ALTIORA_BEAT_PACE": "2", "PATH": ""}
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stderr
    tasks, schedule = json.loads(answer.stdout)
    assert {entry.task for entry in TABLE} <= set(tasks)
    assert schedule == beat_schedule(2)


@pytest.mark.parametrize(("pace", "sweep", "close"), [(1.0, 5, 120), (2.0, 2.5, 60), (1000.0, 0.5, 0.5)])
def test_pace_divides_the_intervals_down_to_half_a_second(pace, sweep, close):
    schedule = beat_schedule(pace)
    assert schedule["events.sweep"]["schedule"] == sweep
    assert schedule["periods.close-due"]["schedule"] == close
    assert schedule["events.sweep"]["options"]["expires"] >= 10
