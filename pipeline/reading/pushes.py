"""The meter pushes that are not settled, and those that Stripe refused."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows

_UNSETTLED = """
select p.id, b.id as business_id, b.name as business, p.usage_record_id, p.minutes, p.timestamp, p.state, p.attempts,
       p.due_at, p.identifier, p.answer
from meter_pushes p join businesses b on b.id = p.business_id
where p.state in ('planned', 'sending', 'unknown', 'failed')
order by p.id
"""

_BUSINESS_OF = "select business_id from meter_pushes where id = %s"


@dataclass(frozen=True, slots=True)
class UnsettledPush:
    """One push: ``minutes`` may be negative, ``timestamp`` is the business time it is for, ``due_at`` machine time."""

    id: int
    business_id: int
    business: str
    usage_record_id: int
    minutes: int
    timestamp: datetime
    state: str
    attempts: int
    due_at: datetime
    identifier: str
    answer: str | None


def unsettled_pushes(connection: Connection) -> list[UnsettledPush]:
    """All of them, the oldest first."""
    return typed_rows(UnsettledPush, connection.exec_driver_sql(_UNSETTLED))


def business_of_push(connection: Connection, push_id: int) -> int | None:
    """Whose push it is; None when there is no such push."""
    business_id: int | None = connection.exec_driver_sql(_BUSINESS_OF, (push_id,)).scalar()
    return business_id
