"""What is stored and not done yet: how much of each kind, and how old its oldest is."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.events.heartbeats import SOURCES_SQL

if TYPE_CHECKING:  # the receiver takes the SQL from here, and does without SQLAlchemy
    from sqlalchemy import Connection

# One row for each kind, also where there is nothing. Ages run on the machine clock where rows have such a time; those
# of records and drifts run on the business clock, given as %(business_now)s. Each part has a partial index, so that its
# cost goes with the backlog and not with the history. In psycopg's own style, since the receiver runs it without
# SQLAlchemy.
BACKLOG_SQL = f"""
select kind, count, case when count > 0 then greatest(0, floor(extract(epoch from reference - oldest)))::bigint end
from (
    select 1, 'pending', count(*), min(due_at), now()
    from webhook_events where state = 'pending' and due_at <= now()
    union all
    select 2, 'set-aside', count(*), min(stored_at), now()
    from webhook_events where state = 'pending' and due_at > now()
    union all
    select 3, 'dead', count(*), min(coalesce(processed_at, stored_at)), now()
    from webhook_events where state = 'dead'
    union all
    select 4, 'refreshes', count(*), min(marked_at), now()
    from refreshes where mark > fetched_mark
    union all
    select 5, 'pushes-unsent', count(*), min(coalesce(first_sent_at, due_at)), now()
    from meter_pushes where state in ('planned', 'sending')
    union all
    select 6, 'pushes-unknown', count(*), min(first_sent_at), now()
    from meter_pushes where state in ('planned', 'sending', 'unknown') and state = 'unknown'
    union all
    select 7, 'pushes-failed', count(*), min(settled_at), now()
    from meter_pushes where state = 'failed'
    union all
    select 8, 'changes-unsent', count(*), min(due_at), now()
    from subscription_changes where state in ('planned', 'sending') and due_at <= now()
    union all
    select 9, 'credits-unsent', count(*), min(due_at), now()
    from credits where state in ('planned', 'sending') and due_at <= now()
    union all
    select 10, 'mails-unsent', count(*), min(created_at), now()
    from mails where state in ('planned', 'sending') and due_at <= now()
    union all
    select 11, 'records-due', count(*), min(period_end), %(business_now)s::timestamptz
    from usage_records where state = 'open' and period_end <= %(business_now)s::timestamptz
    union all
    select 12, 'records-closing', count(*), min(period_end), %(business_now)s::timestamptz
    from usage_records where state = 'closing'
    union all
    select 13, 'drifts', count(*), min(found_at), %(business_now)s::timestamptz
    from drifts where resolved_at is null
    union all
    select 14, 'stuck', count(*), min(stored_at), now()
    from webhook_events where state = 'pending' and starts_with(reason, 'stuck: ')
    union all
    select 15, 'halted', count(*), min(since), now()
    from halts
    union all
    select 16, 'silent-sources', count(*), min(now() - silent * interval '1 s'), now()
    from ({SOURCES_SQL}) as source where silent > normal
) as backlog (place, kind, count, oldest, reference)
order by place
"""  # noqa: S608 - put together from constants of ours

#: Seconds that the oldest of a kind may be old before /health/backlog says so. The other kinds wait for a person or
#: for their own time; /metrics has them for an alarm.
LIMITS = {
    "pending": 60,  # the sweep comes every few seconds
    "refreshes": 600,  # Stripe or Twilio may be away for a while
    "pushes-unsent": 600,
    "changes-unsent": 600,
    "credits-unsent": 600,
    "mails-unsent": 600,
    "records-due": 3_600,  # an invoice's grace is an hour: a close that starts later misses it
    "records-closing": 96 * 3_600,  # the longest grace is 72 h
    "stuck": 0,  # it fails while others pass
    "halted": 0,  # everything fails
    "silent-sources": 0,  # only those are counted that are silent for longer than is normal
}


@dataclass(frozen=True, slots=True)
class Backlog:
    """How many rows of a kind wait, and the age of the oldest in seconds (None when there is none)."""

    kind: str
    count: int
    oldest_seconds: int | None

    @property
    def overdue(self) -> bool:
        """Whether the oldest is older than the kind's limit."""
        limit = LIMITS.get(self.kind)
        return limit is not None and self.oldest_seconds is not None and self.oldest_seconds > limit

    @property
    def reason(self) -> str:
        """What an operator is told when it is overdue."""
        return f"{self.count} {self.kind}, the oldest {self.oldest_seconds} s, allowed are {LIMITS[self.kind]} s"


def from_rows(rows: Iterable[Any]) -> list[Backlog]:
    """The rows of BACKLOG_SQL, whoever ran it."""
    return [Backlog(*row) for row in rows]


def backlog(connection: "Connection", now: datetime) -> list[Backlog]:
    """All kinds, in a fixed order; ``now`` is business time."""
    return from_rows(connection.exec_driver_sql(BACKLOG_SQL, {"business_now": now}))
