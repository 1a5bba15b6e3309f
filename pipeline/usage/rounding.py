"""Rounding: the billable minutes of a leg's seconds, in Python and in SQL.

Seconds are rounded up to the plan's increment (seconds), and that up to whole minutes.
"""

from collections.abc import Collection

from sqlalchemy import Connection

_INCREMENTS = """
select b.id, p.increment_seconds from businesses b join subscription_plans p on p.id = b.plan_id
where b.id = any(%b::bigint[])
"""


def billable_minutes(seconds: int, increment_seconds: int) -> int:
    """Whole minutes of a completed leg: seconds rounded up to the increment, that rounded up to minutes."""
    billed_seconds = -(-seconds // increment_seconds) * increment_seconds
    return -(-billed_seconds // 60)


def billable_minutes_sql(seconds: str, increment_seconds: str) -> str:
    """SQL of the same, by these two integer expressions; neither may be negative."""
    return f"((({seconds} + {increment_seconds} - 1) / {increment_seconds}) * {increment_seconds} + 59) / 60"


def increments_of(connection: Connection, business_ids: Collection[int]) -> dict[int, int]:
    """The increment, in seconds, of each business's present plan."""
    return dict(connection.exec_driver_sql(_INCREMENTS, (sorted(business_ids),)).all())
