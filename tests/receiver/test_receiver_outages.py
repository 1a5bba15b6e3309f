"""The receiver while the broker is away, emptied or hanging, and while the database can't store."""

import contextlib
import os
import random
import signal
import string
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from sqlalchemy import text

from ops.processes import embedded, recipes
from tests.worlds.breaking import breaks
from tests.worlds.superuser import run_as_superuser, superuser
from tests.worlds.webhooks import callback, from_stripe, from_twilio, get, send, send_all, start_receiver, stripe_event

EVENTS = 1000


def count(engine, condition: str = "true") -> int:
    with engine.connect() as connection:
        return int(connection.execute(text(f"select count(*) from webhook_events where {condition}")).scalar_one())


def eventually(condition, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to pass in time"
        time.sleep(0.1)


def send_events(port: int, series: int) -> float:
    """Send EVENTS signed events of both kinds; how many seconds it took until the last was answered 200."""
    numbers = range(series * EVENTS, (series + 1) * EVENTS)
    requests = [
        from_stripe(stripe_event(number)) if number % 2 else from_twilio(callback(number)) for number in numbers
    ]
    began = time.monotonic()
    assert send_all([port], requests, clients=32) == {200: EVENTS}
    return time.monotonic() - began


def test_no_state_of_the_broker_loses_or_delays_an_event(environment, processes, engine, tmp_path):
    broker_url = embedded.start_valkey(processes)
    broker_port = int(broker_url.partition("127.0.0.1:")[2].partition("/")[0])
    environment |= {"ALTIORA_BROKER_URL": broker_url}
    port = start_receiver(processes, environment)
    send_events(port, 0)  # the first series also warms up
    healthy = send_events(port, 1)

    emptying = threading.Event()

    def empty() -> None:
        with redis.Redis.from_url(broker_url, socket_timeout=10) as client:
            while not emptying.wait(0.05):
                client.flushall()

    thread = threading.Thread(target=empty)
    thread.start()
    emptied = send_events(port, 2)
    emptying.set()
    thread.join()

    os.kill(processes.pid("valkey"), signal.SIGSTOP)
    hanging = send_events(port, 3)
    os.kill(processes.pid("valkey"), signal.SIGCONT)

    processes.stop("valkey")
    away = send_events(port, 4)

    assert count(engine) == count(engine, "state = 'pending'") == 5 * EVENTS
    # A broker that got in the way would cost 0.5 s for each group, or minutes.
    assert max(emptied, hanging, away) < 5 * healthy, (healthy, emptied, hanging, away)

    # Then a broker and a worker: all of it is processed without any new webhook.
    embedded.start_valkey(processes, broker_port)
    recipes.worker(1).start(processes, environment)
    recipes.beat(tmp_path / "beat").start(processes, environment)
    eventually(lambda: count(engine, "state = 'pending'") == 0)
    assert count(engine, "state = 'ignored' and reason = 'not-needed'") == 5 * EVENTS / 2


def test_a_nudge_reaches_the_worker_at_once(environment, processes, engine):
    """Without any beat: what is stored is processed because the receiver said so."""
    recipes.worker(1, queues="events").start(processes, environment)
    port = start_receiver(processes, environment)
    for number in range(3):
        assert send(port, from_stripe(stripe_event(number))).status == 200
        eventually(lambda number=number: count(engine, "state = 'ignored'") == number + 1)


@breaks("pipeline/drain.py", "            queue.revive_resent(connection)\n", "")
def test_89_resending_a_dead_event_has_it_applied_again(environment, processes, engine):
    """As the Dashboard's "Resend" does, after whatever made it fail was repaired."""
    recipes.worker(1, queues="events").start(processes, environment)
    port = start_receiver(processes, environment)
    request = from_stripe(stripe_event(1))
    assert send(port, request).status == 200
    eventually(lambda: count(engine, "state = 'ignored'") == 1)
    with engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set state = 'dead', reason = 'failed: X', attempts = 7")
    assert send(port, request).status == 200
    eventually(lambda: count(engine, "state = 'ignored' and attempts = 0") == 1)
    assert count(engine) == 1


@pytest.fixture
def receiver(environment, processes) -> int:
    return start_receiver(processes, environment)


def test_a_database_that_is_away_is_a_503_until_it_is_back(receiver, engine, administration):
    database = engine.url.database
    assert send(receiver, from_stripe(stripe_event(1))).status == 200
    engine.dispose()
    with administration.connect() as connection:
        connection.execute(text(f"alter database {database} allow_connections false"))
        connection.execute(
            text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": database}
        )
        answer = send(receiver, from_stripe(stripe_event(2)))
        assert answer.status == 503
        assert b"send it again" in answer.body
        assert get(receiver, "/health/live").status == 200
        for path in ("/health/ready", "/health/backlog"):
            assert get(receiver, path).status == 503
        told = get(receiver, "/metrics")
        assert told.status == 200
        lines = told.body.decode().splitlines()
        assert "altiora_database_up 0.0" in lines
        assert 'altiora_answers_total{path="/webhooks/stripe",status="503"} 1.0' in lines
        connection.execute(text(f"alter database {database} allow_connections true"))
    eventually(lambda: send(receiver, from_stripe(stripe_event(2))).status == 200)
    eventually(lambda: get(receiver, "/health/ready").status == 200)
    assert get(receiver, "/metrics").status == 200
    assert count(engine) == 2


def test_a_database_that_does_not_answer_is_a_503_in_time(receiver, engine):
    with engine.connect() as locking:
        locking.execute(text("lock table webhook_events in access exclusive mode"))
        answers = []

        def sender(number: int) -> None:
            answers.append(send(receiver, from_stripe(stripe_event(number))))

        senders = [threading.Thread(target=sender, args=(number,)) for number in range(5)]
        for thread in senders:
            thread.start()
        for thread in senders:
            thread.join(15)
        assert [answer.status for answer in answers] == [503] * 5
        answer = get(receiver, "/health/backlog")
        assert answer.status == 503
        assert answer.json["reasons"] == ["the database has not answered for 3 s"]
        assert get(receiver, "/health/ready").status == 503
        locking.rollback()
    eventually(lambda: send(receiver, from_stripe(stripe_event(9))).status == 200)
    eventually(lambda: get(receiver, "/health/backlog").status == 200)
    assert get(receiver, "/health/ready").status == 200


@contextlib.contextmanager
def _refusing_trigger(engine) -> Iterator[None]:
    with superuser(engine) as connection:
        connection.exec_driver_sql(
            "create function full_disk() returns trigger language plpgsql as"
            " $$begin raise exception 'full' using errcode = '53100'; end$$"
        )
        connection.exec_driver_sql(
            "create trigger full_disk before insert on webhook_events for each row execute function full_disk()"
        )
    yield
    run_as_superuser(engine, "drop trigger full_disk on webhook_events")


@contextlib.contextmanager
def _full_disk(engine) -> Iterator[None]:
    """The events' table lies on a disk of its own, which somebody fills."""
    disk = Path(tempfile.mkdtemp(prefix="disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", disk], check=False)
    if mounted.returncode:
        disk.rmdir()
        pytest.skip("only root can mount a small disk")
    with superuser(engine, isolation_level="AUTOCOMMIT") as connection:
        (server,) = connection.exec_driver_sql("select (pg_stat_file('postmaster.pid')).size, pg_backend_pid()").all()
        try:
            (disk / "space").mkdir()
            (disk / "space").chmod(0o777)
            owner = Path(f"/proc/{server[1]}").stat()
            os.chown(disk / "space", owner.st_uid, owner.st_gid)
            connection.exec_driver_sql(f"create tablespace small location '{disk}/space'")
            connection.exec_driver_sql("alter table webhook_events set tablespace small")
            with contextlib.suppress(OSError):
                (disk / "filler").write_bytes(bytes(8_000_000))
            yield
            (disk / "filler").unlink()
        finally:
            connection.exec_driver_sql("alter table webhook_events set tablespace pg_default")
            connection.exec_driver_sql("drop tablespace small")
            subprocess.run(["umount", disk], check=True)
            disk.rmdir()


@breaks("receiver/app.py", "            if not self._store.able:\n", "            if False:\n")
@pytest.mark.parametrize("full", [_refusing_trigger, _full_disk])
def test_90_with_a_full_disk_nobody_is_ready_until_an_event_can_be_stored_again(receiver, engine, full):
    assert get(receiver, "/health/ready").status == 200
    with full(engine):
        large = stripe_event(1, padding="".join(random.Random(1).choices(string.printable, k=100_000)))
        assert send(receiver, from_stripe(large)).status == 503
        for _ in range(3):
            ready = get(receiver, "/health/ready")
            assert (ready.status, ready.json.get("reasons")) == (503, ["no event can be stored: DiskFull"])
        begun = time.monotonic()
    eventually(lambda: get(receiver, "/health/ready").status == 200, 10)
    assert time.monotonic() - begun < 10
    assert send(receiver, from_stripe(stripe_event(2))).status == 200
    assert count(engine) == 1


def test_90_after_a_restart_of_the_server_the_receiver_is_ready_when_it_can_store(receiver, engine, administration):
    assert send(receiver, from_stripe(stripe_event(1))).status == 200
    database = engine.url.database
    with administration.connect() as connection:
        connection.execute(text(f"alter database {database} allow_connections false"))
        connection.execute(
            text("select pg_terminate_backend(pid) from pg_stat_activity where datname = :name"), {"name": database}
        )
        assert get(receiver, "/health/ready").status == 503
        connection.execute(text(f"alter database {database} allow_connections true"))
    eventually(lambda: get(receiver, "/health/ready").status == 200, 10)
    assert send(receiver, from_stripe(stripe_event(2))).status == 200, "ready is a promise"


def test_a_receiver_starts_without_a_database_and_stores_when_there_is_one(
    environment, processes, engine, administration
):
    database = engine.url.database
    with administration.connect() as connection:
        connection.execute(text(f"alter database {database} allow_connections false"))
        port = start_receiver(processes, environment)
        assert send(port, from_stripe(stripe_event(1))).status == 503
        connection.execute(text(f"alter database {database} allow_connections true"))
    eventually(lambda: send(port, from_stripe(stripe_event(1))).status == 200)
    assert count(engine) == 1


def test_a_missing_setting_stops_the_start_with_its_name(environment, processes):
    del environment["ALTIORA_STRIPE_WEBHOOK_SECRET"]
    with pytest.raises(Exception, match="ALTIORA_STRIPE_WEBHOOK_SECRET is missing"):
        start_receiver(processes, environment)
