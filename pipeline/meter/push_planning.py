"""Planning meter pushes: what Stripe has not been told yet, as one frozen delta per business at a time.

Pushed are all minutes of records with a metered subscription, the included ones too: Stripe's graduated price makes
those free. What was pushed in a period is counted by the pushes' timestamps, so that it stays true when a cut moves
the bounds.
"""

import secrets
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

from psycopg.types.range import Range
from sqlalchemy import Connection, Engine

from pipeline.meter import push_states
from pipeline.meter.push_states import PushVerdict
from pipeline.shared import drifts
from pipeline.shared.business_locks import under_locks
from pipeline.shared.drifts import DriftKind
from pipeline.subscription_changes.change_requests import AFTER_LAST_PUSH
from pipeline.usage import record_figures
from pipeline.usage.billing_window import STALE, TOO_LATE, billing_deadline
from pipeline.usage.periods import minute_ceil, minute_floor
from pipeline.usage.record_invoice import INVOICE

#: Stripe takes events of the last 35 days; an hour is for sending it.
OLDEST = timedelta(days=35) - timedelta(hours=1)
#: Shorter than the task's soft limit by one statement.
SECONDS = 40.0

# Records with something to push. Without an unsettled push, pushed_minutes is the sum of all that Stripe has.
_PLANNABLE = f"""
from usage_records r
join subscriptions s on s.id = r.subscription_id
{INVOICE}
where r.state <> 'closed' and r.subscription_id is not null and not r.provisional and r.period_start <= %(now)s
  and greatest(r.minutes, 0) <> r.pushed_minutes
  and not {TOO_LATE}
  and not {STALE}
  and not exists (
    select from meter_pushes p where p.business_id = r.business_id and p.state in ('planned', 'sending', 'unknown'))
  and not exists (select from meter_pushes p where p.usage_record_id = r.id and p.state = 'failed')
  and not exists (
    select from drifts d
    where d.kind in ('second-metered-subscription', 'second-minutes-item') and d.business_id = r.business_id
      and d.resolved_at is null)
"""  # noqa: S608 - put together from fragments of ours

_DUE = f"select distinct r.business_id {_PLANNABLE} order by 1"

# The sum is taken anew, not from pushed_minutes: what is wrong there must not be billed.
# Doubles: when another subscription of the customer counts, or counted, what is stamped there (75).
_CANDIDATES = f"""
select r.business_id, r.id, s.stripe_customer_id, r.period_start, r.period_end,
       array(select tstzrange(o.started_at, coalesce(o.minutes_ended_at, o.ended_at)) from subscriptions o
             where o.business_id = r.business_id and o.id <> r.subscription_id and o.metered_item_id is not null
               and o.stripe_customer_id = s.stripe_customer_id and o.status <> 'incomplete_expired'
               and tstzrange(o.started_at, coalesce(o.minutes_ended_at, o.ended_at))
                   && tstzrange(r.period_start, r.period_end)) as doubles,
       exists (select from subscription_changes c
               where c.subscription_id = r.subscription_id and c.state in ('planned', 'sending')
                 and c.kind = any(%(ending)s::text[])) as ends_soon,
       greatest(r.minutes, 0) - coalesce((
         select sum(p.minutes) from meter_pushes p
         where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
           and p.state in ('planned', 'sending', 'sent', 'unknown')), 0) as missing
{_PLANNABLE} and r.business_id = any(%(ids)s::bigint[])
order by r.business_id, r.period_start
"""  # noqa: S608 - as above

_INSERT = """
insert into meter_pushes
  (business_id, usage_record_id, identifier, event_name, stripe_customer_id, minutes, timestamp, created_at)
select *, %(now)s
from unnest(%(businesses)s::bigint[], %(records)s::bigint[], %(identifiers)s::text[], %(event_names)s::text[],
            %(customers)s::text[], %(minutes)s::int[], %(timestamps)s::timestamptz[])
"""

_RECORD_OF = """
select r.id from usage_records r
join meter_pushes p on p.business_id = r.business_id and r.period_start <= p.timestamp and p.timestamp < r.period_end
where p.id = %s
"""


