"""Code and tables of two versions (case 84): whoever doesn't fit says what to run, and no event is dead for it."""

import inspect
import os
import re
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.pool import NullPool

from db import migrate, schema_version
from db.engine import make_engine
from db.schema_version import CODE, NEEDS, SchemaError
from ops.processes import recipes
from ops.processes.repository import REPOSITORY
from tests.receiver.test_receiver_outages import count, eventually
from tests.worlds.breaking import breaks
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.webhooks import callback, from_stripe, from_twilio, get, send, start_receiver, stripe_event

SCRIPTS = ScriptDirectory.from_config(migrate.config())
#: Since these tables say which code they serve.
SPEAKING = [script for script in SCRIPTS.walk_revisions() if script.revision >= "0024"]


def test_this_code_is_as_new_as_its_newest_migration_and_needs_one_that_there_is():
    assert SCRIPTS.get_heads() == [CODE], "CODE in db/schema_version.py is the newest migration"
    assert SCRIPTS.get_revision(NEEDS) is not None


@pytest.mark.parametrize("script", SPEAKING, ids=lambda script: script.revision)
def test_a_migration_says_which_code_it_serves_when_to_run_it_and_blocks_nobody(script):
    source = inspect.getsource(script.module)
    assert script.module.oldest_code <= script.revision
    assert re.search(r"Deploy: (before|after) the code", script.module.__doc__)
    made = set(re.findall(r'create_table\(\s*"(\w+)"', source))
    for table, options in re.findall(r'op\.create_index\(\s*[^,]+,\s*"(\w+)"(.*?)\n    \)', source, re.DOTALL):
        assert table in made or "postgresql_concurrently=True" in options, table


@pytest.mark.parametrize(
    ("tables", "oldest_code", "words"),
    [
        (None, None, "are older, and this version needs"),
        ("0009", None, "are at 0009, and this version needs"),
        ("0009", "0009", "run `altiora migrate`"),
        ("9999", "9999", "serve versions from 9999 on, and this is"),
        ("9999", "9999", "start the newer version"),
        (NEEDS, CODE, None),
        ("9999", CODE, None),
        ("9999", "0001", None),
    ],
)
def test_84_who_fits_and_what_is_said(tables, oldest_code, words):
    if words is None:
        schema_version.check(tables, oldest_code)
        return
    with pytest.raises(SchemaError, match=words):
        schema_version.check(tables, oldest_code)


def test_84_each_new_connection_looks(empty_database_url):
    def connect():
        engine = make_engine(empty_database_url)
        try:
            with engine.connect() as connection:
                return connection.execute(text("select oldest_code from schema_serves")).scalar_one()
        finally:
            engine.dispose()

    with pytest.raises(SchemaError, match="are older"):
        connect()
    migrate.upgrade(empty_database_url, "0023")
    with pytest.raises(SchemaError, match="are older"):
        connect()
    migrate.upgrade(empty_database_url)
    assert connect() == SCRIPTS.get_revision(CODE).module.oldest_code
    migrate.downgrade(empty_database_url, NEEDS)
    plain = create_engine(empty_database_url, poolclass=NullPool)
    with plain.begin() as connection:
        connection.execute(text("update schema_serves set oldest_code = '9999'"))
    with pytest.raises(SchemaError, match="from 9999 on"):
        connect()


def _end_all_connections(administration, engine):
    with administration.connect() as connection:
        connection.execute(
            text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"),
            {"name": engine.url.database},
        )


def _serve(administration, engine, oldest_code):
    """By a connection that does not look."""
    url = make_url(str(administration.url.render_as_string(hide_password=False))).set(database=engine.url.database)
    plain = create_engine(url, poolclass=NullPool)
    with plain.begin() as connection:
        connection.execute(text("update schema_serves set oldest_code = :code"), {"code": oldest_code})
    _end_all_connections(administration, engine)
    return plain


@breaks("db/schema_version.py", "if oldest_code > CODE:", "if False:")
def test_84_old_code_under_new_tables_waits_and_says_why(environment, processes, engine, administration, monkeypatch):
    recipes.worker(1, queues="events").start(processes, environment)
    port = start_receiver(processes, environment)
    assert send(port, from_twilio(callback(1))).status == 200
    eventually(lambda: count(engine, "state = 'pending'") == 0)
    plain = _serve(administration, engine, "9999")
    assert send(port, from_stripe(stripe_event(2))).status == 503
    ready = get(port, "/health/ready")
    assert (ready.status, ready.json["reasons"]) == (
        503,
        [f"the database's tables serve versions from 9999 on, and this is {CODE}: start the newer version"],
    )
    with plain.begin() as connection:  # one that is there already
        connection.execute(
            text(
                "insert into webhook_events (provider, key, type, received_at, content_type, body)"
                " values ('stripe', 'evt_1', 'plan.created', now(), 'application/json', :body)"
            ),
            {"body": stripe_event(1)},
        )
    use_environment(monkeypatch, environment)
    for command in (["receiver", "--port", "1"], ["worker"], ["backlog"], ["doctor"]):
        refused = Altiora().run(*command)
        assert refused.exit_code == 1
        assert "start the newer version" in " ".join((refused.stdout + refused.stderr).split()), command
    with plain.begin() as connection:
        connection.execute(text("update schema_serves set oldest_code = :code"), {"code": CODE})
    eventually(lambda: send(port, from_stripe(stripe_event(2))).status == 200)
    eventually(lambda: count(engine, "state = 'pending'") == 0)
    assert count(engine, "state = 'dead' and reason not like 'unknown-number%'") == 0


def test_84_tables_of_a_newer_version_are_not_migrated_by_this_one(environment, administration, engine, monkeypatch):
    plain = _serve(administration, engine, CODE)
    with plain.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '9999'"))
    use_environment(monkeypatch, environment)
    assert "use the newer version's" in " ".join(Altiora()("migrate", status=1).split())


def _before_the_newest_migration() -> bytes:
    """This program as it was before its newest migration, as a tar file; skipped where git does not have it."""
    newest = SCRIPTS.get_revision(CODE).path
    git = shutil.which("git")
    if git is None or not (REPOSITORY / ".git").exists():
        pytest.skip("no history here")
    log = [git, "log", "--diff-filter=A", "--format=%H", "--", str(newest)]
    added = subprocess.run(log, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    before = f"{added[0]}^" if added else "HEAD"
    asked = subprocess.run([git, "archive", before], cwd=REPOSITORY, capture_output=True, check=False)
    if asked.returncode:
        pytest.skip("the history here does not go back so far")
    return asked.stdout


def test_84_workers_of_the_version_before_go_on_under_the_new_tables(environment, processes, engine, tmp_path):
    """As during a deploy: the tables are migrated first, while the old code runs."""
    with tarfile.open(fileobj=BytesIO(_before_the_newest_migration())) as archive:
        archive.extractall(tmp_path / "before", filter="data")
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "ops.cli", "worker", "--queues", "events", "--concurrency", "1"],
            cwd=tmp_path / "before",
            env=os.environ | environment | {"PYTHONPATH": str(tmp_path / "before")},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        port = start_receiver(processes, environment)
        for number in range(20):
            assert send(port, from_twilio(callback(number))).status == 200
            assert send(port, from_stripe(stripe_event(number))).status == 200
        eventually(lambda: count(engine, "state = 'pending'") == 0)
        assert count(engine) == 40
        assert count(engine, "state = 'dead' and reason not like 'unknown-number%'") == 0
        assert "batch-failed" not in (tmp_path / "worker.log").read_text()
    finally:
        worker.terminate()
        worker.wait(60)
