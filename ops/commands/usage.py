"""`altiora usage`: what a business used, period by period."""

from typing import Any

from ops.commands.business_argument import BusinessArgument, find
from ops.commands.database import choose_settings, reading
from ops.commands.output import AsJson, print_json, print_table, say, shown
from pipeline.reading.usage import UsedPeriod, read_usage
from pipeline.shared.clock import business_clock


def usage(business: BusinessArgument, as_json: AsJson = False) -> None:
    """Show what a business used, in each of its billing periods."""
    chosen = choose_settings()
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


def _row(record: UsedPeriod) -> dict[str, Any]:
    """Two lines: figures below each other, so that eight of them are read in 80 columns."""
    return {
        "period (UTC)": f"{shown(record.period_start)}\n{shown(record.period_end)}",
        "state": record.state,
        "calls": record.calls,
        "minutes": f"{record.minutes:,}\nof {record.included:,}",
        "over": f"{record.unbilled:,}\nunbilled" if record.unbilled else record.overage,
        "carried": record.adjustments,
        "pushed": record.pushed,
    }
