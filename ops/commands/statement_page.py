"""The statement as a page for the business it is about: one file without any other, which prints on A4.

Everything that is put into the page goes through `html.escape`, here or in ``_row``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from html import escape
from pathlib import Path
from string import Template
from zoneinfo import ZoneInfo

from pipeline.closing.statement import StatedAdjustment, Statement
from pipeline.reading.statement_check import DayOfCalls, NumbersCalls
from pipeline.usage.late_minutes import AdjustmentKind

_PAGE = Template(Path(__file__).with_name("statement.html").read_text(encoding="utf-8"))

_REASONS = {
    "late-call": "Call reported after its period was closed",
    "correction": "Correction of a call, reported after its period was closed",
    "invoice-difference": "Difference between that period and its invoice",
}


@dataclass(frozen=True, slots=True)
class Breakdown:
    """The counted calls of the statement by local day and by number: rows of calls, seconds, minutes."""

    days: Sequence[DayOfCalls]
    numbers: Sequence[NumbersCalls]


def page(record_id: int, statement: Statement, breakdown: Breakdown) -> str:
    """The page, as HTML. ``statement`` is the frozen one of the usage record."""
    business = statement["business"]
    zone = ZoneInfo(business["time_zone"])
    start, end = _local(statement["period"]["start"], zone), _local(statement["period"]["end"], zone)
    from_calls = statement["minutes"] - statement["adjustments"]
    above = statement["overage"] or statement["unbilled"]
    days = _all_days(breakdown.days, start, end)
    return _PAGE.substitute(
        title=escape(f"{business['name']}: usage statement, {start:%-d %B %Y} to {end:%-d %B %Y}"),
        number=escape(f"{business['id']}-{record_id}"),
        closed=escape(f"{_local(statement['closed_at'], zone):%-d %B %Y}"),
        plan=escape(statement["plan_name"]),
        business=escape(business["name"]),
        period=escape(_period(start, end)),
        time_zone=escape(business["time_zone"]),
        minutes=_count(statement["minutes"]),
        calls=_count(statement["calls"]),
        included=_count(statement["included"]),
        above_name="Above the plan" if statement["unbilled"] else "Overage",
        above=_count(above),
        meter=_meter(statement["minutes"], statement["included"]),
        meter_note=escape(_meter_note(statement)),
        sums=_sums(statement, from_calls),
        adjustments=_adjustments(statement["each_adjustment"], zone),
        chart=_chart(days),
        numbers="\n".join(
            _row([each.number or "Number not reported", each.calls, _talk(each.seconds), each.minutes])
            for each in breakdown.numbers
        )
        or _row(["No calls", 0, _talk(0), 0]),
        days=_day_tables([each for each in days if each.calls]),
        rounding=escape(_rounding(statement["increment_seconds"])),
        counted=_count(statement["calls"]),
        hash=escape(statement["calls_sha256"]),
    )


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


def _row(cells: Sequence[object], style: str = "") -> str:
    """A row: numbers to the right, and after the first number everything."""
    made, right = [], False
    for cell in cells:
        right = right or isinstance(cell, int)
        text = _count(cell) if isinstance(cell, int) else str(cell)
        made.append(f'<td class="number">{escape(text)}</td>' if right else f"<td>{escape(text)}</td>")
    return f"<tr{f' class={style!r}' if style else ''}>{''.join(made)}</tr>".replace("'", '"')


def _meter(minutes: int, included: int) -> str:
    whole = max(minutes, included, 1)
    inside = 100 * max(min(minutes, included), 0) / whole
    beyond = 100 * max(minutes - included, 0) / whole
    return f'<i style="width:{inside:.2f}%"></i><i style="width:{beyond:.2f}%"></i>'


def _meter_note(statement: Statement) -> str:
    minutes, included = statement["minutes"], statement["included"]
    if statement["overage"]:
        return f"{_count(statement['overage'])} minutes are above the plan's {_count(included)} and on your invoice."
    if statement["unbilled"]:
        return f"{_count(statement['unbilled'])} minutes are above the plan's {_count(included)}; they are not charged."
    return f"{_count(included - minutes)} of {_count(included)} included minutes were left."


def _sums(statement: Statement, from_calls: int) -> str:
    minutes, included = statement["minutes"], statement["included"]
    above_name = "Above the plan, not charged" if statement["unbilled"] else "Overage"
    rows = [
        _row([f"Minutes of {_count(statement['calls'])} calls in this period", from_calls]),
        _row(["Carried into this period from earlier ones", statement["adjustments"]]),
        _row(["Minutes", minutes], "total"),
        _row([f"Included in plan {statement['plan_name']}", -max(min(minutes, included), 0)]),
        _row([above_name, statement["overage"] or statement["unbilled"]], "total"),
    ]
    return "\n".join(rows)


def _adjustments(each_adjustment: Sequence[StatedAdjustment], zone: ZoneInfo) -> str:
    if not each_adjustment:
        return ""
    rows = []
    for each in each_adjustment:
        start, end = _local(each["period"]["start"], zone), _local(each["period"]["end"], zone)
        reason = _REASONS[each["reason"]] + ("; not charged" if each["kind"] == AdjustmentKind.WRITTEN_OFF else "")
        rows.append(_row([reason, each["call"] or "", f"{start:%-d %b %Y} to {end:%-d %b %Y}", each["minutes"]]))
    head = '<th>Reason</th><th>Call</th><th>Of the period</th><th class="number">Minutes</th>'
    return (
        f'<section><h2>Adjustments</h2><table class="adjustments"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></section>"
    )


def _all_days(counted: Sequence[DayOfCalls], start: datetime, end: datetime) -> list[DayOfCalls]:
    """Every day that the period touches, also those without a call."""
    by_day = {each.day: each for each in counted}
    first, last = start.date(), (end - timedelta(microseconds=1)).date()
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return [by_day.get(day) or DayOfCalls(day, 0, 0, 0) for day in days]


def _chart(days: Sequence[DayOfCalls]) -> str:
    """Minutes by day as bars; each says its figure to who points at it or has it read aloud."""
    width, height = 640, 92
    step = width / (len(days) + 1)  # room for the last label
    most = max([each.minutes for each in days] + [1])
    parts = []
    for number, each in enumerate(days):
        tall = round(height * each.minutes / most, 1)
        told = escape(f"{each.day:%-d %b}: {_count(each.minutes)} minutes")
        parts.append(
            f'<rect x="{number * step + step * 0.14:.1f}" y="{height + 12 - tall:.1f}" width="{step * 0.72:.1f}"'
            f' height="{tall}" rx="1.5" fill="#2f78c4"><title>{told}</title></rect>'
        )
        if number % 5 == 0:
            # From its bar's left edge on: in the middle, the first one ran out of the picture.
            at = f'x="{number * step + step * 0.14:.1f}" y="{height + 25}"'
            parts.append(f"<text {at}>{each.day:%-d %b}</text>")
    return (
        f'<svg viewBox="0 0 {width} {height + 30}" role="img" aria-label="Minutes by day">'
        f'<text x="{width}" y="8" text-anchor="end">most on a day: {_count(most)} minutes</text>'
        f'<line x1="0" y1="{height + 12}" x2="{width}" y2="{height + 12}" stroke="#cbd5e1"/>{"".join(parts)}</svg>'
    )


def _day_tables(days: Sequence[DayOfCalls]) -> str:
    """The days with calls in two columns, read downwards."""
    half = -(-len(days) // 2)
    head = '<thead><tr><th>Day</th><th class="number">Calls</th><th class="number">Talk time</th>'
    head += '<th class="number">Minutes</th></tr></thead>'
    return (
        "\n".join(
            f"<table>{head}<tbody>"
            + "".join(_row([_day(each.day), each.calls, _talk(each.seconds), each.minutes]) for each in part)
            + "</tbody></table>"
            for part in (days[:half], days[half:])
            if part
        )
        or '<p class="note">There was no call in this period.</p>'
    )


def _day(day: date) -> str:
    return f"{day:%a %-d %b}"


def _rounding(increment_seconds: int) -> str:
    step = "minute" if increment_seconds == 60 else f"{increment_seconds} seconds, and that to the next minute"
    return (
        f"A call counts in the period in which it ended. Its length is rounded up to the next {step};"
        " days are those on which calls ended."
    )
