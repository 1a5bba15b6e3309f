"""Rounding: the billable minutes of a leg's seconds, in Python and in SQL.

Seconds are rounded up to the increment (seconds) of the record that the call counts in, and that up to whole minutes.
"""

from datetime import datetime

from sqlalchemy import Connection

_INCREMENT = """
select coalesce(r.increment_seconds, p.increment_seconds)
from businesses b join subscription_plans p on p.id = b.plan_id
left join usage_records r on r.business_id = b.id and r.period_start <= %(at)s and %(at)s < r.period_end
where b.id = %(business_id)s
"""


def billable_minutes(seconds: int, increment_seconds: int) -> int:
    """Whole minutes of a completed leg: seconds rounded up to the increment, that rounded up to minutes."""
    billed_seconds = -(-seconds // increment_seconds) * increment_seconds
    return -(-billed_seconds // 60)


def billable_minutes_sql(seconds: str, increment_seconds: str) -> str:
    """SQL of the same, by these two integer expressions; neither may be negative."""
    return f"((({seconds} + {increment_seconds} - 1) / {increment_seconds}) * {increment_seconds} + 59) / 60"


def increment_at(connection: Connection, business_id: int, ended_at: datetime) -> int:
    """The increment, in seconds, of a business's record that holds this instant; the plan's where there is none yet."""
    about = {"business_id": business_id, "at": ended_at}
    return int(connection.exec_driver_sql(_INCREMENT, about).scalar_one())
