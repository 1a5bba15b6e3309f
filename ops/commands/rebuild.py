"""`altiora rebuild`: a billing period once more, from the stored webhook events alone, and what differs."""

import dataclasses
from typing import Annotated, Any

import typer

from ops.commands.audit import record
from ops.commands.database import Chosen, choose_settings, engine
from ops.commands.events import nudge
from ops.commands.output import AsJson, WrongError, print_json, print_table, say, shown
from ops.commands.period_argument import find_record
from pipeline.checking import rebuild as rebuilding
from pipeline.checking.rebuild import NotRebuiltError, Rebuilt, Tally, TooOldError
from pipeline.checking.rebuild_calls import Difference, Rules
from pipeline.events.retention import KEPT_MONTHS
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import BrokerSettings, DatabaseSettings, RuleSettings, TwilioSettings, load

#: Differences of all records that JSON gives in full; the others are counted.
_GIVEN = 1_000


def rebuild(
    business: Annotated[str | None, typer.Argument(metavar="BUSINESS", help="Its id, or its exact name.")] = None,
    period: Annotated[
        str | None, typer.Argument(metavar="PERIOD", help="A time, a day or a month, current, or last.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every period of every business; only with --dry-run.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what differs. Else events of calls that differ are replayed.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild a billing period from its stored webhook events, and show any difference, to the call."""
    if every in {period is not None, business is not None}:
        raise typer.BadParameter("say which: BUSINESS and PERIOD, or --all")
    if every and not dry_run:
        raise typer.BadParameter("--all only shows what differs: add --dry-run; periods are repaired one by one")
    chosen = choose_settings(DatabaseSettings, TwilioSettings, RuleSettings, *(() if dry_run else (BrokerSettings,)))
    rules = Rules(load(TwilioSettings, chosen).twilio_account_sid, load(RuleSettings, chosen).bill_child_legs)
    if business is None or period is None:
        _all(chosen, rules, as_json=as_json)
    else:
        _one(chosen, business, period, rules, dry_run=dry_run, as_json=as_json)


def _one(chosen: Chosen, business: str, period: str, rules: Rules, *, dry_run: bool, as_json: bool) -> None:
    now = business_clock(chosen).now()
    replayed = None
    with engine(chosen) as made:
        with made.begin() as connection:
            record_id = find_record(connection, business, period, now)
        try:
            rebuilt = rebuilding.rebuild_record(made, record_id, rules, now)
        except TooOldError as error:
            raise WrongError(str(error)) from error
        if not as_json:
            _tell(rebuilt)
        if not dry_run:
            try:
                with made.begin() as connection:
                    replayed = rebuilding.reapply(connection, rebuilt)
                    record(connection, "rebuild", f"record:{record_id}", detail={"replayed": replayed})
            except NotRebuiltError as error:
                raise WrongError(str(error)) from error
    if replayed:
        nudge(load(BrokerSettings, chosen).broker_url.get_secret_value())
    if as_json:
        print_json(_as_json(rebuilt, replayed))
    elif replayed is not None:
        say(_replayed(replayed, rebuilt))
    if rebuilt.differences:
        raise WrongError(_found(len(rebuilt.differences), dry_run=dry_run))


def _found(count: int, *, dry_run: bool) -> str:
    what = "1 difference was found" if count == 1 else f"{count:,} differences were found"
    return f"{what}; docs/operations.md says what to do about each kind" if dry_run else what


def _replayed(count: int, rebuilt: Rebuilt) -> str:
    left = sum(1 for each in rebuilt.differences if not each.event_ids or each.frozen)
    told = (
        f"Events that will be applied again: {count:,}. Once `altiora backlog` shows none pending, rebuild once more."
    )
    return f"{told} Not by that repaired: {left:,} differences." if left else told


def _tell(rebuilt: Rebuilt) -> None:
    record, tally = rebuilt.record, rebuilt.tally
    say(
        f"{record.business}: {shown(record.period_start)} to {shown(record.period_end)} UTC, record {record.id},"
        f" {record.state}"
    )
    figures = _figures(rebuilt)
    print_table(
        [{"": name, **each} for name, each in figures.items()],
        numbers=["record", "rebuilt", "difference"],
    )
    for each in rebuilt.differences:
        say(_difference(each))
    if tally.waiting:
        say(f"Calls with events that are still to be applied, taken as they are stored: {tally.waiting:,}")
    if not rebuilt.differences:
        say(f"No difference. Calls rebuilt from their events: {tally.calls:,}")


def _figures(rebuilt: Rebuilt) -> dict[str, dict[str, int]]:
    record = rebuilt.record
    pairs = {
        "calls": (record.calls, rebuilt.calls),
        "seconds": (record.seconds, rebuilt.seconds),
        "minutes": (record.minutes, rebuilt.minutes),
        "carried into it": (record.adjustment_minutes, rebuilt.adjustments),
    }
    return {
        name: {"record": stored, "rebuilt": again, "difference": again - stored}
        for name, (stored, again) in pairs.items()
    }


def _difference(each: Difference) -> str:
    subject = each.call or f"record {each.record_id}"
    events = f" (events {', '.join(map(str, each.event_ids))})" if each.event_ids else ""
    return f"{each.kind:14}{subject}: stored {each.stored}; rebuilt {each.rebuilt}{events}"


def _as_json(rebuilt: Rebuilt, replayed: int | None) -> dict[str, Any]:
    record = rebuilt.record
    return {
        "business": {"id": record.business_id, "name": record.business},
        "record": record.id,
        "state": record.state,
        "period_start": record.period_start,
        "period_end": record.period_end,
        "figures": _figures(rebuilt),
        "calls": rebuilt.tally.calls,
        "waiting": rebuilt.tally.waiting,
        "differences": [dataclasses.asdict(each) for each in rebuilt.differences],
        **({} if replayed is None else {"replayed": replayed}),
    }


def _all(chosen: Chosen, rules: Rules, *, as_json: bool) -> None:
    tally, found, given = Tally(), 0, []
    with engine(chosen) as made:
        for each in rebuilding.rebuild_all(made, rules, business_clock(chosen).now(), tally):
            found += 1
            if not as_json:
                say(_difference(each))
            elif found <= _GIVEN:
                given.append(dataclasses.asdict(each))
    if as_json:
        print_json({**dataclasses.asdict(tally), "found": found, "differences": given})
    else:
        say(f"{tally.calls:,} calls and {tally.records:,} records: {found or 'no'} differences.")
        if tally.waiting:
            say(f"Calls with events that are still to be applied, left out: {tally.waiting:,}")
        if tally.old:
            say(
                f"{tally.old:,} records are older than the events, which are kept for {KEPT_MONTHS} months:"
                " only their sums were checked."
            )
    if found:
        raise WrongError(_found(found, dry_run=True))
