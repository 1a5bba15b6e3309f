"""Where billing periods end: the anchor's day and time of day are kept, shortened months clamp the day."""

import calendar
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

MONTHLY: Mapping[str, Any] = {"interval": "month", "interval_count": 1}
_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}


def boundary(anchor: datetime, periods: int, recurring: Mapping[str, Any] = MONTHLY) -> datetime:
    """The anchor moved on by whole periods of a price: by months, from 31 October to 30 November, then 31 December."""
    length = recurring["interval_count"] * periods
    if recurring["interval"] in _DAYS:
        return anchor + timedelta(days=_DAYS[recurring["interval"]] * length)
    year, month = divmod(anchor.year * 12 + anchor.month - 1 + _MONTHS[recurring["interval"]] * length, 12)
    last = calendar.monthrange(year, month + 1)[1]
    return anchor.replace(year=year, month=month + 1, day=min(anchor.day, last))


def next_boundary(anchor: datetime, after: datetime, recurring: Mapping[str, Any] = MONTHLY) -> datetime:
    """The first boundary of this anchor that lies after ``after``."""
    return period_at(anchor, after, recurring)[1]


def period_at(anchor: datetime, moment: datetime, recurring: Mapping[str, Any] = MONTHLY) -> tuple[datetime, datetime]:
    """The period of this anchor that holds ``moment``."""
    if recurring["interval"] in _DAYS:
        passed = (moment - anchor) // timedelta(days=_DAYS[recurring["interval"]] * recurring["interval_count"])
    else:
        months = (moment.year - anchor.year) * 12 + moment.month - anchor.month
        passed = months // (_MONTHS[recurring["interval"]] * recurring["interval_count"])
    if boundary(anchor, passed, recurring) > moment:
        passed -= 1
    return boundary(anchor, passed, recurring), boundary(anchor, passed + 1, recurring)
