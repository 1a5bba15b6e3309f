"""The stage: servers of its own, one migrated database with businesses, and the processes that are measured."""

import contextlib
import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis
from sqlalchemy import Engine

from bench.client import Answers
from bench.traffic import ACCOUNT, PUBLIC_URL, STRIPE_SECRET, TOKEN, Business
from db import roles
from db.engine import make_engine
from db.seed import PLANS
from ops.processes import embedded, own_database, recipes
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import Supervisor, free_port, listening
from tasks.nudge import Nudge

#: Keep-alive connections of the load generator.
CONNECTIONS = 64
#: Seconds for anything that is waited for here; the longest takes some tens of seconds on two cores.
_PATIENCE = 300.0

_CELERY = (sys.executable, "-m", "celery", "-A")
_TABLES = (
    "webhook_events, claims, refreshes, calls, usage_records, usage_adjustments, usage_alerts, drifts, meter_pushes"
)
_PLAN_IDS = {str(plan["code"]): plan["id"] for plan in PLANS}


class BenchError(Exception):
    """Something can't be measured."""


@dataclass(frozen=True)
class Stage:
    """What every measurement needs."""

    supervisor: Supervisor
    engine: Engine
    broker: redis.Redis
    database_url: str
    broker_url: str

    @property
    def environment(self) -> dict[str, str]:
        """The settings of every process; all of them, so that none is taken from a ``.env``."""
        return {
            "ALTIORA_DATABASE_URL": roles.address_of(self.database_url, roles.WORKER),
            "ALTIORA_BROKER_URL": self.broker_url,
            "ALTIORA_STRIPE_API_KEY": "sk_test_bench",
            "ALTIORA_STRIPE_WEBHOOK_SECRET": STRIPE_SECRET,
            # Nothing is asked of either: an address where nobody answers.
            "ALTIORA_STRIPE_API_BASE": "http://127.0.0.1:1",
            "ALTIORA_STRIPE_METER_EVENT_NAME": "call_minutes",
            "ALTIORA_TWILIO_ACCOUNT_SID": ACCOUNT,
            "ALTIORA_TWILIO_AUTH_TOKEN": TOKEN,
            "ALTIORA_TWILIO_API_BASE": "http://127.0.0.1:1",
            "ALTIORA_PUBLIC_URL": PUBLIC_URL,
            "ALTIORA_BILL_CHILD_LEGS": "false",
            "ALTIORA_BEAT_PACE": "1",
            "ALTIORA_CLOCK": "real",
        }

    @contextlib.contextmanager
    def receiver(self) -> Iterator[int]:
        """The receiver; gives its port."""
        port = free_port()
        recipes.receiver(port).start(self.supervisor, self.environment)
        yield port
        self.supervisor.stop("receiver")

    @contextlib.contextmanager
    def worker(self) -> Iterator[int]:
        """The worker with two children, of all queues; gives its process id."""
        yield recipes.worker(2).start(self.supervisor, self.environment)
        self.supervisor.stop("worker")

    @contextlib.contextmanager
    def other_receiver(self, factory: str) -> Iterator[int]:
        """A yardstick's ASGI application, served as the receiver is; gives its port."""
        port = free_port()
        self.supervisor.start(
            factory,
            [sys.executable, "-m", "bench.serve", factory, str(port)],
            self.environment,
            ready=listening(port),
        )
        yield port
        self.supervisor.stop(factory)

    @contextlib.contextmanager
    def other_worker(self, app: str, name: str, *options: str) -> Iterator[None]:
        """A yardstick's Celery worker."""
        command = [*_CELERY, app, "worker", "-n", f"{name}@bench", "--without-mingle", "--without-gossip", *options]
        # Nothing is lost with it, and an orderly end takes seconds.
        self.supervisor.start(name, command, self.environment, stop_signal=signal.SIGKILL)
        yield
        self.supervisor.stop(name)

    def load(
        self, requests: Sequence[bytes], port: int, rate: float | None = None, connections: int = CONNECTIONS
    ) -> "Load":
        """Begin to send requests from a process of its own; closed loop, or so many a second."""
        return Load(self.supervisor.folder, requests, port, rate, connections)

    def nudge(self, times: int = 1) -> None:
        """Tell the workers that something is stored, as the receiver does."""
        for _ in range(times):
            nudge = Nudge(self.broker_url)
            nudge.send("events.drain")
            nudge.close()

    def reset(self) -> None:
        """Forget all events, calls and records; processes and businesses stay."""
        with self.engine.begin() as connection:
            connection.exec_driver_sql(f"truncate {_TABLES} cascade")
            connection.exec_driver_sql("update businesses set limited_until = null where limited_until is not null")
        self.settle()

    def settle(self) -> None:
        """Let PostgreSQL count and write what was changed, so that it doesn't while something is measured."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("analyze")
            connection.exec_driver_sql("checkpoint")

    def ask(self, query: str, *parameters: object) -> object:
        """The one value of a query."""
        with self.engine.connect() as connection:
            return connection.exec_driver_sql(query, parameters or None).scalar_one()

    def committed_at(self, query: str) -> float:
        """When the last of the rows of ``query`` that gives their xmin was committed, in seconds since the epoch.

        PostgreSQL notes it, so nobody has to look often, which would cost what is measured.
        """
        latest = self.ask(f"select extract(epoch from max(pg_xact_commit_timestamp(xmin))) from ({query}) as changed")
        return float(str(latest))


class Load:
    """A running load generator."""

    def __init__(
        self, folder: Path, requests: Sequence[bytes], port: int, rate: float | None, connections: int
    ) -> None:
        self._answers = folder / "answers"
        prepared = folder / "requests"
        prepared.write_bytes(pickle.dumps(list(requests)))
        command = [sys.executable, "-m", "bench.client", str(prepared), str(self._answers), str(port), str(connections)]
        self._process = subprocess.Popen([*command, str(rate)] if rate else command, cwd=REPOSITORY)

    def running(self) -> bool:
        """Whether it still sends. Raises BenchError when it gave up: not every answer was 200."""
        if self._process.poll():
            raise BenchError("the load generator gave up, see above")
        return self._process.returncode is None

    def answers(self) -> Answers:
        """Wait for the end. Raises BenchError as ``running`` does."""
        wait_until(lambda: not self.running(), "the load")
        return Answers(**json.loads(self._answers.read_text()))


def wait_until(done: Callable[[], bool], what: str, every: float = 0.05) -> None:
    """Wait for something to be done. Raises BenchError when it takes for ever."""
    until = time.monotonic() + _PATIENCE
    while not done():
        if time.monotonic() > until:
            raise BenchError(f"{what}: not within {_PATIENCE:.0f} s")
        time.sleep(every)


@contextlib.contextmanager
def stage(businesses: Sequence[Business]) -> Iterator[Stage]:
    """Servers, and a database with these businesses, until the block is left."""
    with Supervisor() as supervisor:
        address = _postgres(supervisor)
        own_database.prepare(address)
        engine = make_engine(address)
        broker_url = embedded.start_valkey(supervisor)
        with redis.Redis.from_url(broker_url) as broker:
            made = Stage(supervisor, engine, broker, address, broker_url)
            _add(engine, businesses)
            yield made
        engine.dispose()


def _postgres(supervisor: Supervisor) -> str:
    """PostgreSQL as the tests have it, but that it notes when each transaction was committed."""
    address = embedded.start_postgres(supervisor)
    with psycopg.connect(address.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("alter system set track_commit_timestamp = on")
    supervisor.stop("postgres")
    return embedded.start_postgres(supervisor)


def _add(engine: Engine, businesses: Sequence[Business]) -> None:
    """The businesses with their numbers, and subscriptions as Stripe's mirror holds them."""
    with engine.begin() as connection:
        now = connection.exec_driver_sql("select now()").scalar_one()
        for business in businesses:
            customer = f"cus_{business.number}" if business.paid else None
            business_id = connection.exec_driver_sql(
                "insert into businesses (name, time_zone, plan_id, stripe_customer_id, created_at)"
                " values (%s, %s, %s, %s, %s - interval '1 year') returning id",
                (business.name, business.time_zone, _PLAN_IDS[business.plan], customer, now),
            ).scalar_one()
            connection.exec_driver_sql(
                "insert into phone_numbers (number, business_id) values (%s, %s)", (business.number, business_id)
            )
            connection.exec_driver_sql(
                "insert into phone_number_assignments (number, business_id, held)"
                " values (%s, %s, tstzrange(%s - interval '1 year', null))",
                (business.number, business_id, now),
            )
            if business.paid:
                connection.exec_driver_sql(
                    "insert into subscriptions (stripe_id, business_id, stripe_customer_id, status, plan_id,"
                    " metered_item_id, metered_price_id, period_start, period_end, billing_cycle_anchor, started_at,"
                    " price_ids, api_version, snapshot_at) values (%(id)s, %(business_id)s, %(customer)s, 'active',"
                    " %(plan_id)s, %(item)s, 'price_metered', %(start)s, %(start)s + interval '1 month', %(start)s,"
                    " %(start)s - interval '6 months', '[]', '2026-10-28.endive', %(start)s)",
                    {
                        "id": f"sub_{business.number}",
                        "business_id": business_id,
                        "customer": customer,
                        "plan_id": _PLAN_IDS[business.plan],
                        "item": f"si_{business.number}",
                        "start": business.period_start(now),
                    },
                )
