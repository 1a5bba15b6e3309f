"""`altiora statement`: what was frozen when a period was closed, as a page for the business, and whether it holds."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy import Connection

from ops.commands.business_argument import BusinessArgument
from ops.commands.database import choose_settings, reading
from ops.commands.output import AsJson, WrongError, print_json, say, shown
from ops.commands.period_argument import PeriodArgument, find_record
from pipeline.closing.statement import Statement
from pipeline.reading import period_costs, statement_check
from pipeline.reading.period_money import PeriodMoney, period_money
from pipeline.reading.statement_check import Verification
from pipeline.shared.clock import business_clock

_STANDARD_OUTPUT = Path("-")


def statement(
    business: BusinessArgument,
    period: PeriodArgument,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a page for the business into FILE; - is standard output.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash the calls anew and say whether they still are what was frozen.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the statement that was frozen when a period was closed."""
    if html is not None and (verify or as_json):
        raise typer.BadParameter("--html writes a page; --json and --verify go without it")
    chosen = choose_settings()
    with reading(chosen) as connection:
        record = statement_check.read_statement(
            connection, find_record(connection, business, period, business_clock(chosen).now())
        )
        frozen = record.statement
        if frozen is None:
            raise WrongError(
                f"this period is {record.state}: its statement is frozen when it closes;"
                f" `altiora explain` tells what is known until then"
            )
        costs = period_money(connection, [record.id])[0]
        if verify:
            verified = statement_check.verify_statement(connection, record.id, frozen["calls_sha256"])
        elif html is not None:
            _write(html, connection, record.id, frozen, costs)
    if verify:
        _tell_verified(record.id, verified, as_json=as_json)
    elif as_json:
        print_json({**frozen, "money": costs})
    elif html is None:
        _tell(frozen, costs)


def _write(file: Path, connection: Connection, record_id: int, frozen: Statement, costs: PeriodMoney) -> None:
    from pipeline.reading.statement_page import Breakdown, page  # noqa: PLC0415 - the template is read by who writes a page

    days = statement_check.calls_by_day(connection, record_id, frozen["business"]["time_zone"])
    numbers = statement_check.calls_by_number(connection, record_id)
    made = page(record_id, frozen, Breakdown(days, numbers), costs)
    if file == _STANDARD_OUTPUT:
        typer.echo(made)
        return
    try:
        file.write_text(made, encoding="utf-8")
    except OSError as error:
        raise WrongError(
            f"{file} can't be written ({error.strerror}); name a file in a folder that is there"
        ) from error
    say(f"Wrote {file}; a browser prints it on A4, or as a PDF.")


def _tell(frozen: Statement, costs: PeriodMoney) -> None:
    period = frozen["period"]
    say(f"{frozen['business']['name']}: {period['start']} to {period['end']}, closed {frozen['closed_at']}")
    figures = {
        "plan": frozen["plan"],
        "calls": frozen["calls"],
        "minutes": frozen["minutes"],
        "included": period_costs.included(frozen["included"]),
        "overage": frozen["overage"],
        "unbilled": frozen["unbilled"],
        "adjustments": frozen["adjustments"],
        "written off": frozen["written_off"],
        "pushed": frozen["pushed"],
    }
    for name, value in figures.items():
        say(f"  {name:14}{shown(value)}")
    for name, words in period_costs.lines(costs):
        say(f"  {name:14}{words}")
    for each in frozen["each_adjustment"]:
        of = each["call"] or "the invoice"
        say(f"  {each['kind']} {each['minutes']:+,} of {of} ({each['reason']}), period from {each['period']['start']}")
    for state, pushes in frozen["pushes"]["by_state"].items():
        say(f"  pushes {state:7}{pushes['count']:,}, {pushes['minutes']:,} minutes")
    say(f"  gaps          {', '.join(frozen['gaps']) or 'none'}")
    say(f"  sources       {frozen['sources']}")
    say(f"  calls sha256  {frozen['calls_sha256']}")


def _tell_verified(record_id: int, verified: Verification, *, as_json: bool) -> None:
    if as_json:
        print_json({"record": record_id, **dataclasses.asdict(verified)})
    else:
        say(f"frozen   {verified.frozen}")
        say(f"counted  {verified.counted}  {_same(verified.counted, verified.frozen)}")
        say(f"present  {verified.present}  {_same(verified.present, verified.frozen)}")
        for each in verified.since:
            say(_since(each))
    if not verified.intact:
        raise WrongError(
            "the calls are not what was frozen: something changed them outside the drain;"
            " `altiora rebuild --dry-run` of this period names the calls"
        )
    if not as_json:
        words = f"{len(verified.since)} calls became known later, and are carried." if verified.since else ""
        say(f"The statement still is that of its calls. {words}".rstrip())


def _same(value: str, frozen: str) -> str:
    return "the same" if value == frozen else "differs"


def _since(each: statement_check.Since) -> str:
    was = f"{each.counted_seconds} s, {each.counted_minutes} min" if each.counted else "not there"
    now = f"{'unknown' if each.seconds is None else each.seconds} s, {each.minutes} min"
    carried = f"carried {each.carried:+}" if each.explained else f"NOT EXPLAINED: carried {each.carried:+}"
    return f"since    {each.call}: at the close {was}; now {now}; {carried}"
