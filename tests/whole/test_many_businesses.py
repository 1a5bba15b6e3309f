"""With 40,000 businesses every statement of drain, plan, close and backlog still finds its rows by an index.

The plans are those of the statements that really run, with their parameters, in their own transactions. A scan of a
whole table is seen at once with so many; with 200 it costs nothing, and nobody notices until the first of a month.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, event

from pipeline.businesses import service_status
from pipeline.closing import period_close
from pipeline.meter import push_planning
from pipeline.reading.backlog import BACKLOG_SQL
from pipeline.usage import unbilled_plans
from receiver.metrics import METRICS_SQL
from tests.worlds.breaking import breaks
from tests.worlds.ledger import EVENT_NAME
from tests.worlds.world import World, at

BUSINESSES = 40_000

_CROWD = """
insert into businesses (name, time_zone, plan_id, stripe_customer_id, created_at)
select 'Crowd ' || n, 'UTC', case when n % 4 = 0 then 1 else 2 end, 'cus_crowd_' || n, timestamptz '2026-10-01'
from generate_series(1, {businesses}) n;
insert into phone_numbers (number, business_id)
select '+1666' || lpad(id::text, 7, '0'), id from businesses where name like 'Crowd %';
insert into phone_number_assignments (number, business_id, held)
select number, business_id, tstzrange(null, null) from phone_numbers where number like '+1666%';
insert into stripe_customers (id, snapshot_at)
select stripe_customer_id, timestamptz '2026-10-01' from businesses where name like 'Crowd %';
insert into stripe_prices (id, usage_type, active, plan_id, currency, billing_interval, interval_count, snapshot_at)
values ('price_crowd', 'metered', true, 2, 'usd', 'month', 1, timestamptz '2026-10-01');
insert into subscriptions (stripe_id, business_id, stripe_customer_id, status, plan_id, metered_item_id,
                           metered_price_id, period_start, period_end, billing_cycle_anchor, started_at, api_version,
                           snapshot_at, currency)
select 'sub_crowd_' || id, id, stripe_customer_id, 'active', 2, 'si_crowd_' || id, 'price_crowd',
       timestamptz '2026-11-01 00:00', timestamptz '2026-12-01 00:00', timestamptz '2026-11-01 00:00',
       timestamptz '2026-10-01 00:00', '2026-10-28.endive', timestamptz '2026-11-01', 'usd'
from businesses where name like 'Crowd %' and plan_id = 2;
insert into subscription_items (id, subscription_id, price_id, role, quantity)
select metered_item_id, id, metered_price_id, 'minutes', 1 from subscriptions where stripe_id like 'sub_crowd%';
insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end, included_minutes, minutes,
                           calls, seconds, state, closed_at, settled_at, opened_at)
select b.id, b.plan_id, s.id, timestamptz '2026-10-01', timestamptz '2026-11-01', 500, 10, 5, 600, 'closed',
       timestamptz '2026-11-01 02:00', timestamptz '2026-11-01 03:00', timestamptz '2026-10-01'
from businesses b left join subscriptions s on s.business_id = b.id where b.name like 'Crowd %';
insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end, included_minutes, minutes,
                           calls, seconds, opened_at)
select b.id, b.plan_id, s.id, timestamptz '2026-11-01', timestamptz '2026-12-01', 500, 20, 5, 600,
       timestamptz '2026-11-01'
from businesses b left join subscriptions s on s.business_id = b.id where b.name like 'Crowd %' and b.id % 2 = 0;
insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id, minutes, timestamp,
                          state, created_at, accepted_at, settled_at)
select r.business_id, r.id, 'crowd-' || r.id, 'call_minutes', 'cus_crowd_' || r.business_id, r.minutes,
       r.period_start + interval '1 hour', 'sent', r.period_start, r.period_start, r.period_start
from usage_records r where r.subscription_id is not null;
insert into calls (sid, business_id, usage_record_id, status, rank, started_at, ended_at, seconds, minutes, counted,
                   counted_minutes, counted_seconds)
select 'CA' || lpad(r.id::text || n, 32, '0'), r.business_id, r.id, 'completed', 3, r.period_start,
       r.period_start + interval '2 hours', 120, 2, true, 2, 120
