"""Are the totals right? Each usage record against an independent sum of what was sent, also while it is drained.

One statement sees one snapshot, and an event's effect is committed with its state; so at every moment each record must
be what its processed events add up to, to the minute.
"""

import time
from collections.abc import Callable, Sequence

from bench.stage import Stage, wait_until
from bench.traffic import Call

#: Seconds between two looks during a load.
_EVERY = 1.0
#: Seconds between two nudges of ours, as often as beat sends its sweep: a single nudge may be lost.
_SWEEP = 5.0

_SENT = """
create table if not exists bench_sent (
  sid text primary key, business_id bigint, period_start timestamptz, counted boolean, seconds int, minutes int)
"""

# By record, so that it costs the same beside ten million older calls.
_WRONG_BY_CALLS = """
select r.id, r.calls, r.seconds, r.minutes, c.*
from usage_records r
cross join lateral (
  select count(*), coalesce(sum(counted_seconds), 0), coalesce(sum(counted_minutes), 0)
  from calls where usage_record_id = r.id and counted) c (calls, seconds, minutes)
where r.state = 'open' and (r.calls, r.seconds, r.minutes) is distinct from (c.calls, c.seconds, c.minutes)
"""

_WRONG_BY_SENT = """
select r.id, r.calls, r.seconds, r.minutes, s.calls, s.seconds, s.minutes
from (select * from usage_records where state = 'open') r
full join (select business_id, period_start, count(*) as calls, sum(seconds) as seconds, sum(minutes) as minutes
           from webhook_events e join bench_sent on sid = split_part(e.key, ':', 1)
           where e.state = 'processed' and counted
           group by 1, 2) s on (s.business_id, s.period_start) = (r.business_id, r.period_start)
where (r.calls, r.seconds, r.minutes) is distinct from (s.calls, s.seconds, s.minutes)
"""

_UNDONE = """
select count(*) from bench_sent s
left join webhook_events e on split_part(e.key, ':', 1) = s.sid and e.state = 'processed'
where e.id is null
"""

_PENDING = "select exists (select from webhook_events where state = 'pending')"


class WrongTotalsError(Exception):
    """A usage record is not what was sent."""


def expect(stage: Stage, calls: Sequence[Call]) -> None:
    """Note in the database what is about to be sent, and what it comes to."""
    with stage.engine.begin() as connection:
        connection.exec_driver_sql(_SENT)
        connection.exec_driver_sql("truncate bench_sent")
        ids: dict[str, int] = dict(connection.exec_driver_sql("select name, id from businesses").all())
        cursor = connection.connection.cursor()
        with cursor.copy("copy bench_sent from stdin") as copy:
            for call in calls:
                start = call.business.period_start(call.ended_at)
                business_id = ids[call.business.name]
                copy.write_row((call.sid, business_id, start, call.counted, call.seconds, call.minutes))
    stage.settle()


def watch(stage: Stage, *, sending: Callable[[], bool] = lambda: False) -> int:
    """Look at the totals until all that was expected is processed, and once more; returns how often.

    ``sending``: whether more is still to come. Raises WrongTotalsError.
    """
    looks = 0
    look_at = time.monotonic() + _EVERY
    sweep_at = time.monotonic() + _SWEEP

    def done() -> bool:
        nonlocal looks, look_at, sweep_at
        if time.monotonic() > look_at:
            _look(stage)
            looks += 1
            look_at = time.monotonic() + _EVERY
        if time.monotonic() > sweep_at:
            stage.nudge()
            sweep_at = time.monotonic() + _SWEEP
        return not sending() and not stage.ask(_PENDING)

    wait_until(done, "the drain")
    _look(stage)
    undone = stage.ask(_UNDONE)
    if undone:
        raise WrongTotalsError(f"{undone} events were sent, and are not processed though nothing is pending")
    return looks + 1


def _look(stage: Stage) -> None:
    for query, against in ((_WRONG_BY_SENT, "what was sent"), (_WRONG_BY_CALLS, "its calls")):
        with stage.engine.connect() as connection:
            wrong = connection.exec_driver_sql(query).all()
        if wrong:
            record, *figures = wrong[0]
            raise WrongTotalsError(
                f"{len(wrong)} usage records differ from {against}; record {record}: calls, seconds and minutes are"
                f" {figures[:3]}, not {figures[3:]}"
            )