def push_timestamp(
    period_start: datetime,
    period_end: datetime,
    now: datetime,
    *,
    ends_soon: bool = False,
    doubles: Sequence[Range[datetime]] = (),
) -> datetime | None:
    """The whole minute inside ``[period_start, period_end)`` that is closest to ``now``.

    Stripe sums usage by whole minutes, so only minutes that lie in the period as a whole are safe. ``ends_soon``: a
    change waits that may end the period at any moment, so only minutes that are over are (76). Nor is one taken that
    another subscription bills too, in ``doubles``. None when the period holds none, or Stripe would not take it: older
    than 35 days, or more than 5 minutes ahead; its minutes are carried when it settles.
    """
    first = minute_ceil(period_start)
    last = minute_floor(period_end) - timedelta(minutes=1)
    if ends_soon:
        last = min(last, minute_floor(now) - timedelta(minutes=1))
    closest = min(max(minute_floor(now), first), last)
    minutes = [closest]
    for double in doubles:
        minutes += [minute_floor(bound) - timedelta(minutes=1) for bound in (double.lower,) if bound is not None]
        minutes += [minute_ceil(bound) for bound in (double.upper,) if bound is not None]
    possible = [
        minute
        for minute in minutes
        if first <= minute <= last
        and now - OLDEST <= minute <= now + timedelta(minutes=5)
        and not any(_touches(minute, double) for double in doubles)
    ]
    return min(possible, key=lambda minute: abs(minute - closest), default=None)


def _touches(minute: datetime, double: Range[datetime]) -> bool:
    begins_before = double.lower is None or double.lower < minute + timedelta(minutes=1)
    return begins_before and (double.upper is None or minute < double.upper)


def plan_due_pushes(engine: Engine, event_name: str, now: datetime) -> Counter[str]:
    """Plan a push for each business that has minutes to push and no unsettled push; counts those ``planned``."""

    def work(connection: Connection, ids: list[int]) -> Counter[str]:
        return Counter(planned=plan_pushes(connection, ids, event_name, now))

    return under_locks(engine, "pushes", _DUE, {"now": now, "deadline": billing_deadline(now)}, work, seconds=SECONDS)


def plan_pushes(connection: Connection, business_ids: Sequence[int], event_name: str, now: datetime) -> int:
    """Plan what these businesses, whose locks are held, have not pushed: each one's oldest period first."""
    about = {"ids": list(business_ids), "now": now, "deadline": billing_deadline(now), "ending": list(AFTER_LAST_PUSH)}
    found = connection.exec_driver_sql(_CANDIDATES, about)
    planned = {}
    for row in found:
        timestamp = push_timestamp(row.period_start, row.period_end, now, ends_soon=row.ends_soon, doubles=row.doubles)
        if row.missing and timestamp is not None and row.business_id not in planned:
            planned[row.business_id] = (row, timestamp)
    if planned:
        rows = [row for row, _ in planned.values()]
        connection.exec_driver_sql(
            _INSERT,
            {
                "businesses": [row.business_id for row in rows],
                "records": [row.id for row in rows],
                "identifiers": [_identifier(row.id) for row in rows],
                "event_names": [event_name] * len(rows),
                "customers": [row.stripe_customer_id for row in rows],
                "minutes": [row.missing for row in rows],
                "timestamps": [timestamp for _, timestamp in planned.values()],
                "now": now,
            },
        )
    return len(planned)


def _identifier(record_id: int) -> str:
    """A name that no event of this Stripe account has: databases may share the account, and count records alike.

    A clash would be answered as a duplicate, which we take for success. The name is random and so must be stored
    before it is sent.
    """
    return f"altiora-{record_id}-{secrets.token_hex(8)}"


def settle_unknown(connection: Connection, push_id: int, verdict: PushVerdict, now: datetime) -> None:
    """A person says what became of an unknown push, whose business is locked.

    Raises ValueError when there is no such unknown push.
    """
    identifier = push_states.set_by_a_person(connection, push_id, verdict)
    if identifier is None:
        raise ValueError(f"meter push {push_id} is not unknown: only an unknown one needs a word")
    record_figures.recount_pushed(connection, connection.exec_driver_sql(_RECORD_OF, (push_id,)).scalars().all())
    drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, f"push:{identifier}", now)


def release_refused(connection: Connection, push_id: int, now: datetime) -> None:
    """Let the minutes of a refused push be planned anew. Raises ValueError when there is no such refused push."""
    identifier = push_states.set_released(connection, push_id)
    if identifier is None:
        raise ValueError(f"meter push {push_id} is not failed: only a failed one can be released")
    drifts.resolve(connection, DriftKind.PUSH_REFUSED, f"push:{identifier}", now)
