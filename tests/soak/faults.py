"""What breaks in a soaked month: each kind once, at real processes, for some seconds of the machine's time."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
from psycopg import sql

from db.schema_version import CODE
from ops.demo.stage import Stage
from ops.processes import embedded, recipes
from ops.processes.repository import REPOSITORY
from pipeline.shared import clock
from tasks.queues import QUEUES
from tests.worlds.webhooks import sign_twilio

#: Our processes that are killed and stopped.
OURS = ("receiver", "worker", "beat")

#: What tests/worlds/lethal_app.py lies in wait for; importing that file would set its trap here too.
LETHAL = "kill-the-worker"

#: What a broker may hold that nobody here has sent.
_POISON = (
    b"",
    b"\0\1\2",
    b"[]",
    b'{"body": "x"}',
    b'{"body": "bm8=", "headers": {"task": "os.system"}, "properties": {}}',
)

_TABLES = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1"

_FULL = """
create or replace function no_room() returns trigger language plpgsql as
$$begin raise exception 'No space left on device' using errcode = '53100'; end$$
"""


def worker_of_the_soak() -> recipes.Process:
    """The one worker, with the waits of the soak."""
    argv = (sys.executable, "-m", "celery", "-A", "tests.soak.hurried_app", "worker", "--concurrency", "2")
    return recipes.Process("worker", (*argv, "-Q", ",".join(QUEUES)), lambda printed: " ready." in printed, grace=30)


class Faults:
    """Breaks what runs on a stage. Each method is one kind, and returns when what it broke is whole again."""

    def __init__(self, stage: Stage, chance: random.Random, folder: Path) -> None:
        self.stage = stage
        self.chance = chance
        self.folder = folder
        self.killers: list[str] = []
        """SIDs of the calls whose events kill every worker: these, and no others, may end dead."""

    def kinds(self) -> list[Callable[[], None]]:
        """All kinds, but for those that this machine has nothing for."""
        deploys = [self.two_versions_run_side_by_side] if _before_the_newest_migration() else []
        return [
            self.a_process_is_killed,
            self.a_worker_child_is_killed,
            self.a_process_stands_still,
            self.postgres_stands_still,
            self.postgres_is_restarted,
            self.postgres_crashes,
            self.the_node_is_read_only_and_back,
            self.the_broker_is_emptied,
            self.the_broker_is_restarted,
            self.the_broker_is_poisoned,
            self.a_table_is_locked,
            self.the_disk_is_full,
            self.the_clock_steps,
            self.stripe_answers_429,
            self.stripe_answers_401,
            self.stripe_answers_500,
            self.answers_are_lost,
            self.an_event_kills_its_workers,
            *deploys,
        ]

    # Processes

    def a_process_is_killed(self) -> None:
        name = self.chance.choice(OURS)
        os.kill(self.stage.supervisor.pid(name), signal.SIGKILL)
        self.stage.supervisor.stop(name)  # until it is gone, with all that it started
        time.sleep(self.chance.uniform(0, 1))
        self._start(name)

    def a_worker_child_is_killed(self) -> None:
        for _ in range(3):
            with contextlib.suppress(psutil.NoSuchProcess, IndexError):
                worker = psutil.Process(self.stage.supervisor.pid("worker"))
                self.chance.choice(worker.children(recursive=True)).kill()
            time.sleep(0.3)

    def a_process_stands_still(self) -> None:
        self._stop_and_go(self.stage.supervisor.pid(self.chance.choice(OURS)))

    def _start(self, name: str) -> None:
        again = {
            "receiver": recipes.receiver(urlsplit(self.stage.settings["ALTIORA_PUBLIC_URL"]).port or 0),
            "worker": worker_of_the_soak(),
            "beat": recipes.beat(self.stage.supervisor.folder / "beat"),
        }
        again[name].start(self.stage.supervisor, self.stage.settings)

    def _stop_and_go(self, pid: int) -> None:
        process = psutil.Process(pid)
        stopped = [process, *process.children(recursive=True)]
        for each in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()
        time.sleep(self.chance.uniform(0.5, 2.5))
        for each in reversed(stopped):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

    def two_versions_run_side_by_side(self) -> None:
        """As during a deploy: a worker of before the newest migration works beside the new one."""
        old = self.folder / "before"
        if not old.exists():
            with tarfile.open(fileobj=BytesIO(_before_the_newest_migration())) as archive:
                archive.extractall(old, filter="data")
        with (self.folder / "before.log").open("ab") as log:
            worker = subprocess.Popen(
                # With the trap of its own time, or it would apply what kills the others.
                [
                    *(sys.executable, "-m", "celery", "-A", "tests.worlds.lethal_app", "worker"),
                    *("--hostname", "before@%h", "--concurrency", "1", "-Q", ",".join(QUEUES)),
                ],
                cwd=old,
                env=os.environ | self.stage.settings | {"PYTHONPATH": str(old)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        time.sleep(self.chance.uniform(4, 6))
        worker.terminate()
        worker.wait(60)

    # PostgreSQL

    def postgres_stands_still(self) -> None:
        self._stop_and_go(self.stage.servers.pid("postgres"))

    def postgres_is_restarted(self) -> None:
        self.stage.servers.stop("postgres")
        time.sleep(self.chance.uniform(0, 2))
        embedded.start_postgres(self.stage.servers)

    def postgres_crashes(self) -> None:
        os.kill(self.stage.servers.pid("postgres"), signal.SIGKILL)
        self.stage.servers.stop("postgres")
        time.sleep(self.chance.uniform(0.5, 2))
        embedded.start_postgres(self.stage.servers)

    def the_node_is_read_only_and_back(self) -> None:
        """As after a failover by a name: connections lead to a node that follows, until another one is promoted."""
        with self._administration() as connection:
            connection.execute("alter system set default_transaction_read_only = on")
            connection.execute("select pg_reload_conf()")
        time.sleep(self.chance.uniform(0.5, 2.5))
        with self._administration() as connection:
            connection.execute("set default_transaction_read_only = off")
            connection.execute("alter system reset default_transaction_read_only")
            connection.execute("select pg_reload_conf()")
            connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()")

    def a_table_is_locked(self) -> None:
        with self._administration() as connection:
            tables = [name for (name,) in connection.execute(_TABLES)]
            table = sql.Identifier(self.chance.choice(tables))
            with connection.transaction():
                connection.execute(sql.SQL("lock table {} in access exclusive mode").format(table))
                time.sleep(self.chance.uniform(1, 3.5))

    def the_disk_is_full(self) -> None:
        """By the error that PostgreSQL gives then, for new rows of one table."""
        with self._administration() as connection:
            tables = [name for (name,) in connection.execute(_TABLES)]
            table = sql.Identifier(self.chance.choice(tables))
            connection.execute(_FULL)
            make = "create trigger no_room before insert on {} for each row execute function no_room()"
            connection.execute(sql.SQL(make).format(table))
            time.sleep(self.chance.uniform(0.5, 2.5))
            connection.execute(sql.SQL("drop trigger no_room on {}").format(table))

    @contextlib.contextmanager
    def _administration(self) -> Iterator[psycopg.Connection]:
        address = self.stage.settings["ALTIORA_DATABASE_URL"].replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            yield connection

    # The broker

    def the_broker_is_emptied(self) -> None:
        self.stage.broker.flushall()

    def the_broker_is_restarted(self) -> None:
        port = urlsplit(self.stage.settings["ALTIORA_BROKER_URL"]).port
        self.stage.servers.stop("valkey")
        time.sleep(self.chance.uniform(0, 2))
        embedded.start_valkey(self.stage.servers, port)

    def the_broker_is_poisoned(self) -> None:
        for _ in range(5):
            self.stage.broker.lpush(self.chance.choice(QUEUES), self.chance.choice(_POISON))
        if self.chance.random() < 0.5:
            queue = self.chance.choice(QUEUES)
            self.stage.broker.delete(queue)
            self.stage.broker.set(queue, b"not a list")

    # Time

    def the_clock_steps(self) -> None:
        """The business clock, which stands for the machine's, goes back up to an hour or ahead up to two minutes."""
        file = Path(self.stage.settings["ALTIORA_CLOCK"])
        now = clock.Clock(file).now()
        clock.move(file, now + timedelta(minutes=self.chance.uniform(-60, 2)))
        time.sleep(self.chance.uniform(0.5, 2))
        clock.move(file, now)

    # Stripe and Twilio

    def stripe_answers_429(self) -> None:
        self._rates(rate_429=0.7)

    def stripe_answers_500(self) -> None:
        self._rates(rate_500=0.7)

    def answers_are_lost(self) -> None:
        self._rates(rate_lost_answer=0.7)

    def stripe_answers_401(self) -> None:
        self._rates(rate_401=0.7)

    def _rates(self, **rates: float) -> None:
        self._post("/_sandbox/faults", dict(rates))
        time.sleep(self.chance.uniform(0.5, 2.5))
        self._post("/_sandbox/faults", dict.fromkeys(rates, 0.0))

    def _post(self, path: str, body: dict[str, object]) -> None:
        answer = httpx.post(self.stage.settings["ALTIORA_STRIPE_API_BASE"] + path, json=body, timeout=30)
        assert answer.status_code == 200, answer.text

    # Events

    def an_event_kills_its_workers(self) -> None:
        """A callback of a call on a number of nobody, which ends every worker that touches it."""
        sid = f"CA{self.chance.getrandbits(128):032x}"
        params = {
            "CallSid": sid,
            "AccountSid": self.stage.settings["ALTIORA_TWILIO_ACCOUNT_SID"],
            "CallStatus": "completed",
            "CallDuration": "60",
            "To": "+15559999999",
            "CallerName": LETHAL,
        }
        url = f"{self.stage.settings['ALTIORA_PUBLIC_URL']}/webhooks/twilio/voice"
        signature = sign_twilio(params.items(), url, self.stage.settings["ALTIORA_TWILIO_AUTH_TOKEN"])
        answer = httpx.post(url, data=params, headers={"X-Twilio-Signature": signature}, timeout=30)
        assert answer.status_code == 200, answer.text
        self.killers.append(sid)


def _before_the_newest_migration() -> bytes:
    """This program as it was before its newest migration, as a tar file; empty where git does not have it."""
    newest = next((REPOSITORY / "db/migrations/versions").glob(f"{CODE}_*.py"))
    git = ["git", "-C", str(REPOSITORY)]
    log = [*git, "log", "--diff-filter=A", "--format=%H", "--", str(newest)]
    with contextlib.suppress(OSError):
        added = subprocess.run(log, capture_output=True, text=True, check=False).stdout.split()
        if added:
            return subprocess.run([*git, "archive", f"{added[0]}^"], capture_output=True, check=False).stdout
    return b""
