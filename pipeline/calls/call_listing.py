"""The listing of Twilio's calls, about every hour and past each period's end.

It brings in calls whose callback was lost, and prices that came late.

Twilio never retries a callback that was answered with an error, so the list is the only way to know of such calls.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import Connection, Engine

from pipeline.calls import calls_from_api
from pipeline.events.listings import Listing, listed_until, note_listed
from pipeline.providers.twilio_api import TwilioApi, rfc2822_instant
from pipeline.providers.twilio_words import TERMINAL
from pipeline.shared.clock import Clock, machine_now

log = structlog.get_logger()

#: What ended longer ago can't be billed any more.
OLDEST = timedelta(days=35)
#: Twilio lists by start and we bill by end, so a listing begins so long before what it is to cover.
LONGEST_CALL = timedelta(hours=24)
#: What ended since the last listing. Within the hour of grace that a renewal's draft has, so that a lost callback of a
#: period's last minutes still gets into it; and sooner when a period has ended that waits for it (see close_gate).
OFTEN_EVERY = timedelta(minutes=45)
WAITED_FOR_EVERY = timedelta(minutes=10)
#: Once a day, what ended in the two days before the last time: prices that came late, corrections.
DAILY_EVERY = timedelta(hours=24)
DAILY_MARGIN = timedelta(hours=48)
#: A call that ended only now is left for the next time: its callback is on its way.
UNDERWAY = timedelta(minutes=5)
#: Calls that are compared and stored in one transaction.
CHUNK = 1000

#: Any number that nothing else in this database uses as an advisory lock.
_LOCK = 20_261_122

# A period that ended, and that nothing has been listed past. Each part has its partial index.
_WAITED_FOR = """
select exists (select from usage_records where state = 'open' and period_end > %(since)s and period_end <= %(until)s)
    or exists (select from usage_records where state = 'closing' and period_end > %(since)s and period_end <= %(until)s)
"""


def list_due(engine: Engine, api: TwilioApi, clock: Clock, *, at_once: bool = False) -> int:
    """List the calls if it is time to, by the business clock, or ``at_once``; returns how many events that led to.

    At once it goes as far back as once a day. One worker at a time, or both would store the same news twice: whoever
    comes second does nothing. Raises TwilioApiError; what was stored before stays, and the listing is due again.
    """
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")  # no transaction stays open meanwhile
        if not connection.exec_driver_sql("select pg_try_advisory_lock(%s)", (_LOCK,)).scalar_one():
            return 0
        try:
            return _list_if_due(engine, api, clock.now(), at_once=at_once)
        finally:
            connection.exec_driver_sql("select pg_advisory_unlock(%s)", (_LOCK,))


def _list_if_due(engine: Engine, api: TwilioApi, now: datetime, *, at_once: bool) -> int:
    until = now - UNDERWAY
    with engine.connect() as connection:
        often, daily = listed_until(connection, Listing.CALLS), listed_until(connection, Listing.CALLS_DAILY)
        waited_for = often is not None and _waited_for(connection, often, until)
    if often is None or daily is None:  # the first listing ever: what lies before the first business is not ours
        start, due = _begun(engine, until) - LONGEST_CALL, [Listing.CALLS, Listing.CALLS_DAILY]
    elif at_once or now - daily >= DAILY_EVERY:
        start, due = min(daily - DAILY_MARGIN, often) - LONGEST_CALL, [Listing.CALLS, Listing.CALLS_DAILY]
    elif now - often >= OFTEN_EVERY or (waited_for and now - often >= WAITED_FOR_EVERY):
        start, due = often - LONGEST_CALL, [Listing.CALLS]
    else:
        return 0
    count = _list(engine, api, start, until, now)
    with engine.begin() as connection:
        for listing in due:
            note_listed(connection, listing, until)
    if count:
        log.info("calls-recovered", events=count, started_from=start.isoformat(), until=until.isoformat())
    return count


def _begun(engine: Engine, until: datetime) -> datetime:
    """When the first business was added, or so long ago that Stripe takes nothing older."""
    with engine.connect() as connection:
        first: datetime | None = connection.exec_driver_sql("select min(created_at) from businesses").scalar()
    return until if first is None else min(until, max(first, until - OLDEST))


def _waited_for(connection: Connection, since: datetime, until: datetime) -> bool:
    return bool(connection.exec_driver_sql(_WAITED_FOR, {"since": since, "until": until}).scalar_one())


def _list(engine: Engine, api: TwilioApi, start: datetime, until: datetime, now: datetime) -> int:
    """Store what the calls tell that started from ``start`` on and were over by ``until``."""
    asked_at = machine_now()
    count = 0
    for calls in _chunks(call for call in api.list_calls(start, until) if _over(call, until)):
        with engine.begin() as connection:
            count += calls_from_api.store_news(
                connection,
                calls,
                account_sid=api.account_sid,
                machine_now=asked_at,
                now=now,
                recovered=True,
            )
    return count


def _over(call: dict[str, Any], until: datetime) -> bool:
    """Whether the call had ended by then; one that nobody answered has no end, and no length either."""
    ended = rfc2822_instant(call["end_time"] or call["start_time"] or call["date_created"])
    return call["status"] in TERMINAL and (ended is None or ended <= until)


def _chunks(calls: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    remaining = iter(calls)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk
