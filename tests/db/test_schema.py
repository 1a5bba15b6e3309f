"""The schema: up, down and up again, in step with the models and with db/001_schema.sql, on a plain PostgreSQL too."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from db import migrate, offline
from db.seed import PLANS, seed_plans
from tests.worlds.world import World, at

FOURTEEN = {
    "users",
    "businesses",
    "business_members",
    "phone_numbers",
    "ai_agents",
    "agent_knowledge",
    "agent_scripts",
    "calls",
    "call_transcripts",
    "subscriptions",
    "subscription_plans",
    "usage_records",
    "webhook_events",
    "api_keys",
}
SCHEMA = Path(migrate.__file__).parent / "001_schema.sql"


def _tables(engine):
    with engine.connect() as connection:
        return {
            name for (name,) in connection.execute(text("select tablename from pg_tables where schemaname='public'"))
        }


def test_up_down_and_up_again(empty_database_url):
    engine = create_engine(empty_database_url, poolclass=NullPool)
    migrate.upgrade(empty_database_url)
    assert _tables(engine) >= FOURTEEN
    migrate.downgrade(empty_database_url)
    assert _tables(engine) == {"alembic_version"}
    migrate.upgrade(empty_database_url)
    command.check(migrate.config(empty_database_url))  # raises where models and migrations differ


def test_the_schema_file_is_the_migrations_offline_output():
    assert offline.schema_sql() == SCHEMA.read_text(), "run `make schema`"


def test_plans_are_seeded_and_seeding_again_changes_nothing(engine):
    before = _plans(engine)
    seed_plans(engine)
    assert _plans(engine) == before
    assert [(row.name, row.price_cents, row.included_minutes, row.agents, row.numbers) for row in before] == [
        ("Free", 0, 50, 1, 1),
        ("Starter", 4900, 500, 3, 2),
        ("Professional", 14900, 2000, 10, 5),
        ("Enterprise", 49900, 10000, 50, 20),
    ]
    assert len(before) == len(PLANS)


def _plans(engine):
    with engine.connect() as connection:
        return connection.execute(text("select * from subscription_plans order by id")).all()


@pytest.fixture
def plain_postgres():
    """A PostgreSQL 15 of the machine's own, started in a folder of ours; skipped where there is none."""
    bin_folder = Path("/usr/lib/postgresql/15/bin")
    if not (bin_folder / "initdb").exists():
        pytest.skip("no plain PostgreSQL 15 on this machine")
    user = "nobody" if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="pg15-", dir="/tmp"))
    if user:
        shutil.chown(folder, user)
    subprocess.run(
        [bin_folder / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8"],
        check=True,
        capture_output=True,
        user=user,
        cwd=folder,
    )
    server = subprocess.Popen(
        [bin_folder / "postgres", "-D", folder / "data", "-k", folder, "-h", "", "-F"],
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            time.sleep(0.05)
            if subprocess.run([bin_folder / "pg_isready", "-q", "-h", folder], check=False).returncode == 0:
                break
        yield (
            lambda *arguments: (
                subprocess.run(
                    [bin_folder / "psql", "-v", "ON_ERROR_STOP=1", "-h", folder, "-U", "postgres", "-At", *arguments],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
        )
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder)


def test_a_plain_postgresql_15_takes_the_schema_file(plain_postgres):
    plain_postgres("-c", "create database altiora")
    plain_postgres("-d", "altiora", "-f", str(SCHEMA))
    listed = plain_postgres("-d", "altiora", "-c", r"\dt")
    assert {line.split("|")[1] for line in listed.splitlines()} >= FOURTEEN
    plans = plain_postgres(
        "-d", "altiora", "-c", "select name, price_cents, included_minutes, agents, numbers from subscription_plans"
    )
    assert plans.splitlines() == [
        "Free|0|50|1|1",
        "Starter|4900|500|3|2",
        "Professional|14900|2000|10|5",
        "Enterprise|49900|10000|50|20",
    ]


# What the database refuses


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def _refused(world, sql, *parameters):
    with pytest.raises(DatabaseError) as error, world.engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters)
    return str(error.value.orig)


def test_overlapping_periods_of_a_business_are_refused(world):
    world.callback()
    world.drain()
    assert "usage_records_no_overlap" in _refused(
        world,
        "insert into usage_records (business_id, plan_id, period_start, period_end, included_minutes, opened_at)"
        " values (%s, 2, %s, %s, 500, %s)",
        world.b,
        at("4 Nov"),
        at("6 Nov"),
        world.now,
    )


def test_a_number_with_two_holders_is_refused(world):
    assert "one_holder" in _refused(
        world,
        "insert into phone_number_assignments (number, business_id, held) values ('+15550000001', %s, '[2026-11-01,)')",
        world.f,
    )


def _push(world, identifier, state="planned"):
    world.callback(identifier)
    world.drain()
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id,"
            " minutes, timestamp, state, created_at) values (%s, %s, %s, 'call_minutes', 'cus_1', 3, %s, %s, %s)",
            (world.b, world.record(world.b).id, identifier, at("20 Nov 12:00"), state, world.now),
        )


@pytest.mark.parametrize("change", ["minutes = 4", "identifier = 'other'", "timestamp = timestamp + '1 minute'"])
def test_a_push_that_changes_is_refused(world, change):
    _push(world, "one")
    assert "is frozen: plan a new one" in _refused(world, f"update meter_pushes set {change}")


def test_a_sent_push_is_never_unsent(world):
    _push(world, "one", "sent")
    assert "is sent and stays so" in _refused(world, "update meter_pushes set state = 'planned'")
    with world.engine.begin() as connection:  # but Stripe may report it invalid later
        connection.exec_driver_sql("update meter_pushes set state = 'failed'")


def test_two_unsettled_pushes_of_a_business_are_refused(world):
    _push(world, "one", "unknown")
    with pytest.raises(DatabaseError, match="meter_pushes_one_unsettled"):
        _push(world, "two")


def test_no_migration_goes_by_the_code_of_today():
    """What a migration does must not change with the code: an empty database and an old one come to the same."""
    for path in sorted((migrate.MIGRATIONS / "versions").glob("*.py")):
        imported = [line for line in path.read_text().splitlines() if line.startswith(("from ", "import "))]
        assert not [line for line in imported if line.split()[1].startswith(("db", "pipeline", "ops"))], path.name
