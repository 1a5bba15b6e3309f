"""The statement as a page for the business it is about: one file without any other, which prints on A4.

The figures are made here, the page stands in `statement.html`, where everything is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.closing.statement import StatedAdjustment, Statement
from pipeline.prices.money import money
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.reading import period_costs
from pipeline.reading.period_money import PeriodInvoice, PeriodMoney
from pipeline.reading.statement_check import DayOfCalls, NumbersCalls
from pipeline.usage.late_minutes import AdjustmentKind

_REASONS = {
    "late-call": "Call reported after its period was closed",
    "correction": "Correction of a call, reported after its period was closed",
    "invoice-difference": "Difference between that period and its invoice",
}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The counted calls of the statement by local day and by number."""

    days: Sequence[DayOfCalls]
    numbers: Sequence[NumbersCalls]


@dataclass(frozen=True, slots=True)
class _Adjustment:
    reason: str
    call: str
    dates: str
    minutes: int


@dataclass(frozen=True, slots=True)
class _Bar:
    """One day of the chart, in the picture's own units."""

    x: float
    wide: float
    tall: float
    day: date
    minutes: int


@dataclass(frozen=True, slots=True)
class _Chart:
    """Minutes by day as bars; each says its figure to who points at it or has it read aloud."""

    width: int
    height: int
    most: int
    bars: Sequence[_Bar]


@dataclass(frozen=True, slots=True)
class _Meter:
    """How much of the bar the included minutes fill, and those beyond, in per cent."""

    inside: float
    beyond: float


def page(record_id: int, statement: Statement, breakdown: Breakdown, costs: PeriodMoney) -> str:
    """The page, as HTML. ``statement`` is the frozen one of the usage record, ``costs`` what it comes to by now."""
    business = statement["business"]
    zone = ZoneInfo(business["time_zone"])
    start, end = _local(statement["period"]["start"], zone), _local(statement["period"]["end"], zone)
    days = _all_days(breakdown.days, start, end)
    with_calls = [day for day in days if day.calls]
    half = -(-len(with_calls) // 2)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    environment.filters |= {"included": period_costs.included, "count": _count, "talk": _talk, "money": money}
    return environment.get_template("statement.html").render(
        it=statement,
        business=business["name"],
        title_dates=f"{start:%-d %B %Y} to {end:%-d %B %Y}",
        number=f"{business['id']}-{record_id}",
        closed=f"{_local(statement['closed_at'], zone):%-d %B %Y}",
        period=_period(start, end),
        inside=max(min(statement["minutes"], statement["included"]), 0),
        above=statement["overage"] or statement["unbilled"],
        meter=_meter(statement["minutes"], statement["included"]),
        costs=costs,
        invoice=_invoice_of(costs),
        rates=[period_costs.rate(each, costs.currency) for each in costs.rates] if costs.currency else [],
        adjustments=[_adjustment(each, zone) for each in statement["each_adjustment"]],
        chart=_chart(days),
        numbers=breakdown.numbers,
        columns=[part for part in (with_calls[:half], with_calls[half:]) if part],  # read downwards
    )


def _invoice_of(costs: PeriodMoney) -> PeriodInvoice | None:
    """The invoice that bills the period, once it is one that a customer gets."""
    final = costs.invoice is not None and costs.invoice.status not in {InvoiceStatus.DRAFT, InvoiceStatus.VOID}
    return costs.invoice if final else None


def _local(instant: str, zone: ZoneInfo) -> datetime:
    return datetime.fromisoformat(instant).astimezone(zone)


def _period(start: datetime, end: datetime) -> str:
    """Whole days as days, the last one included; else the instants, the end not included."""
    if start.timetz().replace(tzinfo=None) == end.timetz().replace(tzinfo=None) == datetime.min.time():
        return f"{start:%-d %B %Y} to {end - timedelta(days=1):%-d %B %Y}"
    return f"{start:%-d %B %Y, %H:%M:%S} until {end:%-d %B %Y, %H:%M:%S}"


def _count(number: int) -> str:
    return f"{number:,}".replace("-", "−")  # noqa: RUF001 - a minus sign, as wide as a digit


def _talk(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _meter(minutes: int, included: int) -> _Meter:
    whole = max(minutes, included, 1)
    return _Meter(100 * max(min(minutes, included), 0) / whole, 100 * max(minutes - included, 0) / whole)


def _adjustment(each: StatedAdjustment, zone: ZoneInfo) -> _Adjustment:
    start, end = _local(each["period"]["start"], zone), _local(each["period"]["end"], zone)
    reason = _REASONS[each["reason"]] + ("; not charged" if each["kind"] == AdjustmentKind.WRITTEN_OFF else "")
    return _Adjustment(reason, each["call"] or "", f"{start:%-d %b %Y} to {end:%-d %b %Y}", each["minutes"])


def _all_days(counted: Sequence[DayOfCalls], start: datetime, end: datetime) -> list[DayOfCalls]:
    """Every day that the period touches, also those without a call."""
    by_day = {each.day: each for each in counted}
    first, last = start.date(), (end - timedelta(microseconds=1)).date()
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return [by_day.get(day) or DayOfCalls(day, 0, 0, 0) for day in days]


def _chart(days: Sequence[DayOfCalls]) -> _Chart:
    width, height = 640, 92
    step = width / (len(days) + 1)  # room for the last label
    most = max([each.minutes for each in days] + [1])
    bars = [
        _Bar(
            x=number * step + step * 0.14,
            wide=step * 0.72,
            tall=round(height * each.minutes / most, 1),
            day=each.day,
            minutes=each.minutes,
        )
        for number, each in enumerate(days)
    ]
    return _Chart(width, height, most, bars)