from usage_records r, generate_series(1, 3) n;
insert into webhook_events (provider, key, type, state, received_at, content_type, body, processed_at)
select 'twilio', c.sid || ':completed:0:x', 'call.completed', 'processed', c.ended_at, 'text/plain', '', now()
from calls c;
"""


@dataclass(frozen=True)
class Explained:
    """A statement and how PostgreSQL would do it."""

    statement: str
    plan: dict[str, Any]
    of_some: bool
    """It is about some businesses, or some events, rather than a look at what is due."""


class Plans:
    """The plan of every statement that runs."""

    def __init__(self, large: set[str], partial: set[str]) -> None:
        self.explained: dict[str, Explained] = {}
        self._large = large
        self._partial = partial

    @contextmanager
    def of(self, engine: Engine, *, of_some: bool = False) -> Iterator[None]:
        def look(_c: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            self.look(cursor.connection, statement, parameters, of_some=of_some)

        event.listen(engine, "before_cursor_execute", look)
        yield
        event.remove(engine, "before_cursor_execute", look)

    def look(self, connection: Any, statement: str, parameters: Any, *, of_some: bool = False) -> None:
        if statement.split(None, 1)[0].lower() not in {"select", "insert", "update", "delete", "with"}:
            return
        with connection.cursor() as cursor:
            cursor.execute("explain (format json) " + statement, parameters or None)
            ((plan,),) = cursor.fetchall()
        given = parameters.values() if isinstance(parameters, dict) else parameters or ()
        due = statement.startswith("select array(")  # as under_locks asks who has something to do
        of_some = of_some or (any(isinstance(each, list) for each in given) and not due)
        self.explained[statement] = Explained(statement, plan[0]["Plan"], of_some)

    def scans(self) -> list[str]:
        """Where a plan reads a whole large table although it is about a part, or reads it again and again."""
        return [
            f"{node['Node Type']} of {node['Relation Name']}{' again and again' * again}:\n{each.statement}"
            for each in self.explained.values()
            for node, again in _nodes(each.plan)
            if self._is_whole(node) and (each.of_some or again)
        ]

    def _is_whole(self, node: dict[str, Any]) -> bool:
        """Whether it reads a large table in whole: in order, or along an index of all rows without a condition."""
        if node.get("Relation Name") not in self._large:
            return False
        along = node["Node Type"] in {"Index Scan", "Index Only Scan"}
        without = "Index Cond" not in node and node.get("Index Name") not in self._partial
        return node["Node Type"] == "Seq Scan" or (along and without)


def _nodes(plan: dict[str, Any], *, again: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """A plan's nodes, and whether each is done for every row of another one."""
    yield plan, again
    for child in plan.get("Plans", ()):
        inner = plan["Node Type"] == "Nested Loop" and child.get("Parent Relationship") == "Inner"
        kept = child["Node Type"] == "Materialize"
        yield from _nodes(child, again=(again or inner or child.get("Parent Relationship") == "SubPlan") and not kept)


@pytest.fixture
def crowd(engine, tmp_path) -> World:
    world = World(engine, tmp_path / "clock")
    with engine.begin() as connection:
        for statement in _CROWD.format(businesses=BUSINESSES).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.replace("%", "%%"))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("vacuum analyze")
    return world


@breaks(
    "pipeline/usage/record_creation.py",
    "businesses where id = made.business_id limit 1",
    "businesses where id + 0 = made.business_id limit 1",
)
def test_no_statement_about_some_businesses_reads_them_all(crowd):
    with crowd.engine.connect() as connection:
        large = connection.exec_driver_sql(
            "select relname from pg_class where relkind = 'r' and reltuples >= %s", (BUSINESSES // 3,)
        )
        partial = connection.exec_driver_sql(
            "select relname from pg_class join pg_index on indexrelid = pg_class.oid where indpred is not null"
        )
        plans = Plans(set(large.scalars()), set(partial.scalars()))
        ids = connection.exec_driver_sql("select id from businesses where name like 'Crowd %%' order by id").scalars()
        some = list(ids)[100:1050]
    for number, business_id in enumerate(some[:300]):  # half of them have no record yet
        crowd.callback(f"call-{number}", To=f"+1666{business_id:07}", CallDuration="90")
    now = at("20 Nov 18:00")
    with plans.of(crowd.engine, of_some=True):
        crowd.drain()
    with crowd.engine.begin() as connection:  # a few whose periods end
        connection.exec_driver_sql(
            "update usage_records set period_end = '2026-11-20 12:00' where state = 'open' and business_id = any(%s)",
            (some[300:400],),
        )
    with plans.of(crowd.engine):
        push_planning.plan_due_pushes(crowd.engine, EVENT_NAME, now)
        service_status.settle_due_services(crowd.engine, now)
        unbilled_plans.check_all_billing(crowd.engine, now)
        period_close.close_due(crowd.engine, now)
    with crowd.engine.connect() as connection:
        plain = connection.connection.dbapi_connection
        plans.look(plain, BACKLOG_SQL.strip(), {"business_now": now})
        plans.look(plain, METRICS_SQL.decode().strip(), None)
    assert crowd.rows("select count(*) from webhook_events where state not in ('processed', 'ignored')") == [(0,)]
    assert len(plans.explained) > 40
    assert plans.scans() == []
