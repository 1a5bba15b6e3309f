"""One seed of the soak: some days of a few businesses on real processes, in which every kind of fault happens once.

In the end the demo's own promises are asked, the three ledgers compared, and nothing may be left for a person.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console
from sqlalchemy import text

from ops.demo import screen
from ops.demo.evidence import gather
from ops.demo.month import AFTERMATH, Mishap, Month, stops
from ops.demo.promises import verdicts
from ops.demo.signup import come_back, plan_calls, plan_silent_calls, sign_up
from ops.demo.stage import Stage, stage
from ops.demo.world import START, Member, cast
from pipeline.checking.rebuild_calls import Rules
from tests.soak.faults import Faults, worker_of_the_soak

BUSINESSES = 12
DAYS = 3
HOUR = timedelta(hours=1)

#: Of a promise that is broken so many faults are told.
MOST_TOLD = 5
#: Differences that end by themselves, or that nothing can be done about: minutes that were told when their customer had
#: left, and its last invoice was final.
_TOLD = {"incomplete-source", "unbillable"}


@dataclass
class Outcome:
    """What one seed came to: ``faults``, how many seconds each kind took, and all that is ``wrong``."""

    seed: int
    seconds: float = 0.0
    calls: int = 0
    minutes: int = 0
    faults: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


class SoakedMonth(Month):
    """A month without a screen, in which one thing after another breaks."""

    def __init__(
        self,
        running: Stage,
        members: Sequence[Member],
        end: datetime,
        faults: dict[Mishap, Callable[[], None]],
        errands: Sequence[tuple[datetime, Callable[[], None]]],
    ) -> None:
        self._faults = faults
        self.took: dict[str, float] = {}
        """Seconds of machine time, by kind."""
        super().__init__(running, screen.make(Console(quiet=True)), members, end, list(faults), errands)
        self._stops = sorted({*self._stops, *(mishap.at for mishap in faults)})

    def _break(self, mishap: Mishap) -> None:
        began = time.monotonic()
        self._faults[mishap]()
        self.took[mishap.kind] = round(time.monotonic() - began, 1)

    def _show(self, waiting_for: str) -> None:
        pass

    def finish(self, seconds: float) -> dict[str, int]:
        return self._catch_up(seconds, all_of_it=True)


def live(seed: int, folder: Path) -> Outcome:
    """Live one seed; what went wrong is in the outcome. Then, and where it broke, the logs stay in the folder."""
    began = time.monotonic()
    outcome = Outcome(seed, wrong=["it broke"])
    with stage(START, seed, "none", lambda _: None) as running:
        try:
            _live(running, random.Random(seed), outcome, folder)
        finally:
            if outcome.wrong:
                for log in running.supervisor.folder.glob("*.log"):
                    (folder / f"seed-{seed}-{log.name}").write_bytes(log.read_bytes())
    outcome.seconds = round(time.monotonic() - began, 1)
    return outcome


def _live(running: Stage, chance: random.Random, outcome: Outcome, folder: Path) -> None:
    members = cast(BUSINESSES, DAYS, outcome.seed)
    end = START + timedelta(days=DAYS)
    last = end + AFTERMATH
    running.supervisor.stop("worker")
    worker_of_the_soak().start(running.supervisor, running.settings)
    signed = sign_up(running, members)
    plan_calls(running.sandbox, members, end, last - HOUR, outcome.seed)
    plan_silent_calls(running.sandbox, members, last - HOUR)
    running.sandbox.set_faults(duplicate=0.02, shuffle=0.05, drop_callback=0.02)
    faults = Faults(running, chance, folder)
    planned = _planned(faults, chance, members, end)
    month = SoakedMonth(running, members, last, planned, come_back(running.sandbox, signed))
    left = month.run()
    if left:
        left = month.finish(30)
    running.sandbox.set_faults(duplicate=0.0, shuffle=0.0, drop_callback=0.0)
    rules = Rules(running.settings["ALTIORA_TWILIO_ACCOUNT_SID"], bill_child_legs=False)
    evidence = gather(running.engine, running.sandbox, rules, signed, last, {}, 0)
    wrong = [f"not done in time: {count} {what}" for what, count in left.items()]
    for verdict in verdicts(evidence):
        told = [fault for fault in verdict.faults if not any(sid in fault for sid in faults.killers)]
        wrong += [f"{verdict.title}: {fault}" for fault in told[:MOST_TOLD]]
    outcome.calls, outcome.minutes = len(evidence.ledger), sum(row.minutes for row in evidence.records.values())
    outcome.faults = month.took
    wrong += [f"{name} has ended" for name in running.processes if not running.supervisor.alive(name)]
    outcome.wrong = wrong + _left_for_a_person(running, faults.killers)


def _planned(
    faults: Faults, chance: random.Random, members: Sequence[Member], end: datetime
) -> dict[Mishap, Callable[[], None]]:
    """When which kind happens: half of them when a period that Stripe bills ends, or its last pushes are due."""
    kinds = faults.kinds()
    chance.shuffle(kinds)
    critical = stops(members, end)
    planned = {}
    for kind in kinds:
        at = START + (end - START) * chance.random()
        if critical and chance.random() < 0.5:
            at = chance.choice(critical) + timedelta(minutes=chance.uniform(-5, 5))
        planned[Mishap(kind.__name__.replace("_", " "), at)] = kind
    return planned


def _left_for_a_person(running: Stage, killers: list[str]) -> list[str]:
    """Dead events but for the killers, halts, differences that somebody would have to end."""
    with running.engine.connect() as connection:
        dead = connection.execute(text("select key, reason from webhook_events where state = 'dead'")).all()
        halts = connection.execute(text("select work, error from halts")).all()
        drifts = connection.execute(text("select kind, subject, actual from drifts where resolved_at is null")).all()
    wrong = [f"dead: {key}, {reason}" for key, reason in dead if not key.startswith(tuple(killers))]
    killed = {key.partition(":")[0] for key, reason in dead if reason == "kills-its-worker"}
    wrong += [f"{sid} is not dead for its killing" for sid in killers if sid not in killed]
    wrong += [f"{work} is halted: {error}" for work, error in halts]
    return wrong + [f"{kind} {subject}: {actual}" for kind, subject, actual in drifts if kind not in _TOLD]
