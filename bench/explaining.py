"""`altiora explain` for a period of 10,000 calls, as an operator waits for it: the whole command."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from bench import draining, traffic
from bench.figures import Figure, median
from bench.sizes import Sizes
from bench.stage import Stage
from bench.totals import WrongTotalsError
from bench.traffic import Business
from ops.processes.repository import REPOSITORY

_LARGEST = "select business_id, period_start, calls, minutes from usage_records order by calls desc limit 1"


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """One business with all the calls, most of them in one period; other businesses' events lie around them."""
    stage.reset()
    now = datetime.now(UTC)
    with stage.worker():
        calls = traffic.calls(businesses, sizes.drained, now)
        draining.drain(stage, calls)
        draining.drain(stage, traffic.calls(businesses[:1], sizes.explained, now, seed=2), calls)
    with stage.engine.connect() as connection:
        business_id, start, counted, minutes = connection.exec_driver_sql(_LARGEST).one()
    times = [_explain(stage, business_id, start, minutes) for _ in range(sizes.runs)]
    return [
        Figure(
            what=f"explain a period of {counted:,} calls",
            value=1000 * median(times),
            unit="ms",
            at_least=1000,
            aim=None,
            ours="whole command",
            less_is_better=True,
        )
    ]


def _explain(stage: Stage, business_id: int, start: datetime, minutes: int) -> float:
    """Seconds. Raises WrongTotalsError unless its parts add up to the record's minutes."""
    command = [sys.executable, "-m", "ops.cli", "explain", str(business_id), start.isoformat(), "--json"]
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | stage.environment, capture_output=True, text=True, check=False
    )
    took = time.perf_counter() - began
    told = json.loads(done.stdout) if done.returncode == 0 else {}
    shown = next((each["stated"] for each in told.get("sums", ()) if each["figure"] == "minutes"), None)
    if not told.get("adds_up") or shown != minutes:
        raise WrongTotalsError(f"altiora explain does not add up: {done.stdout[:500]}{done.stderr[:500]}")
    return took
