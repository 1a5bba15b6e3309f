"""The bench runs, all of it, and finds a wrong total; its speeds are nobody's business here."""

import contextlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bench import draining, stage, totals, traffic
from bench.__main__ import main
from bench.figures import Figure, faster, slower, table
from bench.totals import WrongTotalsError
from db.engine import make_engine
from pipeline.drain import Drain, DrainSettings
from pipeline.shared.clock import Clock


@pytest.mark.soak
@pytest.mark.timeout(400)  # a dozen processes start one after the other, on a busy machine slowly
def test_every_section_runs_and_its_totals_are_right():
    command = [sys.executable, "-m", "bench", "--small", "--json"]
    run = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    assert len(measured["figures"]) == 23
    assert all(figure["value"] > 0 or figure["unit"] == "MB" for figure in measured["figures"])


@pytest.fixture
def drained(database_url):
    """A stage without processes, on which some calls were sent and drained; it has a table of its own."""
    engine = make_engine(database_url)
    businesses = traffic.businesses(8)
    stage._add(engine, businesses)
    no_process: Any = None
    made = stage.Stage(no_process, engine, no_process, database_url, "")
    calls = traffic.calls(businesses, 200, datetime.now(UTC))
    draining.store(made, draining.rows(calls, datetime.now(UTC)))
    totals.expect(made, calls)
    Drain(engine, DrainSettings(traffic.ACCOUNT, livemode=False), Clock()).run()
    totals.watch(made)
    yield made
    engine.dispose()


@pytest.mark.parametrize(
    "break_it",
    [
        "update usage_records set minutes = minutes + 1 where id = (select max(id) from usage_records)",
        "update calls set counted_minutes = counted_minutes + 1 where sid = (select max(sid) from calls where counted)",
        # The grand total stays right: only a look at each record finds it.
        "update usage_records set minutes = minutes + case id when 1 then 1 else -1 end where id in (1, 2)",
        "insert into bench_sent select 'never stored', business_id, period_start, true, 60, 1 from bench_sent limit 1",
    ],
)
def test_a_wrong_total_is_found(drained, break_it):
    with drained.engine.begin() as connection:
        connection.exec_driver_sql(break_it)
    with pytest.raises(WrongTotalsError):
        totals.watch(drained)


@pytest.mark.parametrize(
    ("paid", "instant", "start"),
    [
        (True, "2026-11-15T09:00:00+00:00", "2026-11-15T09:00:00+00:00"),
        (True, "2026-11-15T08:59:59+00:00", "2026-10-15T09:00:00+00:00"),
        (True, "2027-01-02T00:00:00+00:00", "2026-12-15T09:00:00+00:00"),
        (False, "2026-11-01T03:59:59+00:00", "2026-10-01T04:00:00+00:00"),
        (False, "2026-11-01T04:00:00+00:00", "2026-11-01T04:00:00+00:00"),
    ],
)
def test_periods_of_the_traffic(paid, instant, start):
    plan, day = ("starter", 15) if paid else ("free", 1)
    business = traffic.Business("B", "+15550000001", plan, "America/New_York", day)
    assert business.period_start(datetime.fromisoformat(instant)).isoformat() == start


def test_verdicts_and_the_table():
    figures = [
        faster("drain / no-op Celery tasks", [30.0, 10.0, 20.0], [2.0], 5, 10, "A note."),
        slower("close 100,000 periods / one UPDATE", [10.0], [30.0], 5, 2),
        Figure(what="webhook answer", value=60, unit="ms", at_least=50, aim=25, ours="p50", less_is_better=True),
        slower("without a target", [1.0], [1.0], None, None),
    ]
    assert [(figure.value, figure.verdict) for figure in figures] == [
        (10, "aim"),
        (3, "ok"),
        (60, "MISSED"),
        (1, ""),
    ]
    lines = table(figures).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[-1] == "A note."


@pytest.mark.parametrize(("error", "status"), [(WrongTotalsError("a minute"), 1), (stage.BenchError("silence"), 2)])
def test_only_wrong_totals_end_with_status_1(monkeypatch, error, status):
    def measure(*_, **__):
        raise error

    monkeypatch.setattr("bench.__main__.stage", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(draining, "measure", measure)
    assert main(["--small", "drain"]) == status
