"""Where monthly billing periods end: the anchor's day and time of day are kept, shortened months clamp the day."""

import calendar
from datetime import datetime


def boundary(anchor: datetime, months: int) -> datetime:
    """The anchor moved on by whole months: from 31 October to 30 November, then to 31 December."""
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + months, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, last))


def next_boundary(anchor: datetime, after: datetime) -> datetime:
    """The first boundary of this anchor that lies after ``after``."""
    months = (after.year - anchor.year) * 12 + after.month - anchor.month
    reached = boundary(anchor, months)
    return reached if reached > after else boundary(anchor, months + 1)


def period_at(anchor: datetime, moment: datetime) -> tuple[datetime, datetime]:
    """The period of this anchor that holds ``moment``."""
    end = next_boundary(anchor, moment)
    months = (end.year - anchor.year) * 12 + end.month - anchor.month
    return boundary(anchor, months - 1), end
