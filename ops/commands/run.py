"""The commands that run until they are told to stop: `receiver`, `api`, `worker`, `beat` and `flower`.

They stop at once when a setting is missing, or the database's tables are of another version, with the sentence that
says what to do, and log JSON lines.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from sqlalchemy.exc import OperationalError

from ops.commands.database import choose_settings, engine
from ops.processes.repository import REPOSITORY
from pipeline.shared.settings import (
    ApiSettings,
    BrokerSettings,
    DashboardSettings,
    DatabaseSettings,
    PublicSettings,
    RuleSettings,
    SecretKeySettings,
    StripeModeSettings,
    StripeSettings,
    StripeWebhookSettings,
    TenantDatabaseSettings,
    TwilioAccountSettings,
    TwilioSettings,
)
from tasks.queues import QUEUES

#: As `celery` on the command line, with our app, which a folder `tasks` where we are called must not hide (-P, and its
#: own --workdir: it looks there first). Neither its banner nor its warning to root is JSON; what it warns of, pickled
#: messages, are refused here.
_CELERY = (
    *(sys.executable, "-P", "-W", "ignore::UserWarning:celery.platforms"),
    *("-m", "celery", "--quiet", "--workdir", str(REPOSITORY), "-A", "tasks.app:app"),
)

Host = Annotated[str, typer.Option(help="The address to listen on.")]


def _with_settings(*kinds: type[Any], **variables: str) -> None:
    """See that the settings of these kinds, and these variables, are in the environment, which children have too.

    Where they are not, and something runs in this clone, this process begins anew with the settings of that.
    """
    chosen = choose_settings(*kinds)
    wanted = dict(os.environ) | variables
    if chosen is not None:
        wanted = {name: value for name, value in wanted.items() if not name.startswith("ALTIORA_")} | dict(chosen)
    if wanted != os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)  # noqa: S606 - no shell is wanted


def _with_tables() -> None:
    """See that this code fits the database's tables; where it can't be reached, each new connection looks again."""
    with engine(None) as made, contextlib.suppress(OperationalError), made.connect():
        pass


def receiver(
    host: Host = "127.0.0.1", port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8000
) -> None:
    """Receive the webhooks of Stripe and Twilio."""
    _with_settings(DatabaseSettings, BrokerSettings, PublicSettings, StripeWebhookSettings, TwilioSettings)
    _with_tables()
    from receiver import server  # noqa: PLC0415 - uvicorn is slow to load

    server.run(host, port)


def api(
    host: Host = "127.0.0.1", port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 8001
) -> None:
    """Serve the JSON API, for people's browsers and their programs."""
    _with_settings(
        DatabaseSettings, TenantDatabaseSettings, DashboardSettings, SecretKeySettings, ApiSettings, StripeModeSettings
    )
    _with_tables()
    from api import server  # noqa: PLC0415 - fastapi is slow to load

    server.run(host, port)


def worker(
    queues: Annotated[str, typer.Option(help="The queues to work for, comma-separated.")] = ",".join(QUEUES),
    concurrency: Annotated[int, typer.Option(min=1, help="Processes that work side by side.")] = 2,
    name: Annotated[str, typer.Option(help="How Flower shows it; unique on one machine.")] = "worker",
) -> None:
    """Do what is due: apply events, close periods, talk to Stripe and Twilio."""
    for queue in queues.split(","):
        if queue not in QUEUES:
            raise typer.BadParameter(f"{queue} is no queue; the queues are {', '.join(QUEUES)}", param_hint="--queues")
    talks = {"stripe", "maintenance"} & set(queues.split(","))  # to Stripe and Twilio; the others do without the keys
    accounts = (StripeSettings, TwilioSettings) if talks else (StripeModeSettings, TwilioAccountSettings)
    _with_settings(DatabaseSettings, BrokerSettings, *accounts, RuleSettings)
    _with_tables()
    os.execv(  # noqa: S606 - no shell is wanted
        sys.executable,
        [
            *(*_CELERY, "worker", "--hostname", f"{name}@%h", "--loglevel", "INFO"),
            *("--queues", queues, "--concurrency", str(concurrency)),
            # What workers tell each other: nothing here needs it, and asking for it costs a second at the start.
            *("--without-mingle", "--without-gossip"),
        ],
    )


def beat(
    schedule: Annotated[
        Path, typer.Option(help="The file in which it remembers when it sent what; it must outlive a restart.")
    ] = REPOSITORY / ".altiora" / "beat-schedule",
) -> None:
    """Tell the workers again and again to look for what is due. Run one; a second one does no harm."""
    _with_settings(BrokerSettings)
    schedule.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.execv(  # noqa: S606 - no shell is wanted
        sys.executable,
        [
            *(*_CELERY, "beat", "--scheduler", "tasks.beat:Scheduler", "--schedule", str(schedule.resolve())),
            *("--loglevel", "INFO", "--pidfile="),
        ],
    )


def flower(
    basic_auth: Annotated[
        str, typer.Option(envvar="FLOWER_BASIC_AUTH", help="Who may look: user:password; several, comma-separated.")
    ],
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port.")] = 5555,
) -> None:
    """Show workers and tasks in a browser, read-only. Keep it on loopback or behind a proxy."""
    if not all(":" in each.strip(":") for each in basic_auth.split(",")):
        raise typer.BadParameter("write it as user:password", param_hint="--basic-auth")
    # In the environment and not an argument, which everybody on the machine can read; what Flower is, goes by it.
    _with_settings(BrokerSettings, FLOWER_BASIC_AUTH=basic_auth)
    from pipeline.shared import logs  # noqa: PLC0415 - for processes that go on running

    logs.configure()
    from tasks.app import app  # noqa: PLC0415 - celery is slow to load

    app.start(["flower", f"--address={host}", f"--port={port}", "--read-only", "--logging=none"])
