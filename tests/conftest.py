"""What every test may ask for: a fresh migrated database, an empty broker, real child processes.

Both servers are real and our own (``ops/processes/embedded.py``), one pair for each pytest-xdist worker. A database
is a copy of one that was migrated once, so it costs milliseconds.
"""

import itertools
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import structlog
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from db import roles
from db.engine import make_engine
from ops.processes import embedded, own_database
from ops.processes.supervisor import Supervisor
from pipeline.shared import clock, settings
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.stripe_stand_in import Host
from tests.worlds.world import at

_payloads = os.environ.get("ALTIORA_PAYLOADS", "")
_numbers = itertools.count(1)

#: Files in memory, where Linux has room for them: a database is hundreds of small files, made for each test.
_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 4 * 2**30


def pytest_configure() -> None:
    """Leave nothing of the developer's own settings for a test to read, and end in order on SIGTERM."""
    for name in [name for name in os.environ if name.startswith(("ALTIORA_", "PG"))]:
        if name != "ALTIORA_PAYLOADS":  # no setting of ours; pytest-xdist's workers inherit it from here
            del os.environ[name]
    if "TMPDIR" not in os.environ and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES:
        os.environ["TMPDIR"] = str(_MEMORY)
        tempfile.tempdir = None
    for kind in settings._Settings.__subclasses__():
        kind.model_config["env_file"] = None
    # What is logged in a test is read by people who see the test: an error's text is enough, without its source.
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])
    # A SystemExit inside a test would only fail that test; KeyboardInterrupt ends the session.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.Addresses]:
    """The embedded servers. Whoever kills or restarts one starts a server of its own with ``processes``."""
    with embedded.servers() as addresses:
        yield addresses


@pytest.fixture(scope="session")
def administration(servers) -> Iterator[Engine]:
    """An engine that can create and drop databases."""
    url = make_url(servers.database_url).set(database="postgres")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def template_database(servers) -> str:
    """The name of a migrated database, plans seeded and logins made, to which nobody is connected."""
    own_database.prepare(servers.database_url)
    return str(make_url(servers.database_url).database)


@pytest.fixture
def empty_database_url(servers, administration) -> Iterator[str]:
    """A database without any table, for tests of the migrations themselves."""
    yield from _database(servers, administration, "template1")


@pytest.fixture
def database_url(servers, administration, template_database) -> Iterator[str]:
    """A fresh migrated database of this test's own, in SQLAlchemy's form, for its superuser."""
    yield from _database(servers, administration, template_database)


def _database(servers: embedded.Addresses, administration: Engine, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with administration.connect() as connection:
        # A small template is copied faster as files than through the log.
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy"))
    yield make_url(servers.database_url).set(database=name).render_as_string(hide_password=False)
    with administration.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def engine(database_url) -> Iterator[Engine]:
    """With the login that workers and operators have."""
    made = make_engine(roles.address_of(database_url, roles.WORKER))
    yield made
    made.dispose()


@pytest.fixture
def broker_url(servers: embedded.Addresses) -> str:
    """The embedded Valkey, emptied."""
    with redis.Redis.from_url(servers.broker_url, socket_timeout=10) as client:
        client.flushall()
    return servers.broker_url


@pytest.fixture
def poisoned_broker() -> str:
    """The broker of a test that must not publish: whoever tries fails on the name."""
    return "redis://you-forgot-to-mock-celery-in-your-tests:1/0"


@pytest.fixture
def environment(database_url, broker_url) -> dict[str, str]:
    """Every setting, for child processes; all of them, so that none is taken from the developer's ``.env``."""
    return {
        "ALTIORA_DATABASE_URL": roles.address_of(database_url, roles.WORKER),
        "ALTIORA_TENANT_DATABASE_URL": roles.address_of(database_url, roles.TENANT),
        "ALTIORA_BROKER_URL": broker_url,
        "ALTIORA_STRIPE_API_KEY": "sk_test_altiora",
        "ALTIORA_STRIPE_WEBHOOK_SECRET": "whsec_test",
        "ALTIORA_STRIPE_API_BASE": "http://127.0.0.1:1",
        "ALTIORA_STRIPE_METER_EVENT_NAME": "call_minutes",
        "ALTIORA_STRIPE_SETTLING_SECONDS": "3600",
        "ALTIORA_TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
        "ALTIORA_TWILIO_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "ALTIORA_TWILIO_API_BASE": "http://127.0.0.1:1",
        "ALTIORA_PUBLIC_URL": "http://127.0.0.1:8000",
        "ALTIORA_BILL_CHILD_LEGS": "false",
        "ALTIORA_BEAT_PACE": "1",
        "ALTIORA_DATABASE_POOLER": "false",
        "ALTIORA_STRIPE_LIVEMODE": "false",
        **{
            f"ALTIORA_{login}_PASSWORD": f"{login}-of-a-test"
            for login in ("OWNER", "RECEIVER", "WORKER", "STAFF", "TENANT", "READER")
        },
        "ALTIORA_SECRET_KEYS": "k" * 40,
        "ALTIORA_DASHBOARD_URL": "http://127.0.0.1:8001",
        "ALTIORA_TRUSTED_PROXIES": "",
        "ALTIORA_SMTP_URL": "",
        "ALTIORA_MAIL_FROM": "Altiora <billing@example.com>",
        "ALTIORA_CLOCK": "real",
    }


@pytest.fixture
def processes(environment) -> Iterator[Supervisor]:
    """Starts real processes, which are all ended after the test, before its database goes."""
    with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture
def payloads() -> Path:
    """The folder of real webhook bodies."""
    if not _payloads:
        pytest.skip("ALTIORA_PAYLOADS is not set: it names a folder of real webhook bodies")
    return Path(_payloads)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Where stand-ins for Stripe are served, a fresh one for each test that asks: ``host.fresh(tmp_path)``."""
    with Host().in_thread() as host:
        yield host


@pytest.fixture
def altiora(monkeypatch, environment, tmp_path) -> Altiora:
    """The command, run in this process on the test's database, at noon of 20 November by the clock in ``tmp_path``."""
    clock.move(tmp_path / "clock", at("20 Nov 12:00"))
    use_environment(monkeypatch, environment | {"ALTIORA_CLOCK": str(tmp_path / "clock")})
    return Altiora()
