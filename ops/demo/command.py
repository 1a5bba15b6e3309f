"""`altiora demo`: a simulated month of calls and bills on real processes, checked against what really happened."""

import contextlib
import time
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.console import Console

from accounts.secret_keys import SecretKeys
from ops.commands.output import WrongError
from ops.demo import report
from ops.demo import screen as demo_screen
from ops.demo.agents import add_agents
from ops.demo.evidence import Evidence, gather
from ops.demo.month import AFTERMATH, Month, mishaps
from ops.demo.people import DemoPerson, add_people
from ops.demo.promises import Verdict, verdicts
from ops.demo.screen import Screen
from ops.demo.signup import come_back, plan_calls, plan_silent_calls, sign_up
from ops.demo.stage import Stage, StageError, stage
from ops.demo.world import FEWEST_BUSINESSES, START, Member, cast
from ops.processes.embedded import EmbeddedError
from ops.processes.environment import RunningError
from ops.processes.supervisor import SupervisorError
from pipeline.businesses import free_numbers
from pipeline.checking.rebuild_calls import Rules
from pipeline.providers.twilio_api import TwilioApi
from pipeline.shared.settings import TwilioSettings, load
from sandbox.server import PRESETS

#: Two months: then a period of every kind has followed another.
MOST_DAYS = 60


_NO_FAULTS = dict.fromkeys(PRESETS["heavy"], 0.0)


class Faults(StrEnum):
    """What goes wrong on purpose."""

    none = "none"
    default = "default"
    heavy = "heavy"


def demo(
    businesses: Annotated[int, typer.Option(min=FEWEST_BUSINESSES, max=500, help="How many are simulated.")] = 40,
    days: Annotated[
        int, typer.Option(min=2, max=MOST_DAYS, help="Simulated days of calls, from 1 November 2026.")
    ] = 30,
    seed: Annotated[int, typer.Option(help="The same seed makes the same calls.")] = 1,
    faults: Annotated[Faults, typer.Option(help="What goes wrong on purpose.")] = Faults.default,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running in the end, to look around.")] = False,
) -> None:
    """Run a month in a minute or two: signed webhooks in, minutes counted, periods closed, invoices compared."""
    console = Console(highlight=False)
    began = time.monotonic()
    broken = True
    try:
        with contextlib.ExitStack() as stack:
            with demo_screen.make(console) as screen:
                running = stack.enter_context(stage(START, seed, faults.value, screen.step, people=keep))
                evidence, left = _month(running, screen, cast(businesses, days, seed), days, seed, faults)
            found = verdicts(evidence)
            broken = bool(left) or not all(verdict.kept for verdict in found)
            report.show_month(console, evidence)
            console.print()
            report.show_unusual(console, evidence)
            console.print()
            report.show_promises(console, found)
            console.print()
            console.print(_conclusion(evidence, found, left, days, time.monotonic() - began), soft_wrap=True)
            if keep:
                report.show_where_to_look(console, running, evidence)
                report.show_people(console, running, *_people(running, evidence))
                _wait(running)
            console.print("Stopping what was started …", style="dim")
    except (EmbeddedError, RunningError, StageError, SupervisorError) as error:
        raise WrongError(str(error)) from error
    except KeyboardInterrupt:
        console.print("Stopped; everything that was started has ended.")
        if not keep or broken:
            raise typer.Exit(130) from None
    if broken:
        raise typer.Exit(1)


def _month(
    running: Stage, screen: Screen, members: Sequence[Member], days: int, seed: int, faults: Faults
) -> tuple[Evidence, dict[str, int]]:
    """Let the month pass; both sides' record of it, and what the pipeline has not done in time."""
    end = START + timedelta(days=days)
    last = end + AFTERMATH
    screen.step("businesses sign up")
    running.sandbox.set_faults(**_NO_FAULTS)
    signed = sign_up(running, members)
    running.sandbox.set_faults(**PRESETS[faults.value])
    screen.step("calls are planned")
    before_last = last - timedelta(hours=1)
    plan_calls(running.sandbox, members, end, before_last, seed)
    if faults != Faults.none:
        plan_silent_calls(running.sandbox, members, before_last)
    broken, errands = mishaps(faults.value, members, end), come_back(running.sandbox, signed)
    month = Month(running, screen, members, last, broken, errands)
    left = month.run()
    screen.step("both sides are compared")
    rules = Rules(running.settings["ALTIORA_TWILIO_ACCOUNT_SID"], bill_child_legs=False)
    running.sandbox.set_faults(**_NO_FAULTS)
    return gather(running.engine, running.sandbox, rules, signed, last, month.mishaps, month.messages_lost), left


def _conclusion(evidence: Evidence, found: Sequence[Verdict], left: dict[str, int], days: int, seconds: float) -> str:
    broken = [verdict.promise for verdict in found if not verdict.kept]
    outcome = f"broken: promise {', '.join(broken)}" if broken else "every promise was kept"
    if left:
        outcome += "; not done in time: " + ", ".join(f"{count:,} {what}" for what, count in left.items())
    return (
        f"{len(evidence.signed)} businesses, {days} days, {len(evidence.ledger):,} calls"
        f" in {seconds // 60:.0f} min {seconds % 60:.0f} s: {outcome}."
    )


def _people(running: Stage, evidence: Evidence) -> tuple[str, Sequence[DemoPerson]]:
    """Let people into the two businesses that used most, of those that pay; their agents have something to say."""
    keys = SecretKeys([SecretStr(running.settings["ALTIORA_SECRET_KEYS"])])
    paying = sorted(
        {each.business_id for each in evidence.signed if each.customer is not None},
        key=lambda business_id: -sum(use.minutes for use in evidence.uses if use.signed.business_id == business_id),
    )
    add_agents(running.engine, paying[:2], evidence.now)
    running.sandbox.add_free_numbers()
    free_numbers.note_account(running.engine, TwilioApi(load(TwilioSettings, running.settings)).list_numbers())
    return add_people(running.engine, keys, paying)


def _wait(running: Stage) -> None:
    """Until Ctrl-C, or until a process ends."""
    while True:
        running.check()
        time.sleep(1)
