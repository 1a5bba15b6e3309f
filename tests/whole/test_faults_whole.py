"""Fault by fault, on real processes and the fast clock: after the next reconciliation every minute is accounted for.

Each run is a short demo in which one thing goes wrong over the end of two businesses' periods. The demo's own checks
then hold the stand-ins' record of the calls against what is stored and what Stripe bills.
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from rich.console import Console

from ops.demo import screen
from ops.demo import stage as demo_stage
from ops.demo.evidence import Evidence, gather
from ops.demo.month import AFTERMATH, Mishap, Month
from ops.demo.promises import difference_of, verdicts
from ops.demo.signup import plan_calls, plan_silent_calls, sign_up
from ops.demo.stage import Stage
from ops.demo.world import START, Member, cast
from ops.processes import environment, recipes
from ops.processes.repository import REPOSITORY
from pipeline.checking.rebuild_calls import Rules

HOUR = timedelta(hours=1)
SEED = 3
#: Of a call that is placed by a fault: four minutes, of which one is only begun.
SECONDS = 200


class Trouble:
    """What goes wrong in a run, as steps at business instants; ``planned`` when everybody has signed up."""

    def __init__(self, stage: Stage, members: Sequence[Member]) -> None:
        self.stage = stage
        self.members = members
        self.steps: dict[datetime, Callable[[], object]] = {}
        #: What an operator does when the month is over, before the reconciliation that must find nothing.
        self.in_the_end: Callable[[], object] = lambda: None
        #: The first end of a period that Stripe bills, and whose it is.
        self.end, self.number = min(
            (bounds[1], member.numbers[0])
            for member in members
            for bounds in member.periods(START)
            if member.anchor is not None
        )

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """To the stand-ins; without a body as to Stripe's API."""
        key = self.stage.settings["ALTIORA_STRIPE_API_KEY"]
        twilio = path.startswith("/_sandbox/twilio")
        base = self.stage.settings["ALTIORA_TWILIO_API_BASE" if twilio else "ALTIORA_STRIPE_API_BASE"]
        answer = httpx.post(base + path, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def altiora(self, *arguments: str) -> tuple[int, Any]:
        """Run a command as an operator would; its exit status and its JSON."""
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli", *arguments, "--json"],
            cwd=REPOSITORY,
            env=os.environ | self.stage.settings,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in {0, 1}, done.stderr
        return done.returncode, json.loads(done.stdout)

    # The faults

    def receiver_is_down_for_two_hours(self) -> None:
        port = int(self.stage.settings["ALTIORA_PUBLIC_URL"].rpartition(":")[2])
        self._stop("receiver", self.end - HOUR, self.end + HOUR, recipes.receiver(port))

    def beat_is_down_over_the_end_of_a_period(self) -> None:
        self._stop(
            "beat", self.end - HOUR / 2, self.end + 2 * HOUR, recipes.beat(self.stage.supervisor.folder / "beat")
        )

    def stripe_is_down_over_the_end_of_a_period(self) -> None:
        for instant, seconds in ((self.end - HOUR / 2, 600), (self.end + 2 * HOUR, 0)):
            self.steps[instant] = functools.partial(self.post, "/_sandbox/faults", {"down": {"stripe": seconds}})

    def one_callback_in_twenty_is_lost(self) -> None:
        self.post("/_sandbox/faults", {"drop_callback": 0.05})
        plan_silent_calls(self.stage.sandbox, self.members, self.end + 60 * HOUR)

    def calls_are_told_an_hour_late(self) -> None:
        self._place_calls(late=HOUR)

    def calls_are_told_a_day_late(self) -> None:
        self._place_calls(late=24 * HOUR)

    def calls_are_told_forty_days_late(self) -> None:
        self._place_calls(late=40 * 24 * HOUR)

    def calls_are_corrected(self) -> None:
        """Up and down; while the period can still be billed, and when it can't any more."""
        sids = self._place_calls()
        for instant, (longer, shorter) in ((self.end + HOUR / 2, sids[:2]), (self.end + 3 * HOUR, sids[2:4])):
            self.steps[instant] = functools.partial(self._correct, {longer: 500, shorter: 50})

    def meter_events_are_taken_and_reported_invalid(self) -> None:
        """Somebody archives the meter, and notices; an operator has the refused pushes sent anew."""
        self._place_calls()
        self.steps[self.end - 2 * HOUR] = functools.partial(self._meter, "deactivate")
        self.steps[self.end + 2 * HOUR] = functools.partial(self._meter, "reactivate")
        self.steps[self.end + 3 * HOUR] = self._release_what_stripe_refused
        self.in_the_end = self._repair_what_stripe_did_not_name

    def _stop(self, name: str, since: datetime, until: datetime, again: recipes.Process) -> None:
        self.steps[since] = functools.partial(self.stage.supervisor.stop, name)
        self.steps[until] = functools.partial(again.start, self.stage.supervisor, self.stage.settings)

    def _place_calls(self, late: timedelta = timedelta(0)) -> list[str]:
        """Five calls in the last hour of the period, that Twilio itself shows so late; their SIDs."""
        return [
            self.post(
                "/_sandbox/twilio/calls",
                {
                    "number": self.number,
                    "at": (self.end - timedelta(minutes=minutes)).isoformat(),
                    "seconds": SECONDS,
                    "late_seconds": int(late.total_seconds()),
                },
            )["sid"]
            for minutes in range(10, 60, 10)
        ]

    def _correct(self, calls: dict[str, int]) -> None:
        for sid, seconds in calls.items():
            self.post("/_sandbox/twilio/correct-call", {"sid": sid, "seconds": seconds})

    def _meter(self, action: str) -> None:
        base, key = (self.stage.settings[f"ALTIORA_STRIPE_API_{name}"] for name in ("BASE", "KEY"))
        meters = httpx.get(f"{base}/v1/billing/meters", headers={"Authorization": f"Bearer {key}"}).json()["data"]
        self.post(f"/v1/billing/meters/{meters[0]['id']}/{action}")

    def _repair_what_stripe_did_not_name(self) -> None:
        """A report names three of its events: any more are in doubt until Stripe's sums have settled."""
        in_doubt = self.altiora("reconcile", "--dry-run")[1]["findings"]
        assert {(each["kind"], each["safe"]) for each in in_doubt} <= {("unknown-push", False)}
        if not in_doubt:
            return
        time.sleep(int(self.stage.settings["ALTIORA_STRIPE_SETTLING_SECONDS"]))
        self.altiora("reconcile", "--apply")
        self._release_what_stripe_refused()

    def _release_what_stripe_refused(self) -> None:
        refused = [push for push in self.altiora("pushes", "list")[1] if push["state"] == "failed"]
        assert refused, "nothing was refused"
        for push in refused:
            arguments = ("pushes", "release", str(push["id"]))
            subprocess.run(
                [sys.executable, "-m", "ops.cli", *arguments],
                cwd=REPOSITORY,
                env=os.environ | self.stage.settings,
                check=True,
                stdout=subprocess.DEVNULL,
            )


class TroubledMonth(Month):
    """A month without a screen, in which the steps of a trouble are done at their instants."""

    def __init__(self, trouble: Trouble, end: datetime) -> None:
        self._trouble = trouble
        broken = [Mishap("trouble", instant) for instant in trouble.steps]
        super().__init__(trouble.stage, screen.make(Console(quiet=True)), trouble.members, end, broken, [])
        self._stops = sorted({*self._stops, *trouble.steps})

    def _break(self, mishap: Mishap) -> None:
        self._trouble.steps[mishap.at]()

    def _show(self, waiting_for: str) -> None:
        pass

    def finish(self) -> dict[str, int]:
        """Wait for what a repair has set going."""
        return self._catch_up(60, all_of_it=True)


#: Each with the minutes that are late whatever the machine does: too late for the invoice, and so carried.
FAULTS = {
    Trouble.receiver_is_down_for_two_hours: 0,
    Trouble.one_callback_in_twenty_is_lost: 0,
    Trouble.calls_are_told_an_hour_late: 0,
    Trouble.calls_are_told_a_day_late: 20,
    Trouble.calls_are_told_forty_days_late: 20,
    Trouble.calls_are_corrected: 8,
    Trouble.meter_events_are_taken_and_reported_invalid: 20,
    Trouble.stripe_is_down_over_the_end_of_a_period: 1,
    Trouble.beat_is_down_over_the_end_of_a_period: 0,
}


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_after_the_next_reconciliation_every_minute_is_accounted_for(fault, tmp_path, monkeypatch):
    # Beside a demo that may be running in this clone.
    published = functools.partial(environment.published, file=tmp_path / "env")
    monkeypatch.setattr(environment, "published", published)
    long = fault == Trouble.calls_are_told_forty_days_late
    days = 46 if long else 5
    members = cast(5 if long else 8, days, SEED)
    end = START + timedelta(days=days)
    last = end + AFTERMATH
    with demo_stage.stage(START, SEED, "none", lambda _: None) as stage:
        signed = sign_up(stage, members)
        plan_calls(stage.sandbox, members, end, last - HOUR, SEED)
        trouble = Trouble(stage, members)
        fault(trouble)
        month = TroubledMonth(trouble, last)
        assert month.run() == {}
        trouble.in_the_end()
        _, repaired = trouble.altiora("reconcile", "--apply")
        assert month.finish() == {}
        status, again = trouble.altiora("reconcile", "--dry-run")
        rules = Rules(stage.settings["ALTIORA_TWILIO_ACCOUNT_SID"], bill_child_legs=False)
        evidence = gather(stage.engine, stage.sandbox, rules, signed, last, {}, 0)
    assert (status, again["findings"]) == (0, []), repaired
    assert {verdict.promise: verdict.faults for verdict in verdicts(evidence) if not verdict.kept} == {}
    assert [difference_of(evidence, each.business_id) for each in signed] == [0] * len(signed)
    assert carried(evidence) >= FAULTS[fault]


def carried(evidence: Evidence) -> int:
    """Minutes that came too late for their invoice: of calls, each named, and of an invoice that holds less."""
    of_calls = sum(abs(minutes) for minutes in evidence.carried_calls.values())
    of_invoices: int = sum(abs(row.of_invoice) for row in evidence.records.values())
    return of_calls + of_invoices
