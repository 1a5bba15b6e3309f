"""Heartbeats: when something last came from each source, and whether it has been silent for longer than it usually is.

No calls and no callbacks look alike in the figures. What tells them apart is when we last heard of a source at all.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.events.listings import Listing

if TYPE_CHECKING:  # the receiver takes the SQL from here, and does without SQLAlchemy
    from sqlalchemy import Connection, Engine

    from pipeline.events.queue import StoredEvent

#: The mark that our own fetches and listings leave in an event's key: those events were not sent to us.
OWN = ":api:"
#: A heartbeat is noted no more often than this, so that workers don't queue for its row.
EVERY = timedelta(seconds=10)
#: Seconds in which a silence counts for a third (1/e) of itself: a week, so that every weekday has its say.
FADES_IN = 7 * 24 * 3600
#: Silent for twice its longest gap of late, and for an hour at least: then something is wrong.
SUSPICIOUS = 2
SHORTEST = timedelta(hours=1)
#: Twilio's calls are listed every 45 minutes of business time; so long without a listing, and it fails.
LISTING = timedelta(hours=3)

# Only what is newer than all before it: an event that is replayed is no sign of life.
_HEAR = f"""
update sources set
  longest_gap = case when heard_machine_at is null then longest_gap else greatest(
    clock_timestamp() - heard_machine_at,
    longest_gap * exp(-extract(epoch from clock_timestamp() - heard_machine_at)::float8 / {FADES_IN})) end,
  heard_at = %(at)s, heard_machine_at = clock_timestamp()
where source = %(source)s and (heard_at is null or heard_at < %(at)s)
  and (heard_machine_at is null or heard_machine_at < clock_timestamp() - %(every)s::interval)
"""  # noqa: S608 - put together from constants of ours

#: Each source: name, last heard by the business clock, seconds of silence, seconds that are normal; in psycopg's own
#: style, since the receiver runs it. Webhooks by the machine clock; the listing is due by the business clock.
SOURCES_SQL = f"""
select source, heard_at, extract(epoch from now() - heard_machine_at) as silent,
       extract(epoch from greatest({SUSPICIOUS} * longest_gap, interval '{SHORTEST.total_seconds():.0f} s')) as normal
from sources
union all
select 'twilio-listing', max(listed_until),
       case when max(listed_until) is not null  -- greatest passes over nulls
       then extract(epoch from greatest(%(business_now)s::timestamptz - max(listed_until), interval '0')) end,
       {LISTING.total_seconds():.0f}
from listings where source = '{Listing.CALLS}'
"""  # noqa: S608 - as above


@dataclass(frozen=True, slots=True)
class Source:
    """One source: when it was last heard (business clock), and seconds of silence beside what is normal."""

    name: str
    heard_at: datetime | None
    silent_seconds: int | None
    normal_seconds: int

    @property
    def too_silent(self) -> bool:
        """Whether it has been silent for longer than is normal; one that was never heard is not."""
        return self.silent_seconds is not None and self.silent_seconds > self.normal_seconds


def heard(events: Iterable["StoredEvent"]) -> dict[str, datetime]:
    """The sources that sent these events, each with the business time of its last one."""
    latest: dict[str, datetime] = {}
    for event in events:
        if event.provider == "twilio" and OWN in event.key:
            continue
        source = "twilio-callbacks" if event.provider == "twilio" else "stripe-events"
        latest[source] = max(event.received_at, latest.get(source, event.received_at))
    return latest


def note_heard(engine: "Engine", latest: dict[str, datetime]) -> None:
    """Note these signs of life, each in a transaction of its own: nobody waits for the row of a source."""
    for source, at in sorted(latest.items()):
        with engine.begin() as connection:
            connection.exec_driver_sql(_HEAR, {"source": source, "at": at, "every": EVERY})


def read_heartbeats(connection: "Connection", now: datetime) -> list[Source]:
    """All sources; ``now`` is business time."""
    rows = connection.exec_driver_sql(SOURCES_SQL, {"business_now": now})
    return [
        Source(name, heard_at, None if silent is None else math.floor(silent), math.floor(normal))
        for name, heard_at, silent, normal in rows
    ]
