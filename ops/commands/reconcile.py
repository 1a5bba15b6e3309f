"""`altiora reconcile`: Twilio's calls, ours, the records, the pushes and Stripe's sums, compared now."""

import logging
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Any

import typer

from ops.commands import business_argument
from ops.commands.database import choose_settings, engine
from ops.commands.output import AsJson, WrongError, print_json, print_table, say
from pipeline.checking import reconciliation
from pipeline.checking.reconciliation import Finding
from pipeline.providers.stripe_api import StripeApi, StripeApiError
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.reading import margins
from pipeline.shared import logs
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import DatabaseSettings, RuleSettings, StripeSettings, TwilioSettings, load

#: Records whose cost is shown: those of about the last two periods.
_COST_OF = timedelta(days=40)


def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show only; the default.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do the repairs that are safe.")] = False,
    business: Annotated[str | None, typer.Option("--business", help="Only this one, by its id or exact name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare Twilio, ourselves and Stripe; status 0 when nothing differs, 1 when something does.

    With --business also what its calls cost beside what its plan brings in.
    """
    if dry_run and apply:
        raise typer.BadParameter("choose one of --dry-run and --apply")
    logs.configure(logging.WARNING)
    chosen = choose_settings(DatabaseSettings, RuleSettings, StripeSettings, TwilioSettings)
    settings = load(StripeSettings, chosen)
    now = business_clock(chosen).now()
    with engine(chosen) as made:
        business_id = None
        if business is not None:
            with made.connect() as connection:
                business_id = business_argument.find(connection, business)
        try:
            found = reconciliation.find_differences(
                made,
                TwilioApi(load(TwilioSettings, chosen)),
                StripeApi(settings),
                now,
                timedelta(seconds=settings.stripe_settling_seconds),
                business_id,
                bill_child_legs=load(RuleSettings, chosen).bill_child_legs,
            )
        except (TwilioApiError, StripeApiError, LookupError) as error:
            raise WrongError(f"nothing was changed, since not all can be compared: {error}; try again") from error
        values = reconciliation.minute_values(made)
        try:
            repaired = reconciliation.repair_findings(made, found) if apply else 0
        except ValueError as error:
            raise WrongError(str(error)) from error
        costs: list[margins.Margin] = []
        if business_id is not None:
            with made.connect() as connection:
                costs = margins.margins(connection, now, now - _COST_OF, business_id)
    rows = [_row(finding, values) for finding in found]
    total = {"differences": len(rows), "minutes": sum(row["minutes"] for row in rows), "repaired": repaired}
    total["cents"] = sum(row["cents"] for row in rows)
    if as_json:
        print_json({**total, "findings": rows, "costs": [_cost(cost) for cost in costs]})
    else:
        money = f"{total['cents'] / 100:,.2f} at the plans' prices"
        say(f"{total['differences']} differences, {total['minutes']:,} minutes, {money}; {repaired} repaired.")
        if rows:
            print_table(rows, numbers=["minutes", "cents"])
        if costs:
            print_table(map(_cost_in_words, costs), numbers=["minutes", "price", "Twilio", "margin", "unpriced"])
    if rows:
        raise typer.Exit(1)


def _row(finding: Finding, values: dict[int, Decimal]) -> dict[str, Any]:
    value = values.get(finding.business_id, Decimal(0)) if finding.business_id is not None else Decimal(0)
    return {
        "kind": finding.kind,
        "business": finding.business_id,
        "subject": finding.subject,
        "minutes": float(finding.minutes) if finding.minutes % 1 else int(finding.minutes),
        "cents": int((finding.minutes * value).quantize(Decimal(1), ROUND_HALF_UP)),
        "difference": finding.words,
        "repair": finding.repair,
        "safe": finding.apply is not None,
    }


def _cost(cost: margins.Margin) -> dict[str, Any]:
    margin = cost.margin_cents
    return {
        "period_start": cost.period_start,
        "plan": cost.plan,
        "minutes": cost.minutes,
        "price_cents": cost.price_cents,
        "currency": cost.currency,
        "cost_cents": {unit: f"{cents:.2f}" for unit, cents in cost.costs.items()},
        "unpriced": cost.unpriced_calls,
        "margin_cents": None if margin is None else f"{margin:.2f}",
    }


def _cost_in_words(cost: margins.Margin) -> dict[str, Any]:
    margin, currency = cost.margin_cents, cost.currency or ""
    return {
        "period from": f"{cost.period_start:%Y-%m-%d}",
        "plan": cost.plan,
        "minutes": cost.minutes,
        "price": f"{cost.price_cents / 100:,.2f} {currency}",
        "Twilio": ", ".join(f"{cents / 100:,.2f} {unit}" for unit, cents in cost.costs.items()),
        "margin": None if margin is None else f"{margin / 100:,.2f} {currency}",
        "unpriced": cost.unpriced_calls,
    }
