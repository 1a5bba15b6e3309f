"""Calls as Twilio's API shows them, stored as events where they tell something that is not known yet.

They go the way of callbacks, through webhook_events, so that there is one place that counts.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import orjson
from sqlalchemy import Connection, Row

from pipeline.calls import call_reports
from pipeline.calls.call_reports import CallReport
from pipeline.events import queue
from pipeline.providers.twilio_words import CallStatus

#: What we keep of a Call resource: all that counting reads, and nothing that changes by itself.
FIELDS = (
    "sid",
    "account_sid",
    "parent_call_sid",
    "direction",
    "from",
    "to",
    "status",
    "date_created",
    "start_time",
    "end_time",
    "duration",
    "price",
    "price_unit",
)

_STORED = """
select sid, parent_sid, direction, from_number, to_number, status, started_at, ended_at, seconds, price, price_unit
from calls where sid = any(%s::text[])
"""

# The last thing that the API said of each call, by the key CallSid:api:instant.
_LAST_TOLD = """
select asked.sid, told.body
from unnest(%s::text[]) as asked(sid)
cross join lateral (
  select body from webhook_events
  where provider = 'twilio' and key >= asked.sid || ':api:' and key < asked.sid || ':api;'
  order by key desc limit 1) told
"""


class News(NamedTuple):
    """A call as Twilio shows it, and the event that will tell of it."""

    key: str
    report: CallReport
    body: bytes


def store_news(
    connection: Connection,
    calls: Iterable[dict[str, Any]],
    *,
    account_sid: str,
    machine_now: datetime,
    now: datetime,
    recovered: bool,
) -> int:
    """Store those Call resources that are unknown here, or say something else than the stored calls; how many.

    ``machine_now`` is when they were asked for: it orders what the API says. ``recovered`` marks calls that no
    callback led to.
    """
    return sum(
        queue.store_event(
            connection,
            provider="twilio",
            key=each.key,
            type=f"call.{each.report.status}",
            body=each.body,
            content_type="application/json",
            now=now,
            recovered=recovered,
        )
        for each in news(connection, calls, account_sid=account_sid, machine_now=machine_now, now=now)
    )


def news(
    connection: Connection, calls: Iterable[dict[str, Any]], *, account_sid: str, machine_now: datetime, now: datetime
) -> list[News]:
    """What these Call resources say that is not known here, by SID; nothing is written."""
    instant = int(machine_now.timestamp() * 1_000_000)
    found: dict[str, News] = {}
    for call in calls:
        key = f"{call['sid']}:api:{instant}"
        report = call_reports.decode_report(0, key, "application/json", orjson.dumps(call), now, account_sid)
        if isinstance(report, CallReport):
            body = orjson.dumps({name: call[name] for name in FIELDS if name in call})
            found[report.sid] = News(key, report, body)
    stored = {row.sid: row for row in connection.exec_driver_sql(_STORED, (sorted(found),))}
    new = {sid for sid, each in found.items() if sid not in stored or _differs(each.report, stored[sid])}
    told: dict[str, bytes] = dict(connection.exec_driver_sql(_LAST_TOLD, (sorted(new),)).all())
    return [found[sid] for sid in sorted(new) if told.get(sid) != found[sid].body]


def _differs(report: CallReport, stored: Row[Any]) -> bool:
    """Whether the API says something else than what is stored; what it leaves out says nothing."""
    said = {
        "status": report.status,
        "seconds": report.seconds,
        "parent_sid": report.parent_sid,
        "direction": report.direction,
        "from_number": report.from_number,
        "to_number": report.to_number,
        "price": report.price,
        "price_unit": report.price_unit,
        "ended_at": None if report.estimated else report.ended_at,
        # A call that nobody answered starts nowhere in particular, and counts nothing.
        "started_at": report.started_at if report.status == CallStatus.COMPLETED else None,
    }
    return any(value is not None and value != getattr(stored, name) for name, value in said.items())
