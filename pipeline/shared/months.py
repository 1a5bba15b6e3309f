"""Counting months from a date. Nothing here asks a clock."""

import calendar
from datetime import datetime


def add_months(anchor: datetime, months: int) -> datetime:
    """``anchor`` some months on, its day kept where the month has it, else the month's last day.

    Counted from the anchor each time, so that an anchor on the 31st comes back to the 31st after February
    (Stripe: "Billing cycle anchor").
    """
    month = anchor.month - 1 + months
    year, month = anchor.year + month // 12, month % 12 + 1
    day = min(anchor.day, calendar.monthrange(year, month)[1])
    return anchor.replace(year=year, month=month, day=day)
