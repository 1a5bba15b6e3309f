"""The meter pushes: what Stripe is told, what it refused, and what is not settled."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.meter.push_states import PushState
from pipeline.shared.rows import NEWEST, typed_rows

_PUSHES = """
select p.id, b.id as business_id, b.name as business, p.usage_record_id, p.minutes, p.timestamp, p.state, p.attempts,
       p.due_at, p.identifier, p.answer
from meter_pushes p join businesses b on b.id = p.business_id
"""
_UNSETTLED = _PUSHES + "where p.state in ('planned', 'sending', 'unknown', 'failed') order by p.id"
_LIST = (
    _PUSHES
    + """
where p.id < %(before)s and (%(state)s::text is null or p.state = %(state)s)
  and (%(business_id)s::bigint is null or p.business_id = %(business_id)s)
  and (%(since)s::timestamptz is null or p.timestamp >= %(since)s)
  and (%(until)s::timestamptz is null or p.timestamp < %(until)s)
order by p.id desc limit %(limit)s
"""
)

_BUSINESS_OF = "select business_id from meter_pushes where id = %s"


@dataclass(frozen=True, slots=True)
class MeterPush:
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


def unsettled_pushes(connection: Connection) -> list[MeterPush]:
    """All of them, the oldest first."""
    return typed_rows(MeterPush, connection.exec_driver_sql(_UNSETTLED))


def list_pushes(
    connection: Connection,
    *,
    state: PushState | None = None,
    business_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int = NEWEST,
    limit: int | None = None,
) -> list[MeterPush]:
    """The newest first, those with ids below ``before``; of a state, of a business, for ``[since, until)``."""
    about = {
        "state": state,
        "business_id": business_id,
        "since": since,
        "until": until,
        "before": before,
        "limit": limit,
    }
    return typed_rows(MeterPush, connection.exec_driver_sql(_LIST, about))


def business_of_push(connection: Connection, push_id: int) -> int | None:
    """Whose push it is; None when there is no such push."""
    business_id: int | None = connection.exec_driver_sql(_BUSINESS_OF, (push_id,)).scalar()
    return business_id
