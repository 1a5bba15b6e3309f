"""The long-running processes: how each is started, and how one sees that it works. `altiora up` and the demo share it.

Each is one of our own commands, so that what runs here is what an operator starts by hand.
"""

import http.client
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import make_url

from db import roles
from ops.processes.supervisor import Supervisor

_ALTIORA = (sys.executable, "-m", "ops.cli")

#: Seconds that a process is given to end: a drain works for 20 s, and a worker waits for it.
_WORKER_GRACE = 30.0


@dataclass(frozen=True)
class Process:
    """One process: its name, its command, what it needs beside the settings, and when it is ready."""

    name: str
    argv: tuple[str, ...]
    ready: Callable[[str], bool]
    """Given what it has printed since it was started, whether it does its work by now."""
    env: Mapping[str, str] = field(default_factory=dict)
    grace: float = 10.0
    login: str = roles.WORKER
    """Its own, in the database; used where the settings' address has one of db/roles.py."""

    def start(self, supervisor: Supervisor, settings: Mapping[str, str]) -> int:
        """Start it as a child of ``supervisor`` with these ``ALTIORA_…`` settings, and wait until it is ready.

        Returns its process id. A process that has ended may be started again. Raises SupervisorError.
        """
        log = supervisor.log(self.name)
        before = log.stat().st_size if log.exists() else 0
        return supervisor.start(
            self.name,
            self.argv,
            {**_with_login(settings, self.login), **self.env},
            ready=lambda: self.ready(_printed(log, before)),
            timeout=60,
            grace=self.grace,
        )


def _with_login(settings: Mapping[str, str], login: str) -> dict[str, str]:
    """These settings with another login of the database, which lets whoever has its socket in without a password."""
    address = settings.get("ALTIORA_DATABASE_URL", "")
    if not address or make_url(address).username not in roles.LOGINS:
        return dict(settings)
    return {**settings, "ALTIORA_DATABASE_URL": roles.address_of(address, login)}


def stand_in_settings(
    database_url: str,
    broker_url: str,
    *,
    receiver: int,
    stripe: int,
    twilio: int,
    api: int | None = None,
    mail: int | None = None,
    clock: Path | None = None,
    beat_pace: float = 1.0,
) -> dict[str, str]:
    """The settings of a run with stand-ins on these ports of 127.0.0.1, its secrets made up.

    ``database_url`` with the worker's login. All settings, so that nothing is taken from a ``.env`` of real accounts.
    """
    return {
        "ALTIORA_DATABASE_URL": database_url,
        "ALTIORA_TENANT_DATABASE_URL": roles.address_of(database_url, roles.TENANT),
        "ALTIORA_BROKER_URL": broker_url,
        "ALTIORA_STRIPE_API_KEY": f"sk_test_{secrets.token_hex(12)}",
        "ALTIORA_STRIPE_WEBHOOK_SECRET": f"whsec_{secrets.token_hex(16)}",
        "ALTIORA_STRIPE_API_BASE": f"http://127.0.0.1:{stripe}",
        "ALTIORA_STRIPE_METER_EVENT_NAME": "call_minutes",
        "ALTIORA_STRIPE_SETTLING_SECONDS": "20",
        "ALTIORA_TWILIO_ACCOUNT_SID": f"AC{secrets.token_hex(16)}",
        "ALTIORA_TWILIO_AUTH_TOKEN": secrets.token_hex(16),
        "ALTIORA_TWILIO_API_BASE": f"http://127.0.0.1:{twilio}",
        "ALTIORA_PUBLIC_URL": f"http://127.0.0.1:{receiver}",
        "ALTIORA_BILL_CHILD_LEGS": "false",
        "ALTIORA_BEAT_PACE": str(beat_pace),
        "ALTIORA_SECRET_KEYS": secrets.token_urlsafe(48),
        "ALTIORA_DASHBOARD_URL": f"http://127.0.0.1:{api or receiver}",
        "ALTIORA_SMTP_URL": f"smtp://127.0.0.1:{mail}" if mail else "",
        "ALTIORA_MAIL_FROM": "Altiora <billing@localhost>",
        "ALTIORA_CLOCK": str(clock or "real"),
    }


def receiver(port: int, host: str = "127.0.0.1") -> Process:
    """The HTTP door."""
    argv = (*_ALTIORA, "receiver", "--host", host, "--port", str(port))
    return Process("receiver", argv, lambda _: _answers(port, "/health/live"), login=roles.RECEIVER)


def api(port: int, host: str = "127.0.0.1") -> Process:
    """The JSON API."""
    argv = (*_ALTIORA, "api", "--host", host, "--port", str(port))
    return Process("api", argv, lambda _: _answers(port, "/health/live"), login=roles.STAFF)


def worker(concurrency: int = 2, queues: str = "", name: str = "worker") -> Process:
    """A Celery worker with ``concurrency`` children; of all queues, or of those named, comma-separated."""
    some = ("--queues", queues) if queues else ()
    argv = (*_ALTIORA, "worker", "--name", name, "--concurrency", str(concurrency), *some)
    return Process(name, argv, lambda printed: " ready." in printed, grace=_WORKER_GRACE)


def beat(schedule: Path) -> Process:
    """The one beat; ``schedule`` is the file in which it remembers when it sent what."""
    argv = (*_ALTIORA, "beat", "--schedule", str(schedule))
    return Process("beat", argv, lambda printed: "beat: Starting" in printed)


def flower(port: int, auth: str) -> Process:
    """Flower, read-only; ``auth`` is ``user:password``, handed over where no list of processes shows it."""
    argv = (*_ALTIORA, "flower", "--port", str(port))
    return Process("flower", argv, lambda _: _answers(port, "/healthcheck"), {"FLOWER_BASIC_AUTH": auth})


def sandbox(stripe_port: int, twilio_port: int, target: str = "", *options: str) -> Process:
    """Both stand-ins; webhooks go to the receiver at ``target``, or at ALTIORA_PUBLIC_URL.

    ``options`` are more of the command's own.
    """
    ports = ("--stripe-port", str(stripe_port), "--twilio-port", str(twilio_port))
    argv = (*_ALTIORA, "sandbox", *ports, "--target", target, *options)
    return Process("sandbox", argv, lambda _: _answers(stripe_port, "/_sandbox/clock"))


def _printed(log: Path, before: int) -> str:
    with log.open("rb") as file:
        file.seek(before)
        return file.read().decode(errors="replace")


def _answers(port: int, path: str) -> bool:
    """Whether 127.0.0.1:``port`` answers this path with 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
