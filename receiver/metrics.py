"""Metrics for Prometheus: totals from PostgreSQL, so that they are true however many processes there are.

Beside them this process's own answers, which are there also while the database is not.

Nothing here counts what is done: that grows for ever. What waits is counted over partial indexes, minutes are summed
over the records that are not closed, and what ever came is read from a sequence and from PostgreSQL's own statistics.
"""

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from psycopg.rows import TupleRow

from pipeline.reading.backlog import Backlog
from pipeline.shared.version import VERSION, commit

METRICS_SQL = b"""
select 'altiora_events', provider, state, count(*)::bigint
from webhook_events where state = 'pending' group by provider, state
union all
select 'altiora_events', provider, state, count(*)
from webhook_events where state = 'dead' group by provider, state
union all
select 'altiora_event_deliveries_total', null, null,
       coalesce(pg_sequence_last_value(pg_get_serial_sequence('webhook_events', 'id')::regclass), 0)
union all
select 'altiora_events_stored_total', null, null, n_tup_ins
from pg_stat_user_tables where relid = 'webhook_events'::regclass
union all
select 'altiora_meter_pushes', null, state, count(*)
from meter_pushes where state in ('planned', 'sending', 'unknown') group by state
union all
select 'altiora_meter_pushes', null, state, count(*)
from meter_pushes where state = 'failed' group by state
union all
select 'altiora_drifts', null, kind, count(*) from drifts where resolved_at is null group by kind
union all
select figures.name, null, figures.state, figures.value
from (
    select state, sum(calls) as calls, sum(minutes) as minutes, sum(pushed_minutes) as pushed
    from usage_records where state = 'open' group by state
    union all
    select state, sum(calls), sum(minutes), sum(pushed_minutes)
    from usage_records where state = 'closing' group by state
) as records,
lateral (values
    ('altiora_calls', state, calls), ('altiora_minutes', state, minutes), ('altiora_pushed_minutes', state, pushed)
) as figures (name, state, value)
order by 1, 2, 3
"""

_HELP = {
    "altiora_calls": "Calls in the usage records that are not closed",
    "altiora_drifts": "Differences that were found and are not resolved, by kind",
    "altiora_event_deliveries_total": "Events received, duplicates and recovered ones among them",
    "altiora_events": "Events that are not done: pending or dead",
    "altiora_events_stored_total": "Events stored, by PostgreSQL's statistics",
    "altiora_meter_pushes": "Meter pushes that are not settled, or were refused",
    "altiora_minutes": "Minutes in the usage records that are not closed",
    "altiora_pushed_minutes": "Of these minutes, what Stripe has accepted",
}


#: Of this process, since it was started.
_PROCESS = CollectorRegistry()
_ANSWERS = Counter("altiora_answers", "Requests answered by this receiver", ["path", "status"], registry=_PROCESS)
_SECONDS = Histogram(
    "altiora_answer_seconds",
    "From the first of a request to its answer, by this receiver",
    ["path"],
    buckets=(0.005, 0.025, 0.1, 0.25, 1, 2.5, 5, 10),
    registry=_PROCESS,
)
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package's types leave it out


def count_answer(path: str, status: int, seconds: float) -> None:
    """Note one answer. ``path`` is one of ours, or "unknown": what somebody makes up must not become a label."""
    _ANSWERS.labels(path, status).inc()
    _SECONDS.labels(path).observe(seconds)


def render(backlog: Sequence[Backlog], rows: Iterable[TupleRow]) -> bytes:
    """Prometheus' text format, of the backlog, the rows of METRICS_SQL and what runs here."""
    return generate_latest(_Answer([*_of_process(database_up=True), *_families(backlog, rows)])) + _own()


def render_without_database() -> bytes:
    """The same while the database can't be asked: what this process knows by itself."""
    return generate_latest(_Answer(_of_process(database_up=False))) + _own()


def _own() -> bytes:
    return generate_latest(_PROCESS)


def _of_process(*, database_up: bool) -> Iterator[Metric]:
    build = InfoMetricFamily("altiora_build", "What runs here")
    build.add_metric([], {"version": VERSION, "commit": commit()})
    yield build
    yield GaugeMetricFamily("altiora_database_up", "Whether the database could be asked", value=database_up)


class _Answer(Collector):
    """One answer: what was read for it, not what some registry has gathered."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(backlog: Sequence[Backlog], rows: Iterable[TupleRow]) -> Iterator[Metric]:
    count = GaugeMetricFamily("altiora_backlog", "Rows of each kind that wait", labels=["kind"])
    oldest = GaugeMetricFamily(
        "altiora_backlog_oldest_seconds", "Age of the oldest of each kind, 0 when there is none", labels=["kind"]
    )
    for waiting in backlog:
        count.add_metric([waiting.kind], waiting.count)
        oldest.add_metric([waiting.kind], waiting.oldest_seconds or 0)
    yield from (count, oldest)
    found: dict[str, Metric] = {}
    for name, help_ in _HELP.items():
        made = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        found[name] = made(name, help_)
    for name, provider, state, value in rows:
        labels = {"provider": provider, "kind" if name == "altiora_drifts" else "state": state}
        found[name].add_sample(name, {label: text for label, text in labels.items() if text is not None}, value)
    yield from found.values()
