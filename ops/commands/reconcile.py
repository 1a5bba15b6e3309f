"""`altiora reconcile`: Twilio's calls, ours, the records, the pushes and Stripe's sums, compared now."""

import logging
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import typer

from ops.commands import business_argument
from ops.commands.audit import record
from ops.commands.database import choose_settings, engine
from ops.commands.output import AsJson, WrongError, print_blocks, print_json, print_table, say
from pipeline.checking import reconciliation
from pipeline.checking.reconciliation import Finding
from pipeline.prices.money import money
from pipeline.providers.stripe_api import StripeApi, StripeApiError
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.reading.period_money import MonthRow, month_rows
from pipeline.shared import logs
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import DatabaseSettings, RuleSettings, StripeSettings, TwilioSettings, load
from pipeline.usage.minutes_worth import Tariff

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
        tariffs = reconciliation.present_tariffs(made)
        try:
            repaired = reconciliation.repair_findings(made, found) if apply else 0
        except ValueError as error:
            raise WrongError(str(error)) from error
        if repaired:
            with made.begin() as connection:
                record(
                    connection,
                    "reconcile --apply",
                    "all" if business_id is None else f"business:{business_id}",
                    business_id=business_id,
                    detail={"repaired": repaired, "differences": len(found)},
                )
        costs: list[MonthRow] = []
        if business_id is not None:
            with made.connect() as connection:
                costs = month_rows(connection, now - _COST_OF, now, business_id)
    rows = [_row(finding, tariffs) for finding in found]
    minutes = sum(row["minutes"] for row in rows)
    amounts: Counter[str] = Counter()
    for row in rows:
        if row["currency"] is not None:
            amounts[row["currency"]] += row["amount"]
    if as_json:
        total = {"differences": len(rows), "minutes": minutes, "amounts": amounts, "repaired": repaired}
        print_json({**total, "findings": rows, "costs": costs})
    else:
        worth = ", ".join(money(amount, currency) for currency, amount in sorted(amounts.items()))
        priced = f"worth {worth}" if worth else "no price is known for them"
        say(f"{len(rows)} differences, {minutes:,} minutes{f', {priced}' if rows else ''}; {repaired} repaired.")
        if rows:
            print_blocks(map(_in_words, rows), nothing="")
        if costs:
            print_table(map(_cost, costs), numbers=["minutes", "brings in", "Twilio", "margin", "unpriced"])
    if rows:
        raise typer.Exit(1)


def _row(finding: Finding, tariffs: Mapping[int, Tariff]) -> dict[str, Any]:
    tariff = None if finding.business_id is None else tariffs.get(finding.business_id)
    return {
        "kind": finding.kind,
        "business": finding.business_id,
        "subject": finding.subject,
        "minutes": float(finding.minutes) if finding.minutes % 1 else int(finding.minutes),
        "amount": None if tariff is None else tariff.worth(round(finding.minutes)),
        "currency": None if tariff is None else tariff.currency,
        "difference": finding.words,
        "repair": finding.repair,
        "safe": finding.apply is not None,
    }


def _in_words(row: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    worth = "" if row["currency"] is None else f", worth {money(row['amount'], row['currency'])}"
    return f"{row['kind']}  {row['subject']}", {
        "business": row["business"],
        "minutes": f"{row['minutes']:,}{worth}",
        "difference": row["difference"],
        "repair": row["repair"],
        "safe": "yes: --apply repairs it" if row["safe"] else "no: for a person",
    }


def _cost(cost: MonthRow) -> dict[str, Any]:
    currency = cost.currency.upper()
    return {
        "period from": f"{cost.period_start:%Y-%m-%d}",
        "plan": cost.plan,
        "minutes": cost.minutes,
        "brings in": money(cost.fee + cost.minutes_amount, cost.currency),
        "Twilio": f"{cost.cost:,.2f} {currency}",
        "margin": f"{cost.margin:,.2f} {currency}",
        "unpriced": cost.unpriced_calls,
    }
