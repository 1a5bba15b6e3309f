"""The close gate: is all that belongs into a period here, and where it is not, what is missing?

Nothing closes before its deadline (``closing``), since late calls are billable until then. At the deadline it closes
whatever is missing, with the gaps in its statement; a gap of a source is a drift as well, which ends when the source
has caught up: what came late was carried then.

The names used in SQL: ``r`` is the usage record; the parameters are those of ``facts``.
"""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import unquote

from sqlalchemy import Connection

from pipeline.events.listings import Listing, listed_until
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind

#: What the listing past a period's end brings in, or a callback that was slow, has arrived so long after the end.
ARRIVES_WITHIN = timedelta(hours=1)
#: A period that closes this shortly after its end, as a change of plan makes it, could not have been listed yet.
IN_TIME = timedelta(minutes=15)
#: The latest dead events that are looked at: each is told to an operator anyway.
MOST_DEAD = 10_000

_NUMBER = re.compile(r"\+[1-9][0-9]{6,14}\b")
#: The reason that names the number itself, beside which the body's other numbers don't matter.
_UNKNOWN_NUMBER = "unknown-number +"

_PENDING = "select min(received_at) from webhook_events where state = 'pending' and not recovered"
_RECOVERED = "select distinct received_at from webhook_events where state = 'pending' and recovered"
_DEAD = """
select received_at, reason, body from webhook_events
where state = 'dead' and provider = 'twilio' order by id desc limit %s
"""
_HELD_BY = "select distinct number, business_id from phone_number_assignments where number = any(%s::text[])"

_WITHIN = f"interval '{ARRIVES_WITHIN.total_seconds():.0f} s'"

#: What is missing of the sources of the record's period, as text[].
SOURCE_GAPS = f"""
array_remove(array[
  case when %(pending_since)s::timestamptz < r.period_end
         or exists (select from unnest(%(recovered)s::timestamptz[]) as at where at < r.period_end + {_WITHIN})
       then 'pending-events' end,
  case when %(listed_until)s::timestamptz is null or %(listed_until)s::timestamptz < r.period_end
       then 'twilio-not-listed' end,
  case when exists (
         select from unnest(%(dead_of)s::bigint[], %(dead_at)s::timestamptz[]) as dead(business_id, at)
         where dead.business_id = r.business_id and dead.at >= r.period_start and dead.at < r.period_end + {_WITHIN})
       then 'dead-events' end
], null)
"""  # noqa: S608 - put together from constants of ours

#: Minutes that Stripe was not told, and that no push accounts for, as text[].
PUSH_GAPS = """
array_remove(array[
  case when r.subscription_id is not null and greatest(r.minutes, 0) <> r.pushed_minutes and not exists (
         select from meter_pushes p
         where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
           and p.state in ('planned', 'sending', 'unknown', 'failed'))
       then 'unpushed-minutes' end
], null)
"""

#: Dead events of the period on numbers that nobody ever held: whose they are can't be told.
DEAD_OF_NOBODY = """
(select count(*) from unnest(%(dead_of_nobody)s::timestamptz[]) as at
 where at >= r.period_start and at < r.period_end)
"""

_OPEN = "select subject, evidence from drifts where kind = %s and resolved_at is null"


def source_facts(connection: Connection) -> dict[str, Any]:
    """What has arrived and been processed by now, as the parameters of the SQL above."""
    dead = [
        (row.received_at, _numbers(row.reason, bytes(row.body)))
        for row in connection.exec_driver_sql(_DEAD, (MOST_DEAD,))
    ]
    holders: dict[str, set[int]] = {}
    if dead:
        named = sorted({number for _, numbers in dead for number in numbers})
        for number, business_id in connection.exec_driver_sql(_HELD_BY, (named,)):
            holders.setdefault(number, set()).add(business_id)
    held = [(business_id, at) for at, numbers in dead for number in numbers for business_id in holders.get(number, ())]
    return {
        "pending_since": connection.exec_driver_sql(_PENDING).scalar_one(),
        "recovered": list(connection.exec_driver_sql(_RECOVERED).scalars()),
        "listed_until": listed_until(connection, Listing.CALLS),
        "dead_of": [business_id for business_id, _ in held],
        "dead_at": [at for _, at in held],
        "dead_of_nobody": [at for at, numbers in dead if holders.keys().isdisjoint(numbers)],
    }


def _numbers(reason: str, body: bytes) -> set[str]:
    """The numbers that a dead event speaks of: the one in its reason, else all that stand in its body."""
    if reason.startswith(_UNKNOWN_NUMBER):
        return {reason.removeprefix(_UNKNOWN_NUMBER[:-1])}
    return set(_NUMBER.findall(unquote(body.decode(errors="replace"))))


def report_gaps(connection: Connection, closed: Iterable[Any], facts: dict[str, Any], now: datetime) -> None:
    """Open a drift for each source that was not complete when these records were closed.

    ``closed``: rows with ``id``, ``business_id``, ``period_end`` and ``source_gaps``.
    """
    late: dict[str, list[Any]] = {}
    for record in closed:
        for gap in record.source_gaps:
            if gap == "dead-events":
                _report_dead(connection, record, now)
            elif record.period_end + IN_TIME <= now:
                late.setdefault(gap, []).append(record)
    for gap, records in sorted(late.items()):
        until = max(record.period_end for record in records)
        is_at = facts["listed_until"] if gap == "twilio-not-listed" else facts["pending_since"]
        words = "listed until" if gap == "twilio-not-listed" else "events wait since"
        drifts.report(
            connection,
            DriftKind.INCOMPLETE_SOURCE,
            f"source:{gap}",
            expected=f"all that belongs before {until.isoformat()}, when periods that end by then are closed",
            actual=f"{words} {'never' if is_at is None else is_at.isoformat()}; {len(records)} records closed without",
            evidence={"until": until.isoformat(), "records": [record.id for record in records[:100]]},
            now=now,
        )


def _report_dead(connection: Connection, record: Any, now: datetime) -> None:
    drifts.report(
        connection,
        DriftKind.INCOMPLETE_SOURCE,
        f"record:{record.id}",
        business_id=record.business_id,
        expected="every event on the business's numbers applied when its period is closed",
        actual="some are dead: what they tell is not counted",
        evidence={"record": record.id, "business": record.business_id},
        now=now,
    )


def resolve_gaps(connection: Connection, now: datetime) -> None:
    """End the drifts of sources that have caught up since; what came late has been carried."""
    found = connection.exec_driver_sql(_OPEN, (DriftKind.INCOMPLETE_SOURCE,)).all()
    if not found:
        return
    known = source_facts(connection)
    for subject, evidence in found:
        if subject.startswith("record:"):
            behind = evidence["business"] in known["dead_of"]
        else:
            until = datetime.fromisoformat(evidence["until"])
            if subject == "source:twilio-not-listed":
                behind = known["listed_until"] is None or known["listed_until"] < until
            else:
                waiting = [at for at in (known["pending_since"], *known["recovered"]) if at is not None]
                behind = any(at < until + ARRIVES_WITHIN for at in waiting)
        if not behind:
            drifts.resolve(connection, DriftKind.INCOMPLETE_SOURCE, subject, now)
