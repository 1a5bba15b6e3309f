"""Rounding: the billable minutes of a leg's seconds, in Python and in SQL.

Seconds are rounded up to the plan's increment (seconds), and that up to whole minutes.
"""


def billable_minutes(seconds: int, increment_seconds: int) -> int:
    """Whole minutes of a completed leg: seconds rounded up to the increment, that rounded up to minutes."""
    billed_seconds = -(-seconds // increment_seconds) * increment_seconds
    return -(-billed_seconds // 60)


def billable_minutes_sql(seconds: str, increment_seconds: str) -> str:
    """SQL of the same, by these two integer expressions; neither may be negative."""
    return f"((({seconds} + {increment_seconds} - 1) / {increment_seconds}) * {increment_seconds} + 59) / 60"
