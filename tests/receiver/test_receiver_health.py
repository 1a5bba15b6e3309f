"""Backlog, health and metrics: what waits is counted and aged, and what waits too long is said."""

from datetime import timedelta

import pytest
from sqlalchemy import text

from pipeline.reading.backlog import BACKLOG_SQL, LIMITS, Backlog, backlog
from pipeline.shared.version import VERSION, commit
from receiver.metrics import METRICS_SQL
from tests.worlds.superuser import run_as_superuser
from tests.worlds.webhooks import from_stripe, get, send, start_receiver, stripe_event
from tests.worlds.world import World, at

KINDS = [
    "pending",
    "set-aside",
    "dead",
    "refreshes",
    "pushes-unsent",
    "pushes-unknown",
    "pushes-failed",
    "changes-unsent",
    "credits-unsent",
    "mails-unsent",
    "records-due",
    "records-closing",
    "drifts",
    "stuck",
    "halted",
    "silent-sources",
]

EVENT = (
    "insert into webhook_events (provider, key, state, reason, due_at, stored_at, processed_at, received_at,"
    " content_type, body)"
    " values ('stripe', %s, %s, %s, now() + %s, now() - interval '500 s', now() - %s, now(), '', '')"
)
PUSH = (
    "insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id, minutes,"
    " timestamp, state, due_at, first_sent_at, settled_at, created_at) values (%s, %s, %s, 'call_minutes', 'cus', 1,"
    " %s, %s, now() - %s, now() - %s::interval, now() - %s::interval, now())"
)


def seconds(count: int) -> timedelta:
    return timedelta(seconds=count)


@pytest.fixture
def world(engine, tmp_path) -> World:
    return World(engine, tmp_path / "clock")


def record(world: World, start: str, end: str, state: str) -> int:
    with world.engine.begin() as connection:
        return int(
            connection.exec_driver_sql(
                "insert into usage_records (business_id, plan_id, period_start, period_end, state, included_minutes,"
                " calls, minutes, pushed_minutes, opened_at, closed_at)"
                " values (%s, 1, %s, %s, %s, 50, 2, 10, 4, %s, case when %s = 'closed' then now() end) returning id",
                (world.f, at(start), at(end), state, at(start), state),
            ).scalar_one()
        )


def fill(world: World) -> None:
    """Some of every kind; the business clock stands at 20 Nov 12:00."""
    closed = record(world, "1 Oct", "2 Oct", "closed")
    record(world, "2 Oct", "19 Nov 12:00", "closing")
    record(world, "19 Nov 12:00", "20 Nov 11:59", "open")
    record(world, "20 Nov 11:59", "21 Nov", "open")
    rows = [
        (EVENT, ("due", "pending", None, seconds(-20), seconds(0))),
        (EVENT, ("just", "pending", None, seconds(-1), seconds(0))),
        (EVENT, ("later", "pending", None, seconds(600), seconds(0))),
        (EVENT, ("dead", "dead", "unreadable", seconds(0), seconds(300))),
        (EVENT, ("done", "processed", None, seconds(0), seconds(300))),
        (EVENT, ("not", "ignored", "not-needed", seconds(0), seconds(300))),
        (PUSH, (world.b, closed, "unsent", at("1 Oct"), "sending", seconds(-10), seconds(70), None)),
        (PUSH, (world.f, closed, "unknown", at("1 Oct"), "unknown", seconds(0), seconds(80), seconds(0))),
        (PUSH, (world.f, closed, "failed", at("1 Oct"), "failed", seconds(0), seconds(0), seconds(90))),
        (PUSH, (world.f, closed, "sent", at("1 Oct"), "sent", seconds(0), seconds(0), seconds(90))),
    ]
    run_as_superuser(world.engine, "select setval('refresh_marks', 100)")
    with world.engine.begin() as connection:
        for statement, parameters in rows:
            connection.exec_driver_sql(statement, parameters)
        for sid, marked, fetched in (("CA1", 50, 0), ("CA2", 40, 0), ("CA3", 60, 10_000)):
            connection.exec_driver_sql(
                "insert into refreshes (kind, object_id, reason, marked_at, fetched_mark)"
                " values ('call', %s, '', now() - %s, %s)",
                (sid, seconds(marked), fetched),
            )
        connection.exec_driver_sql(
            "insert into credits (business_id, subject, amount, currency, minutes, identifier, reason, due_at,"
            " created_at) values (%s, 'record:1', 1, 'usd', 0, 'c1', 'a test', now() - interval '35 s', now())",
            (world.b,),
        )
        connection.exec_driver_sql(
            "with u as (insert into users (email, name) values ('ada@example.com', 'Ada') returning id)"
            " insert into mails (kind, user_id, created_at) select 'role-changed', id, now() - interval '25 s' from u"
        )
        connection.exec_driver_sql(
            "insert into subscription_changes (business_id, subscription_id, kind, params, identifier, reason, due_at,"
            " created_at) values (%s, %s, 'keep', '{}', 'c1', '', now() - interval '40 s', now())",
            (world.b, world.subscription_of_b),
        )
        connection.exec_driver_sql(
            "update sources set heard_machine_at = now() - interval '49 h' where source = 'stripe-events'"
        )
        for subject, resolved in (("a", None), ("b", at("20 Nov"))):
            connection.exec_driver_sql(
                "insert into drifts (kind, subject, expected, actual, found_at, resolved_at)"
                " values ('x', %s, '', '', %s, %s)",
                (subject, at("20 Nov 11:00"), resolved),
            )


