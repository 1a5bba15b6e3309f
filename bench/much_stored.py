"""What an event costs beside ten million stored calls, against a hundred thousand."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from bench import draining, traffic
from bench.figures import Figure, slower
from bench.sizes import Sizes
from bench.stage import Stage
from bench.traffic import Business, Call

#: The fewer calls, as a part of the many.
_PART = 100

# A closed record for each business and month, before all that is sent.
_RECORDS = """
insert into usage_records
  (business_id, plan_id, period_start, period_end, state, closed_at, included_minutes, opened_at)
select b.id, b.plan_id, start, start + interval '30 days', 'closed', start + interval '34 days', 50, start
from businesses b
cross join generate_series(
  %(end)s::timestamptz - interval '360 days', %(end)s::timestamptz - interval '30 days', interval '30 days') start
where b.name like 'Business %%'
"""

_CALLS = """
insert into calls (sid, business_id, number, direction, from_number, to_number, status, rank, started_at, ended_at,
                   seconds, minutes, counted, counted_minutes, counted_seconds, usage_record_id)
select 'CA' || md5(n::text), r.business_id, '+16660000000', 'inbound', '+17345550907', '+16660000000', 'completed',
       1::bigint << 61, r.period_start, r.period_start + interval '2 minutes', 120, 2, true, 2, 120, r.id
from generate_series(1, %(count)s) n
join (select *, row_number() over () - 1 as place, count(*) over () as places from usage_records) r
  on r.place = n %% r.places
"""


def measure(stage: Stage, businesses: Sequence[Business], sizes: Sizes) -> list[Figure]:
    """The drain's speed beside few and many older calls."""
    few, many = sizes.stored // _PART, sizes.stored
    with stage.worker():
        beside_few, beside_many = (_drain(stage, businesses, sizes, stored) for stored in (few, many))
    return [slower(f"event beside {many:,} / {few:,} calls", beside_many, beside_few, 1.3, 1.05)]


def _drain(stage: Stage, businesses: Sequence[Business], sizes: Sizes, stored: int) -> list[float]:
    stage.reset()
    now = datetime.now(UTC)
    with stage.engine.begin() as connection:
        connection.exec_driver_sql("set local statement_timeout = 0")
        connection.exec_driver_sql(_RECORDS, {"end": now - timedelta(days=100)})
        connection.exec_driver_sql(_CALLS, {"count": stored})
    rates = []
    sent: list[Call] = []
    for run in range(sizes.runs):
        new = traffic.calls(businesses, sizes.drained, now, seed=1 + run)
        rates.append(draining.drain(stage, new, sent)[1])
        sent += new
    return rates
