"""Everything through PgBouncer in transaction mode: each transaction may find another session."""

import shutil

import psycopg
import pytest
from sqlalchemy import make_url

from db import roles
from ops.processes import recipes
from ops.processes.supervisor import free_port
from tests.db.test_roles import logins as logins  # noqa: PLC0414 - a fixture
from tests.receiver.test_receiver_outages import count, eventually
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.webhooks import callback, from_stripe, from_twilio, get, send, start_receiver, stripe_event

PGBOUNCER = shutil.which("pgbouncer")


@pytest.fixture
def pooled(logins, processes):
    """The address through the pooler, for a login."""
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is not installed here")
    url, port = make_url(logins), free_port()
    folder = processes.folder / "pooler"
    folder.mkdir(mode=0o755)
    (folder / "users").write_text("".join(f'"{login}" ""\n' for login in roles.LOGINS))
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={url.query['host']} port={url.query['port']}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
        f"auth_file = {folder}/users\npool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 200\n"
    )

    def address(login: str) -> str:
        return f"postgresql://{login}@127.0.0.1:{port}/{url.database}"

    def answers() -> bool:
        try:
            with psycopg.connect(address(roles.WORKER), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    processes.folder.chmod(0o755)  # it refuses to run as root, and reads its settings as somebody else
    processes.start("pooler", [PGBOUNCER, str(folder / "pgbouncer.ini")], {}, ready=answers, user="nobody")
    return address


def test_everything_works_behind_a_pooler_that_hands_out_transactions(
    pooled, environment, processes, engine, tmp_path, monkeypatch
):
    environment |= {"ALTIORA_DATABASE_POOLER": "true"}
    as_worker = environment | {"ALTIORA_DATABASE_URL": pooled(roles.WORKER)}
    recipes.worker(2).start(processes, as_worker)
    recipes.beat(tmp_path / "beat").start(processes, environment)
    port = start_receiver(processes, environment | {"ALTIORA_DATABASE_URL": pooled(roles.RECEIVER)})
    for number in range(60):
        assert send(port, from_twilio(callback(number))).status == 200
        assert send(port, from_stripe(stripe_event(number))).status == 200
    eventually(lambda: count(engine, "state = 'pending'") == 0)
    assert count(engine) == 120
    assert count(engine, "state = 'dead' and reason not like 'unknown-number%'") == 0
    for path in ("/health/ready", "/metrics"):
        assert get(port, path).status == 200
    use_environment(monkeypatch, as_worker)
    for command in (["backlog"], ["events", "list"], ["business", "list"], ["reconcile"], ["plans", "list"]):
        assert Altiora().run(*command).exit_code in {0, 1}, command
    log = (processes.folder / "worker.log").read_text()
    assert "batch-failed" not in log
    assert "prepared statement" not in log
    with psycopg.connect(pooled(roles.WORKER)) as connection:
        assert connection.execute("show lock_timeout").fetchone() == ("2s",), "of the login, since options don't pass"
