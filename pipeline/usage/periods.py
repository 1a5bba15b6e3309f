"""Billing periods by arithmetic: half-open, in UTC. Nothing here asks a clock or a database."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from pipeline.shared.months import add_months


@dataclass(frozen=True, slots=True)
class Period:
    """``[start, end)`` in UTC."""

    start: datetime
    end: datetime

    def __contains__(self, instant: datetime) -> bool:
        return self.start <= instant < self.end

    def clipped(self, earliest: datetime | None, latest: datetime | None) -> "Period":
        """This period without what lies before ``earliest`` or from ``latest`` on."""
        start = self.start if earliest is None else max(self.start, earliest)
        end = self.end if latest is None else min(self.end, latest)
        return Period(start, end)


def anchored_period(anchor: datetime, instant: datetime) -> Period:
    """The monthly period around ``instant`` that ``anchor`` (UTC, any month) gives."""
    anchor, instant = anchor.astimezone(UTC), instant.astimezone(UTC)
    months = (instant.year - anchor.year) * 12 + instant.month - anchor.month
    while add_months(anchor, months) > instant:
        months -= 1
    while add_months(anchor, months + 1) <= instant:
        months += 1
    return Period(add_months(anchor, months), add_months(anchor, months + 1))


def calendar_month(time_zone: str, instant: datetime) -> Period:
    """The calendar month around ``instant`` in ``time_zone``; its bounds are local midnights, given in UTC.

    Of a midnight that comes twice (America/Havana, 1 November 2026) the first one: ``fold`` is the instant's own.
    """
    zone = ZoneInfo(time_zone)
    first = instant.astimezone(zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    following = add_months(first, 1)
    return Period(first.replace(tzinfo=zone).astimezone(UTC), following.replace(tzinfo=zone).astimezone(UTC))


def minute_floor(instant: datetime) -> datetime:
    """The whole minute at or before ``instant``."""
    return instant.replace(second=0, microsecond=0)


def minute_ceil(instant: datetime) -> datetime:
    """The whole minute at or after ``instant``."""
    floor = minute_floor(instant)
    return floor if floor == instant else floor + timedelta(minutes=1)
