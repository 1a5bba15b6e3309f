"""The calls of a business, the newest first, and what became of each."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import typed_row, typed_rows

_FIELDS = """
sid, parent_sid, business_id, number, agent_id, direction, from_number, to_number, status, started_at, ended_at,
estimated, seconds, minutes, counted, counted_minutes, usage_record_id
"""
LIST = f"""
select {_FIELDS} from calls
where business_id = %(business_id)s and (started_at, sid) < (%(started_at)s, %(sid)s)
  and (%(since)s::timestamptz is null or started_at >= %(since)s)
  and (%(until)s::timestamptz is null or started_at < %(until)s)
  and (%(number)s::text is null or number = %(number)s)
  and (%(agent_id)s::bigint is null or agent_id = %(agent_id)s)
  and (%(status)s::text is null or status = %(status)s)
  and (%(usage_record_id)s::bigint is null or usage_record_id = %(usage_record_id)s)
  and (%(counted)s::boolean is null or counted = %(counted)s)
  and (%(q)s = '' or sid = %(q)s or strpos(coalesce(from_number, '') || ' ' || coalesce(to_number, ''), %(q)s) > 0)
order by started_at desc, sid desc limit %(limit)s
"""  # noqa: S608 - a constant
_ONE = f"select {_FIELDS} from calls where sid = %s"  # noqa: S608 - as above


@dataclass(frozen=True, slots=True)
class CallFilter:
    """Which calls: ``since`` and ``until`` (UTC, half-open) are of their starts, ``q`` a SID or part of a number."""

    since: datetime | None = None
    until: datetime | None = None
    number: str | None = None
    agent_id: int | None = None
    status: str | None = None
    usage_record_id: int | None = None
    counted: bool | None = None
    q: str = ""


@dataclass(frozen=True, slots=True)
class ListedCall:
    """A call leg. ``minutes``: billable ones by all that is known; ``counted_minutes``: in its usage record."""

    sid: str
    parent_sid: str | None
    business_id: int | None
    number: str | None
    agent_id: int | None
    direction: str | None
    from_number: str | None
    to_number: str | None
    status: str
    started_at: datetime
    ended_at: datetime | None
    estimated: bool
    seconds: int | None
    minutes: int
    counted: bool
    counted_minutes: int
    usage_record_id: int | None


def list_calls(
    connection: Connection, business_id: int, which: CallFilter, began_before: tuple[str, str], limit: int
) -> list[ListedCall]:
    """The newest first, those that began before that: an instant in RFC 3339, and a SID."""
    about = {
        "business_id": business_id,
        "started_at": began_before[0],
        "sid": began_before[1],
        "since": which.since,
        "until": which.until,
        "number": which.number,
        "agent_id": which.agent_id,
        "status": which.status,
        "usage_record_id": which.usage_record_id,
        "counted": which.counted,
        "q": which.q,
        "limit": limit,
    }
    return typed_rows(ListedCall, connection.exec_driver_sql(LIST, about))


def read_call(connection: Connection, sid: str) -> ListedCall | None:
    """One call leg."""
    return typed_row(ListedCall, connection.exec_driver_sql(_ONE, (sid,)))
