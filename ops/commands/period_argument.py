"""Which billing period is meant: what people write for one on the command line, and the usage record it names."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from sqlalchemy import Connection

from ops.commands.business_argument import find, instant
from ops.commands.output import WrongError, shown
from pipeline.reading.periods import BillingPeriod, list_periods
from pipeline.usage.periods import Period, calendar_month

#: How a billing period is named on the command line.
PeriodArgument = Annotated[
    str,
    typer.Argument(
        metavar="PERIOD",
        help="A time or a day inside it (2026-11-20), the month it begins in (2026-11), current, or last.",
    ),
]

#: Periods that are told when none fits: two years of months.
_TOLD = 24


def find_record(connection: Connection, business: str, period: str, now: datetime) -> int:
    """The id of the usage record of the business and the period that are named so; ``now`` is business time.

    Raises WrongError, with the periods there are, when none or more than one fits, and BadParameter for what is
    no time.
    """
    business_id = find(connection, business)
    records = list_periods(connection, business_id)
    if not records:
        raise WrongError(f"{business} has no billing period yet: no call has been counted")
    chosen = _chosen(records, period, now)
    if len(chosen) == 1:
        return chosen[0].id
    if chosen:
        raise WrongError(f"{period} is in {len(chosen)} periods; name a time inside one: {_told(chosen)}")
    raise WrongError(f"{business} has no period {period}; there are: {_told(records)}")


def _chosen(records: Sequence[BillingPeriod], period: str, now: datetime) -> list[BillingPeriod]:
    if period == "current":
        return [each for each in records if each.start <= now < each.end]
    if period == "last":
        return [each for each in records if each.end <= now][-1:]
    zone = ZoneInfo(records[0].time_zone)  # a day or a month is the business's own
    try:
        if re.fullmatch(r"\d{4}-\d{2}", period):
            first = datetime.fromisoformat(f"{period}-01").replace(tzinfo=zone)
            month = calendar_month(records[0].time_zone, first)
            begun = [each for each in records if each.start in month]
            return begun or _touched(records, month)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", period):
            day = datetime.fromisoformat(period)
            start, end = (each.replace(tzinfo=zone).astimezone(UTC) for each in (day, day + timedelta(days=1)))
            return _touched(records, Period(start, end))
        at = instant(period)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{period} is no time: write 2026-11, 2026-11-20, 2026-11-20T15:00, current or last;"
            f" the periods are: {_told(records)}"
        ) from None
    return [each for each in records if each.start <= at < each.end]


def _touched(records: Sequence[BillingPeriod], span: Period) -> list[BillingPeriod]:
    return [each for each in records if each.start < span.end and span.start < each.end]


def _told(records: Sequence[BillingPeriod]) -> str:
    told = [f"{shown(each.start)} to {shown(each.end)} UTC ({each.state})" for each in records[-_TOLD:]]
    if len(records) > _TOLD:
        told.insert(0, f"{len(records) - _TOLD} earlier ones")
    return "; ".join(told)
