"""What a usage record counts of pushes: the minutes that Stripe has of its period.

By the pushes' timestamps, not by the record that they were planned for: a cut may have moved the bounds since.
"""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection

_RECOUNT = """
update usage_records r set pushed_minutes = pushed.minutes
from (
  select r.id, coalesce(sum(p.minutes), 0) as minutes
  from usage_records r
  left join meter_pushes p on p.business_id = r.business_id and p.state = 'sent'
    and p.timestamp >= r.period_start and p.timestamp < r.period_end
  where r.id = any(%s::bigint[])
  group by r.id
) pushed
where r.id = pushed.id and r.pushed_minutes <> pushed.minutes
"""

_ADD_PUSHED = """
update usage_records set pushed_minutes = pushed_minutes + %(minutes)s
where business_id = %(business_id)s and period_start <= %(timestamp)s and %(timestamp)s < period_end
"""


def recount_pushed(connection: Connection, record_ids: Sequence[int]) -> None:
    """Bring ``pushed_minutes`` in line with the pushes by timestamp; for records whose bounds have moved."""
    connection.exec_driver_sql(_RECOUNT, (list(record_ids),))


def add_pushed(connection: Connection, business_id: int, minutes: int, timestamp: datetime) -> None:
    """Count minutes that Stripe has now, in the record that holds their timestamp; the business's lock is held."""
    about = {"minutes": minutes, "business_id": business_id, "timestamp": timestamp}
    connection.exec_driver_sql(_ADD_PUSHED, about)
