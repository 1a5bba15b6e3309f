"""Closing many periods at once, as on the first of a month, against one UPDATE over the same rows."""

import time
from datetime import UTC, datetime, timedelta

from bench.figures import Figure, slower
from bench.sizes import Sizes
from bench.stage import Stage
from bench.totals import WrongTotalsError
from pipeline.closing import period_close

_BUSINESSES = """
insert into businesses (name, time_zone, plan_id, created_at)
select 'Closing ' || n, 'UTC', p.id, now() - interval '1 year'
from generate_series((select count(*) from businesses where name like 'Closing %%') + 1, %s) n,
     subscription_plans p where p.code = 'free'
"""

_ENDED = """
insert into usage_records
  (business_id, plan_id, period_start, period_end, included_minutes, calls, seconds, minutes, opened_at)
select id, plan_id, %(end)s::timestamptz - interval '1 month', %(end)s, 50, 20, 2400, 45, now()
from businesses where name like 'Closing %%' order by id limit %(count)s
"""

_LISTED = """
insert into listings (source, listed_until) values ('twilio-calls', %s)
on conflict (source) do update set listed_until = excluded.listed_until
"""

_ONE_UPDATE = """
update usage_records
set state = 'closed', closed_at = %s,
    statement = jsonb_build_object('calls', calls, 'seconds', seconds, 'minutes', minutes, 'included', included_minutes)
where state = 'open'
"""

_CLOSED = "select count(*) from usage_records where state = 'closed' and statement->'minutes' = '45'"


def measure(stage: Stage, sizes: Sizes) -> list[Figure]:
    """Periods on Free, closed by one process; Stripe has no part in it."""
    with stage.engine.begin() as connection:
        connection.exec_driver_sql(_BUSINESSES, (sizes.closed,))
    fewer = sizes.closed // 10
    few = [_close(stage, fewer) for _ in range(sizes.runs)]
    many = [_close(stage, sizes.closed) for _ in range(sizes.runs)]
    at_once = [_one_update(stage, sizes.closed) for _ in range(sizes.runs)]
    return [
        slower(f"close {sizes.closed:,} periods / one UPDATE", many, at_once, 5, 2),
        slower(f"close {sizes.closed:,} periods / {fewer:,}, each", many, few, None, None),
    ]


def _ended_records(stage: Stage, count: int) -> datetime:
    """Make records whose period has long ended; returns the business time at which they are closed."""
    stage.reset()
    now = datetime.now(UTC)
    with stage.engine.begin() as connection:
        connection.exec_driver_sql(_ENDED, {"end": now - timedelta(days=4), "count": count})
        connection.exec_driver_sql(_LISTED, (now,))  # sources are complete: no record has a gap to report
    stage.settle()
    return now


def _close(stage: Stage, count: int) -> float:
    now = _ended_records(stage, count)
    started = time.perf_counter()
    while period_close.close_due(stage.engine, now):
        pass
    took = time.perf_counter() - started
    closed = stage.ask(_CLOSED)
    if closed != count:
        raise WrongTotalsError(f"{closed} of {count} periods were closed with the right statement")
    return count / took


def _one_update(stage: Stage, count: int) -> float:
    now = _ended_records(stage, count)
    started = time.perf_counter()
    with stage.engine.begin() as connection:
        connection.exec_driver_sql(_ONE_UPDATE, (now,))
    return count / (time.perf_counter() - started)
