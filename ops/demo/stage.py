"""Everything that the demo runs on: servers, processes and stand-ins, started in order and ended whatever happens."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import redis
from sqlalchemy import Engine

from db import roles
from db.engine import make_engine
from ops.demo.stand_ins import Sandbox
from ops.processes import embedded, environment, own_database, recipes
from ops.processes.supervisor import Supervisor, free_port
from tasks.queues import QUEUES

#: How much faster than written beat ticks: a business day passes in about two seconds.
BEAT_PACE = 60

#: Lines of its log that are shown of a process that ended.
_LOG_LINES = 6


class StageError(Exception):
    """Something that must run has ended; the message holds the end of its log."""


@dataclass(frozen=True)
class Stage:
    """What runs, and how it is reached."""

    settings: dict[str, str]
    engine: Engine
    sandbox: Sandbox
    broker: redis.Redis
    supervisor: Supervisor
    servers: Supervisor
    """Of PostgreSQL and the broker."""
    flower_address: str
    flower_auth: str
    """``user:password``."""
    env_file: Path
    processes: Sequence[str]
    """The names of what must go on running."""

    def check(self) -> None:
        """Raise StageError when a process has ended."""
        for name in self.processes:
            if not self.supervisor.alive(name):
                lines = self.supervisor.log(name).read_text(errors="replace").splitlines()[-_LOG_LINES:]
                raise StageError("\n".join([f"{name} has ended; the end of its log:", *lines]))

    def empty_broker(self) -> int:
        """FLUSHALL; returns how many task messages were lost with it."""
        waiting = self.broker.pipeline(transaction=True)
        for queue in QUEUES:
            waiting.llen(queue)
        waiting.hlen("unacked")
        waiting.flushall()
        return sum(waiting.execute()[:-1])

    def kill_worker_child(self) -> None:
        """SIGKILL for one of the worker's two children, whatever it does at the moment."""
        children = psutil.Process(self.supervisor.pid("worker")).children(recursive=True)
        children[-1].kill()


@contextlib.contextmanager
def stage(
    start: datetime, seed: int, faults: str, tell: Callable[[str], None], *, people: bool = False
) -> Iterator[Stage]:
    """Start everything; ``tell`` is given a word about each step. All of it ends with the block.

    The business clock begins at ``start``; ``faults`` is a name of sandbox.server.PRESETS; ``people``: with the API.
    """
    with contextlib.ExitStack() as stack:
        tell("PostgreSQL and Valkey")
        servers = stack.enter_context(embedded.servers())
        tell("tables and plans")
        own_database.prepare(servers.database_url)
        supervisor = stack.enter_context(Supervisor())
        clock = supervisor.folder / "clock"
        ports = {name: free_port() for name in ("receiver", "stripe", "twilio", "mail", "api", "flower")}
        settings = recipes.stand_in_settings(
            roles.address_of(servers.database_url, roles.WORKER),
            servers.broker_url,
            receiver=ports["receiver"],
            stripe=ports["stripe"],
            twilio=ports["twilio"],
            api=ports["api"],
            mail=ports["mail"],
            clock=clock,
            beat_pace=BEAT_PACE,
        )
        env_file = stack.enter_context(environment.published(settings))  # or another run is there: before ours starts
        auth = f"demo:{secrets.token_urlsafe(9)}"
        tell("receiver, stand-ins, worker, beat and Flower")
        processes = [
            recipes.receiver(ports["receiver"]),
            recipes.sandbox(
                ports["stripe"],
                ports["twilio"],
                settings["ALTIORA_PUBLIC_URL"],
                *("--mail-port", str(ports["mail"]), "--start", start.isoformat(), "--clock-file", str(clock)),
                *("--seed", str(seed), "--faults", faults),
            ),
            recipes.worker(),
            recipes.beat(supervisor.folder / "beat"),
            recipes.flower(ports["flower"], auth),
        ]
        if people:
            processes.append(recipes.api(ports["api"]))
        _start(supervisor, settings, processes)
        engine = make_engine(settings["ALTIORA_DATABASE_URL"], pool_size=2)
        stack.callback(engine.dispose)
        yield Stage(
            settings=settings,
            engine=engine,
            sandbox=stack.enter_context(
                Sandbox(
                    settings["ALTIORA_STRIPE_API_BASE"],
                    settings["ALTIORA_TWILIO_API_BASE"],
                    settings["ALTIORA_STRIPE_API_KEY"],
                )
            ),
            broker=stack.enter_context(redis.Redis.from_url(servers.broker_url, socket_timeout=5)),
            supervisor=supervisor,
            servers=servers.supervisor,
            flower_address=f"http://127.0.0.1:{ports['flower']}",
            flower_auth=auth,
            env_file=env_file,
            processes=[each.name for each in processes],
        )


def _start(supervisor: Supervisor, settings: dict[str, str], these: Sequence[recipes.Process]) -> None:
    """Start them side by side: each takes seconds, most of them to load its packages."""
    with ThreadPoolExecutor(len(these)) as pool:
        for _ in pool.map(lambda process: process.start(supervisor, settings), these):
            pass
