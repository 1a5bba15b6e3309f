"""What docker-compose.yml backs up, done here: a base backup and the archived log restore any moment between."""

import os
import shutil
import subprocess
import time

import psycopg
import pytest
import yaml

from ops.processes import embedded
from ops.processes.repository import REPOSITORY
from tests.receiver.test_receiver_outages import eventually

USER = "nobody" if os.geteuid() == 0 else ""


def as_postgres(command, folder, binaries, **environment: str) -> str:
    done = subprocess.run(
        command,
        env={"PATH": f"{binaries}:{os.environ['PATH']}", **environment},
        cwd=folder,
        user=USER or None,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def archiving(processes):
    """A server with the settings of the compose file; its socket's folder, the backups' folder and its programs."""
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    settings = dict(option[2:].split("=", 1) for option in compose["services"]["postgres"]["command"][1:])
    embedded.start_postgres(processes)
    home, backups = processes.folder / "pg", processes.folder / "backups"
    for each in (backups, backups / "base", backups / "log"):
        each.mkdir()
        if USER:
            shutil.chown(each, USER)
    with psycopg.connect(f"host={home} user=postgres dbname=postgres", autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"alter system set {name} = '{value.replace('/backups', str(backups))}'")
    processes.stop("postgres")
    embedded.start_postgres(processes)
    return home, backups, embedded._postgres_binaries(processes.folder, USER)


def test_any_moment_since_the_oldest_backup_can_be_restored(archiving, processes):
    home, backups, binaries = archiving
    script = str(REPOSITORY / "back-up.sh")

    def back_up() -> str:
        told = as_postgres(["sh", script, str(backups), "2"], home, binaries, PGHOST=str(home), PGUSER="postgres")
        return told.strip().rpartition("/")[2]

    def add(connection, word: str) -> None:
        connection.execute("insert into words values (%s)", (word,))

    names = []
    with psycopg.connect(f"host={home} user=postgres dbname=altiora", autocommit=True) as connection:
        connection.execute("create table words (word text)")
        for number in range(3):
            add(connection, f"before backup {number}")
            names.append(back_up())
            time.sleep(1.1)
        assert sorted(path.name for path in (backups / "base").iterdir()) == names[1:], "two are kept"
        add(connection, "wanted")
        ((moment,),) = connection.execute("select clock_timestamp()::text").fetchall()
        time.sleep(0.1)
        add(connection, "a mistake")
        ((segment,),) = connection.execute("select pg_walfile_name(pg_current_wal_lsn())").fetchall()
        connection.execute("select pg_switch_wal()")
        eventually((backups / "log" / segment).exists, 30)
    processes.stop("postgres")
    data = home / "data"
    shutil.rmtree(data)  # the disk is gone
    data.mkdir(mode=0o700)
    if USER:
        shutil.chown(data, USER)
    base = backups / "base" / names[1]
    as_postgres(["tar", "-xzf", str(base / "base.tar.gz"), "-C", str(data)], home, binaries)
    (data / "recovery.signal").touch()
    with (data / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'cp {backups}/log/%f %p'\nrecovery_target_time = '{moment}'\n")
        file.write("recovery_target_action = 'promote'\n")
    embedded.start_postgres(processes)
    with psycopg.connect(f"host={home} user=postgres dbname=altiora", autocommit=True) as connection:
        eventually(lambda: connection.execute("select pg_is_in_recovery()").fetchone() == (False,), 30)
        words = [word for (word,) in connection.execute("select word from words")]
    assert words == ["before backup 0", "before backup 1", "before backup 2", "wanted"]


def test_a_backup_whose_label_is_not_archived_yet_cleans_nothing(tmp_path):
    """PostgreSQL archives a backup's label by itself, a moment after it."""
    programs, backups = tmp_path / "bin", tmp_path / "backups"
    programs.mkdir()
    (programs / "pg_basebackup").write_text('#!/bin/sh\nmkdir -p "${1#--pgdata=}"\n')
    (programs / "pg_archivecleanup").write_text("#!/bin/sh\nexit 9\n")
    for each in programs.iterdir():
        each.chmod(0o755)
    run = subprocess.run(
        ["sh", str(REPOSITORY / "back-up.sh"), str(backups), "2"],
        env={"PATH": f"{programs}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("backed up to base/")
