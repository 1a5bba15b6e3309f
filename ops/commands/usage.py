"""`altiora usage`: what a business used, period by period."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ops.commands.business_argument import find
from ops.commands.database import choose_settings, reading
from ops.commands.output import AsJson, print_json, print_table, say, shown
from ops.commands.period_argument import find_record
from pipeline.prices.money import money
from pipeline.reading import csv_tables, period_costs
from pipeline.reading.period_calls import period_calls
from pipeline.reading.period_money import MonthRow, month_rows
from pipeline.reading.usage import UsedPeriod, read_usage
from pipeline.shared.clock import business_clock


def usage(
    business: Annotated[
        str | None, typer.Argument(metavar="BUSINESS", help="Its id, or its exact name; without it --month.")
    ] = None,
    month: Annotated[
        str | None, typer.Option(metavar="MONTH", help="Of all businesses, the periods that begin in it: 2026-11, UTC.")
    ] = None,
    calls: Annotated[
        str | None,
        typer.Option(metavar="PERIOD", help="Print the calls of this period as CSV: 2026-11, last, current."),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, for a spreadsheet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a business used, in each of its billing periods; or, with --month, what all of them did."""
    chosen = choose_settings()
    if (business is None) == (month is None):
        raise typer.BadParameter("name a business, or --month 2026-11 for all of them")
    if month is not None:
        start, end = _month(month)
        with reading(chosen) as connection:
            rows = month_rows(connection, start, end)
        _tell_month(rows, as_csv=as_csv, as_json=as_json)
        return
    assert business is not None
    if calls is not None:
        with reading(chosen) as connection:
            record_id = find_record(connection, business, calls, business_clock(chosen).now())
            typer.echo(csv_tables.as_csv(map(dataclasses.asdict, period_calls(connection, record_id))), nl=False)
        return
    if as_csv:
        raise typer.BadParameter("--csv goes with --month; the calls of a period are --calls PERIOD")
    with reading(chosen) as connection:
        used = read_usage(connection, find(connection, business), business_clock(chosen).now())
    if as_json:
        passing = {"limited_until": used.limited_until, "grace_until": used.grace_until}
        print_json(
            {
                "business": used.business,
                "plan": used.plan,
                "service_status": used.service_status,
                **{name: until for name, until in passing.items() if until is not None},
                "records": used.records,
            }
        )
        return
    status: str = used.service_status
    if used.limited_until is not None:
        status = f"limited until {shown(used.limited_until)} UTC"
    if used.grace_until is not None:
        status = f"active, a payment is overdue, suspended from {shown(used.grace_until)} UTC on"
    say(f"{used.business}: plan {used.plan}, {status}")
    print_table(
        [_row(record) for record in used.records],
        numbers=["calls", "minutes", "over", "carried", "pushed"],
        nothing="No call has been counted yet.",
    )


def _month(text: str) -> tuple[datetime, datetime]:
    try:
        start = datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise typer.BadParameter(f"{text} is no month: write 2026-11") from None
    return start, (start + timedelta(days=32)).replace(day=1)


def _tell_month(rows: list[MonthRow], *, as_csv: bool, as_json: bool) -> None:
    if as_json:
        print_json(rows)
    elif as_csv:
        typer.echo(csv_tables.as_csv(map(dataclasses.asdict, rows)), nl=False)
    else:
        print_table(
            [
                {
                    "business": row.business,
                    "plan": row.plan,
                    "minutes": row.minutes,
                    "over": row.overage,
                    "fee": money(row.fee, row.currency),
                    "for minutes": money(row.minutes_amount, row.currency),
                    "margin": f"{row.margin:,.2f} {row.currency.upper()}",
                }
                for row in rows
            ],
            numbers=["minutes", "over", "fee", "for minutes", "margin"],
            nothing="No period begins in that month.",
        )


def _over(record: UsedPeriod) -> str:
    """Minutes, and what all minutes of the period cost where a price is known."""
    if not record.minutes_amount or record.currency is None:
        return f"{record.overage:,}"
    return f"{record.overage:,}\n{money(record.minutes_amount, record.currency)}"


def _row(record: UsedPeriod) -> dict[str, Any]:
    """Two lines: figures below each other, so that eight of them are read in 80 columns."""
    return {
        "period (UTC)": f"{shown(record.period_start)}\n{shown(record.period_end)}",
        "state": record.state,
        "calls": record.calls,
        "minutes": f"{record.minutes:,}\nof {period_costs.included(record.included)}",
        "over": f"{record.unbilled:,}\nunbilled" if record.unbilled else _over(record),
        "carried": record.adjustments,
        "pushed": record.pushed,
    }