def test_nothing_waits_in_an_empty_database(engine):
    with engine.connect() as connection:
        assert backlog(connection, at("20 Nov")) == [Backlog(kind, 0, None) for kind in KINDS]


def test_every_kind_is_counted_and_aged(world):
    fill(world)
    with world.engine.connect() as connection:
        rows = {row.kind: (row.count, row.oldest_seconds) for row in backlog(connection, world.now)}
    # A second may have passed on the machine clock.
    rounded = {kind: (count, oldest and oldest // 10 * 10) for kind, (count, oldest) in rows.items()}
    assert rounded == {
        "pending": (2, 20),
        "set-aside": (1, 500),
        "dead": (1, 300),
        "refreshes": (2, 50),
        "pushes-unsent": (1, 70),
        "pushes-unknown": (1, 80),
        "pushes-failed": (1, 90),
        "changes-unsent": (1, 40),
        "credits-unsent": (1, 30),
        "mails-unsent": (1, 20),
        "records-due": (1, 60),
        "records-closing": (1, 24 * 3600),
        "drifts": (1, 3600),
        "stuck": (0, None),  # in tests/pipeline/events/test_drain.py, as is the next
        "halted": (0, None),
        "silent-sources": (1, 49 * 3600),
    }


@pytest.mark.parametrize("kind", LIMITS)
def test_only_what_is_older_than_its_limit_is_overdue(kind):
    assert not Backlog(kind, 0, None).overdue
    assert not Backlog(kind, 5, LIMITS[kind]).overdue
    late = Backlog(kind, 5, LIMITS[kind] + 1)
    assert late.overdue
    assert late.reason == f"5 {kind}, the oldest {LIMITS[kind] + 1} s, allowed are {LIMITS[kind]} s"


@pytest.mark.parametrize("kind", sorted(set(KINDS) - LIMITS.keys()))
def test_what_waits_for_a_person_or_its_time_is_never_overdue(kind):
    assert not Backlog(kind, 5, 10**9).overdue


def test_health_and_metrics_of_a_running_receiver(world, environment, processes):
    fill(world)
    port = start_receiver(processes, environment | {"ALTIORA_CLOCK": str(world.clock_file)})
    assert get(port, "/health/live").json == {"status": "ok", "version": VERSION, "commit": commit()}
    assert get(port, "/health/ready").json == {"status": "ok"}
    silent = get(port, "/health/backlog")
    assert silent.status == 503
    assert silent.json["reasons"][0].startswith("1 silent-sources, the oldest 1764")
    with world.engine.begin() as connection:
        connection.execute(text("update sources set heard_machine_at = now()"))
    healthy = get(port, "/health/backlog")
    assert healthy.status == 200
    assert healthy.headers["content-type"] == "application/json"
    assert healthy.json["reasons"] == []
    assert [row["kind"] for row in healthy.json["backlog"]] == KINDS
    with world.engine.begin() as connection:
        connection.execute(text("update webhook_events set due_at = now() - interval '2 hours' where key = 'due'"))
    overdue = get(port, "/health/backlog")
    assert overdue.status == 503
    (reason,) = overdue.json["reasons"]
    assert reason.startswith("2 pending, the oldest 720")
    # A backlog must not take the door off its hinges.
    assert get(port, "/health/ready").status == 200

    answer = get(port, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"
    lines = (line for line in answer.body.decode().splitlines() if not line.startswith("#"))
    samples = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}
    assert samples[f'altiora_build_info{{commit="{commit()}",version="{VERSION}"}}'] == 1
    assert samples["altiora_database_up"] == 1
    assert samples['altiora_answers_total{path="/health/backlog",status="503"}'] == 2
    assert samples['altiora_answer_seconds_count{path="/health/backlog"}'] == 3
    assert samples['altiora_events{provider="stripe",state="pending"}'] == 3
    assert samples['altiora_events{provider="stripe",state="dead"}'] == 1
    assert samples["altiora_event_deliveries_total"] == 6
    assert samples['altiora_drifts{kind="x"}'] == 1
    assert samples['altiora_meter_pushes{state="sending"}'] == 1
    assert samples['altiora_meter_pushes{state="unknown"}'] == 1
    assert samples['altiora_meter_pushes{state="failed"}'] == 1
    assert samples['altiora_minutes{state="open"}'] == 20
    assert samples['altiora_minutes{state="closing"}'] == 10
    assert samples['altiora_pushed_minutes{state="open"}'] == 8
    assert samples['altiora_calls{state="closing"}'] == 2
    assert samples['altiora_backlog{kind="pending"}'] == 2
    assert samples['altiora_backlog_oldest_seconds{kind="pending"}'] >= 7200
    assert samples['altiora_backlog_oldest_seconds{kind="drifts"}'] == 3600


def test_events_are_received_by_the_business_clock_and_stored_by_the_machines(world, environment, processes):
    port = start_receiver(processes, environment | {"ALTIORA_CLOCK": str(world.clock_file)})
    assert send(port, from_stripe(stripe_event(1))).status == 200
    ((received, stored_just_now),) = world.rows(
        "select received_at, stored_at > now() - interval '1 minute' from webhook_events"
    )
    assert received == world.now == at("20 Nov 12:00")
    assert stored_just_now


def test_a_database_that_only_reads_is_not_ready(environment, processes, engine, administration):
    with administration.connect() as connection:
        connection.execute(text(f"alter database {engine.url.database} set default_transaction_read_only = on"))
    port = start_receiver(processes, environment)
    answer = get(port, "/health/ready")
    assert answer.status == 503
    assert answer.json == {"status": "unavailable", "reasons": ["the database is read-only"]}


@pytest.mark.parametrize("query", [BACKLOG_SQL, METRICS_SQL.decode()], ids=["backlog", "metrics"])
def test_what_is_done_is_never_counted_row_by_row(engine, query):
    with engine.begin() as connection:
        connection.execute(
            text(
                "insert into webhook_events (provider, key, state, received_at, content_type, body)"
                " select 'stripe', 'evt_' || n, 'processed', now(), '', '' from generate_series(1, 20000) as n"
            )
        )
        connection.execute(text("analyze webhook_events"))
        plan = connection.exec_driver_sql(f"explain {query}", {"business_now": at("20 Nov")}).scalars().all()
    assert "Index" in "\n".join(plan)
    assert "Seq Scan on webhook_events" not in "\n".join(plan)
