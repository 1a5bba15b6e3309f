"""What was measured: figures beside their targets, and the table of them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_HEAD = ("", "ours", "beside", "", "at least", "aim", "")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line. The targets are about ``value``, which is a ratio (unit ``x``) or a time (``ms``)."""

    what: str
    value: float
    unit: str = "x"
    at_least: float | None
    aim: float | None
    ours: str
    """What was measured of ours, with its unit."""
    beside: str = ""
    """What was measured of the yardstick."""
    less_is_better: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """How the value stands to its targets."""
        for target, word in ((self.aim, "aim"), (self.at_least, "ok")):
            if target is not None and (self.value <= target if self.less_is_better else self.value >= target):
                return word
        return "" if self.at_least is None else "MISSED"

    def cells(self) -> tuple[str, ...]:
        """The line in the table."""
        sign = "≤ " if self.less_is_better else ""
        targets = ["" if target is None else f"{sign}{target:g} {self.unit}" for target in (self.at_least, self.aim)]
        return (self.what, self.ours, self.beside, f"{_short(self.value)} {self.unit}", *targets, self.verdict)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def faster(
    what: str,
    ours: Sequence[float],
    yardstick: Sequence[float],
    at_least: float | None,
    aim: float | None,
    note: str = "",
) -> Figure:
    """How many times faster we are than a yardstick; of the runs of each, events a second, the medians are compared."""
    mine, other = median(ours), median(yardstick)
    return Figure(
        what=what, value=mine / other, at_least=at_least, aim=aim, ours=rate(mine), beside=rate(other), note=note
    )


def slower(
    what: str, ours: Sequence[float], yardstick: Sequence[float], at_most: float | None, aim: float | None
) -> Figure:
    """How many times as long as a yardstick's each of ours takes; given as ``faster``."""
    mine, other = median(ours), median(yardstick)
    return Figure(
        what=what,
        value=other / mine,
        at_least=at_most,
        aim=aim,
        ours=rate(mine),
        beside=rate(other),
        less_is_better=True,
    )


def table(figures: Sequence[Figure]) -> str:
    """The figures in columns, and their notes."""
    rows = [_HEAD, *(figure.cells() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, "", *(figure.note for figure in figures if figure.note)])


def rate(per_second: float) -> str:
    """A speed in words: ``11,240/s``."""
    return f"{per_second:,.0f}/s"


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def percentile(values: Sequence[float], percent: int) -> float:
    """The value below which so many percent lie."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
