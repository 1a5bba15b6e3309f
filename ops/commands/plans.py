"""`altiora plans`: what is sold."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.audit import Reason, record
from ops.commands.database import choose_settings, reading, transaction
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown
from pipeline.businesses import plan_catalogue
from pipeline.businesses.plan_catalogue import PlanError, PlanFigures
from pipeline.reading.plans import ListedPlan, list_plans
from pipeline.shared.clock import business_clock

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="What is sold: list plans, change, add, retire them."
)

_Code = Annotated[str, typer.Argument(metavar="PLAN", help="Its code, as in Stripe's metadata altiora_plan.")]
_Name = Annotated[str | None, typer.Option(help="What people call it.")]
_Price = Annotated[int | None, typer.Option(help="Cents a month.")]
_Minutes = Annotated[int | None, typer.Option(help="Included in a billing period.")]
_Agents = Annotated[int | None, typer.Option(help="At most.")]
_Numbers = Annotated[int | None, typer.Option(help="At most.")]
_Increment = Annotated[int | None, typer.Option(help="Seconds are rounded up to it, then to whole minutes.")]
_Grace = Annotated[int | None, typer.Option(help="From a failed payment to the suspension.")]
_Policy = Annotated[str | None, typer.Option(help="What becomes of minutes that come too late: carry or write-off.")]
_Limit = Annotated[int | None, typer.Option(help="More late minutes of one period are held for a person.")]


@contextlib.contextmanager
def _change() -> Iterator[Connection]:
    try:
        with transaction(choose_settings()) as connection:
            yield connection
    except PlanError as error:
        raise WrongError(str(error)) from error


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Show all plans, with their figures, the businesses on them, and Stripe's prices for them."""
    with reading(choose_settings()) as connection:
        found = list_plans(connection)
    if as_json:
        print_json(found)
        return
    print_table([_row(plan) for plan in found], numbers=["month", "minutes", "agents", "numbers", "used by"])


def _row(plan: ListedPlan) -> dict[str, object]:
    return {
        "plan": plan.code if plan.retired_at is None else f"{plan.code}\nretired",
        "month": f"{plan.price_cents / 100:,.2f}",
        "minutes": plan.included_minutes,
        "agents": plan.agents,
        "numbers": plan.numbers,
        "rules": f"{plan.increment_seconds} s steps\n{plan.payment_grace_days} d grace",
        "late minutes": f"{plan.late_policy}\nup to {plan.late_limit_minutes:,}",
        "used by": plan.businesses,
    }


@app.command("set")
def set_(
    plan: _Code,
    name: _Name = None,
    price_cents: _Price = None,
    included_minutes: _Minutes = None,
    agents: _Agents = None,
    numbers: _Numbers = None,
    increment_seconds: _Increment = None,
    payment_grace_days: _Grace = None,
    late_policy: _Policy = None,
    late_limit_minutes: _Limit = None,
    reason: Reason = None,
) -> None:
    """Change a plan's figures. Minutes, steps and late rules hold from each business's next period.

    What Stripe charges is its prices': change those there, and see `altiora doctor`.
    """
    figures = PlanFigures(
        name,
        price_cents,
        included_minutes,
        agents,
        numbers,
        increment_seconds,
        payment_grace_days,
        late_policy,
        late_limit_minutes,
    )
    with _change() as connection:
        plan_catalogue.set_plan(connection, plan, figures)
        changed = [each.name for each in dataclasses.fields(figures) if getattr(figures, each.name) is not None]
        record(connection, "plans set", f"plan:{plan}", reason=reason, fields=changed)
    say(f"Plan {plan} is changed; periods that have begun keep what they began with.")


@app.command()
def add(
    plan: _Code,
    name: Annotated[str, typer.Option(help="What people call it.")],
    price_cents: Annotated[int, typer.Option(help="Cents a month.")],
    included_minutes: Annotated[int, typer.Option(help="Included in a billing period.")],
    agents: Annotated[int, typer.Option(help="At most.")],
    numbers: Annotated[int, typer.Option(help="At most.")],
    increment_seconds: _Increment = 60,
    payment_grace_days: _Grace = 7,
    late_policy: _Policy = "carry",
    late_limit_minutes: _Limit = 3000,
    reason: Reason = None,
) -> None:
    """Add a plan. Its prices are made in Stripe, with metadata altiora_plan."""
    figures = PlanFigures(
        name,
        price_cents,
        included_minutes,
        agents,
        numbers,
        increment_seconds,
        payment_grace_days,
        late_policy,
        late_limit_minutes,
    )
    with _change() as connection:
        plan_catalogue.add_plan(connection, plan, figures)
        record(connection, "plans add", f"plan:{plan}", reason=reason)
    say(f"Added plan {plan}. Its prices at Stripe need metadata altiora_plan={plan}; `altiora doctor` looks at them.")


@app.command()
def retire(plan: _Code, reason: Reason = None) -> None:
    """Sell a plan no longer. Who has it keeps it."""
    chosen = choose_settings()
    with _change() as connection:
        plan_catalogue.retire_plan(connection, plan, business_clock(chosen).now())
        record(connection, "plans retire", f"plan:{plan}", reason=reason)
        left = next((each.businesses for each in list_plans(connection) if each.code == plan), 0)
    say(f"Plan {plan} is retired; {shown(left)} businesses keep it.")
