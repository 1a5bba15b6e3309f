"""Metrics for Prometheus: totals from PostgreSQL, so that they are true however many processes there are.

Nothing here counts what is done: that grows for ever. What waits is counted over partial indexes, minutes are summed
over the records that are not closed, and what ever came is read from a sequence and from PostgreSQL's own statistics.
"""

from collections.abc import Iterable

from psycopg.rows import TupleRow

from pipeline.reading.backlog import Backlog

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
    "altiora_backlog": ("gauge", "Rows of each kind that wait"),
    "altiora_backlog_oldest_seconds": ("gauge", "Age of the oldest of each kind, 0 when there is none"),
    "altiora_calls": ("gauge", "Calls in the usage records that are not closed"),
    "altiora_drifts": ("gauge", "Differences that were found and are not resolved, by kind"),
    "altiora_event_deliveries_total": ("counter", "Events received, duplicates and recovered ones among them"),
    "altiora_events": ("gauge", "Events that are not done: pending or dead"),
    "altiora_events_stored_total": ("counter", "Events stored, by PostgreSQL's statistics"),
    "altiora_meter_pushes": ("gauge", "Meter pushes that are not settled, or were refused"),
    "altiora_minutes": ("gauge", "Minutes in the usage records that are not closed"),
    "altiora_pushed_minutes": ("gauge", "Of these minutes, what Stripe has accepted"),
}


def render(backlog: Iterable[Backlog], rows: Iterable[TupleRow]) -> str:
    """Prometheus' text format, of the backlog and the rows of METRICS_SQL."""
    lines: dict[str, list[str]] = {name: [] for name in _HELP}
    for waiting in backlog:
        lines["altiora_backlog"].append(f'{{kind="{waiting.kind}"}} {waiting.count}')
        oldest = waiting.oldest_seconds or 0
        lines["altiora_backlog_oldest_seconds"].append(f'{{kind="{waiting.kind}"}} {oldest}')
    for name, provider, state, value in rows:
        labels = {"provider": provider, "kind" if name == "altiora_drifts" else "state": state}
        written = ",".join(f'{label}="{text}"' for label, text in labels.items() if text is not None)
        lines[name].append(f"{{{written}}} {value}" if written else f" {value}")
    text = []
    for name, (kind, what) in _HELP.items():
        text += [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *(name + line for line in lines[name])]
    return "\n".join(text) + "\n"
