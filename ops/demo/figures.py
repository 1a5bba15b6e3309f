"""What the demo reads of the pipeline while it runs: totals for the screen, what is not done yet, and what is news."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine

from pipeline.businesses.plan_limits import AlertKind

#: Of business time: from a renewal's draft invoice to its finalisation, as the stand-in has it; how long before that
#: a period is closed; how long a period that no invoice bills stays open to late calls.
GRACE = timedelta(hours=1)
CLOSED_BEFORE = timedelta(minutes=2)
FREE_GRACE = timedelta(hours=72)

_TOTALS = """
select (select coalesce(sum(calls), 0)::int from usage_records),
       (select coalesce(sum(minutes - adjustment_minutes), 0)::int from usage_records),
       (select count(*) from webhook_events where state = 'pending'),
       (select count(*) from usage_records where state = 'closed'),
       (select count(*) from meter_pushes where state = 'sent'),
       (select count(*) from meter_pushes where state in ('planned', 'sending', 'unknown')),
       (select coalesce(sum(attempts - 1), 0)::int from meter_pushes where attempts > 1),
       (select coalesce(sum(abs(minutes)), 0)::int from usage_adjustments where kind = 'carried')
"""

# What the pipeline has to do at a business instant. Unsent minutes count where their period is over: a running
# one is pushed by and by.
_UNDONE = """
select 'webhooks to apply', count(*)
from webhook_events where state = 'pending' and due_at <= clock_timestamp()
union all
select 'objects to fetch', count(*)
from refreshes where mark > fetched_mark and kind <> 'call' and due_at <= clock_timestamp()
union all
select 'periods that ended', count(*)
from usage_records where state = 'open' and subscription_id is not null and period_end <= %(now)s
union all
select 'last pushes', count(*)
from usage_records
where state = 'closing' and subscription_id is not null and pushed_minutes <> greatest(minutes, 0)
union all
select 'ended periods to list at Twilio', count(*)
from usage_records
where state <> 'closed' and not cut and period_end <= %(ended_before)s
  and period_end > coalesce((select listed_until from listings where source = 'twilio-calls'), '-infinity')
union all
select 'periods to close', count(*)
from usage_records where state = 'closing' and subscription_id is not null and period_end <= %(close_due)s
union all
select 'invoices to compare', count(*)
from usage_records
where state = 'closed' and subscription_id is not null and settled_at is null and period_end <= %(settle_due)s
"""

# What may wait while the month runs, and must be done when it is over.
_UNFINISHED = """
union all
select 'webhooks set aside', count(*) from webhook_events where state = 'pending' and due_at > clock_timestamp()
union all
select 'objects to fetch again', count(*) from refreshes where mark > fetched_mark
union all
select 'Free periods to close', count(*)
from usage_records where state <> 'closed' and subscription_id is null and period_end <= %(free_due)s
union all
select 'minutes to push', coalesce(sum(abs(greatest(minutes, 0) - pushed_minutes)), 0)
from usage_records where state <> 'closed' and subscription_id is not null
union all
select 'hours to list at Twilio', case when exists (
  select from listings where source = 'twilio-calls' and listed_until > %(list_due)s) then 0 else 1 end
"""

#: A period that ended so long ago is waited for, so that its callbacks that were lost are there when it closes.
_WAITED_FOR = timedelta(minutes=20)
#: Calls that ended so shortly ago are listed the next time; and an hour passes between two listings.
_LISTED_WITHIN = timedelta(hours=1)

_ALERTS = """
select a.id, b.name, p.name as plan, a.kind, a."limit", b.limited_until
from usage_alerts a join businesses b on b.id = a.business_id join subscription_plans p on p.id = a.plan_id
where a.id > %s order by a.id
"""

_CLOSED = """
select r.id, b.name, p.name as plan, r.minutes, r.closed_at
from usage_records r join businesses b on b.id = r.business_id join subscription_plans p on p.id = r.plan_id
where r.state = 'closed' and r.closed_at >= %s order by r.closed_at, r.id
"""


@dataclass(frozen=True, slots=True)
class Totals:
    """How far the pipeline has come."""

    calls: int = 0
    minutes: int = 0
    pending: int = 0
    closed: int = 0
    pushed: int = 0
    unsettled: int = 0
    sent_again: int = 0
    carried: int = 0


def totals(engine: Engine) -> Totals:
    with engine.connect() as connection:
        return Totals(*connection.exec_driver_sql(_TOTALS).one())


def undone(engine: Engine, now: datetime, *, all_of_it: bool = False) -> dict[str, int]:
    """What the pipeline should have done by the business instant ``now`` and has not; empty when it has caught up.

    ``all_of_it`` also names what may wait while business time goes on.
    """
    query = _UNDONE + (_UNFINISHED if all_of_it else "")
    about = {
        "now": now,
        "free_due": now - FREE_GRACE,
        "close_due": now - GRACE + CLOSED_BEFORE,
        "settle_due": now - GRACE,
        "list_due": now - _LISTED_WITHIN,
        "ended_before": now - _WAITED_FOR,
    }
    with engine.connect() as connection:
        return {what: count for what, count in connection.exec_driver_sql(query, about) if count}


class News:
    """What has happened since the last look, as sentences."""

    def __init__(self, engine: Engine, start: datetime) -> None:
        self._engine = engine
        self._last_alert = 0
        self._since = start
        self._closed: set[int] = set()

    def read(self) -> list[str]:
        with self._engine.connect() as connection:
            return [*self._alerts(connection), *self._closes(connection)]

    def _alerts(self, connection: Connection) -> list[str]:
        sentences = []
        for row in connection.exec_driver_sql(_ALERTS, (self._last_alert,)):
            self._last_alert = row.id
            used = "80 % of" if row.kind == AlertKind.MINUTES_80 else "all of"
            limited = ""
            if row.kind == AlertKind.MINUTES_100 and row.limited_until is not None:
                limited = f"; limited until {row.limited_until:%-d %b}"
            sentences.append(f"{row.name} ({row.plan}) has used {used} its {row.limit:,} minutes{limited}")
        return sentences

    def _closes(self, connection: Connection) -> list[str]:
        sentences = []
        for row in connection.exec_driver_sql(_CLOSED, (self._since,)):
            self._since = row.closed_at
            if row.id not in self._closed:
                self._closed.add(row.id)
                sentences.append(f"{row.name} ({row.plan}): period closed with {row.minutes:,} minutes")
        return sentences
