"""Children of a supervisor: they start, they end, and nothing outlives the owner, however it dies."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from ops.processes import environment as published_environment
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import Supervisor, SupervisorError, free_port, listening

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]

#: Starts a grandchild in a session of its own, prints its process id, and goes on.
PARENT_CODE = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
PARENT = [sys.executable, "-c", PARENT_CODE]

#: An owner of one PARENT: prints its folder, the pids of guard, child and grandchild, and waits to be ended.
OWNER = f"""
import psutil, time
from ops.processes.supervisor import Supervisor
with Supervisor() as supervisor:
    log = supervisor.log("parent")
    child = supervisor.start("parent", {PARENT!r}, {{}}, ready=lambda: log.read_text().endswith("\\n"))
    print(supervisor.folder, psutil.Process(child).ppid(), child, log.read_text().strip(), flush=True)
    time.sleep(600)
"""


#: An owner that is told to stop while a destructor runs, where Python drops what a signal handler raises.
DISTRACTED_OWNER = """
import signal, sys
from ops.processes.supervisor import Supervisor
sys.unraisablehook = lambda dropped: print("dropped", dropped.exc_type.__name__, flush=True)
class Distraction:
    def __del__(self):
        signal.raise_signal(signal.{signal})
with Supervisor() as supervisor:
    Distraction()
    print("goes on", flush=True)
    supervisor.{then}
    print("goes on", flush=True)
"""


@pytest.fixture
def scratch(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder for temporary files that only this test's supervisors use and clean up.

    Not pytest's own, which is closed to other users; but that must be made before the place is changed.
    """
    folder = Path(tempfile.mkdtemp(prefix="scratch-", dir="/tmp"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def supervisor(scratch) -> Iterator[Supervisor]:
    with Supervisor() as made:
        yield made


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(*pids: int) -> bool:
    """Whether none of these processes runs; one that has ended and was not yet collected doesn't."""

    def ended(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(ended(pid) for pid in pids)


def has_printed(log: Path) -> bool:
    return log.read_text().endswith("\n")


def start_parent(supervisor: Supervisor) -> tuple[int, int]:
    """A child and its grandchild."""
    log = supervisor.log("parent")
    return supervisor.start("parent", PARENT, {}, ready=partial(has_printed, log)), int(log.read_text())


@pytest.fixture
def owner(scratch) -> Iterator[tuple[subprocess.Popen[str], Path, int, int, int]]:
    """A supervisor in a process of its own, with its folder, guard, child and grandchild."""
    with subprocess.Popen([sys.executable, "-c", OWNER], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            folder, guard, child, grandchild = process.stdout.readline().split()
            yield process, Path(folder), int(guard), int(child), int(grandchild)
        finally:
            process.kill()


def test_a_child_starts_in_the_repository_with_its_own_settings_only(supervisor, monkeypatch):
    monkeypatch.setenv("ALTIORA_STRIPE_API_KEY", "of the developer")
    show = "import os; print(os.getcwd(), sorted(v for k, v in os.environ.items() if k.startswith('ALTIORA')))"
    supervisor.start("show", [sys.executable, "-c", show], {"ALTIORA_PUBLIC_URL": "http://x"})
    assert eventually(lambda: not supervisor.alive("show"))
    assert supervisor.stop("show") == 0
    assert supervisor.log("show").read_text() == f"{REPOSITORY} ['http://x']\n"


def test_ready_is_waited_for(supervisor):
    port = free_port()
    serve = f"import time, socket; time.sleep(0.3); s = socket.create_server(('127.0.0.1', {port})); time.sleep(600)"
    supervisor.start("server", [sys.executable, "-c", serve], {}, ready=listening(port))
    assert listening(port)()
    supervisor.stop("server")
    assert not listening(port)()


def test_children_end_in_reverse_order(scratch):
    ended = scratch / "ended"
    say = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        f"    open({str(ended)!r}, 'a').write(sys.argv[1]); sys.exit()\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(600)"
    )
    with Supervisor() as supervisor:
        for name in "abc":
            supervisor.start(
                name, [sys.executable, "-c", say, name], {}, ready=partial(has_printed, supervisor.log(name))
            )
        assert supervisor.alive()
    assert ended.read_text() == "cba"
    assert not supervisor.folder.exists()


def test_a_child_that_ends_before_it_is_ready_is_an_error_with_its_log(supervisor):
    with pytest.raises(SupervisorError, match=r"(?s)bad ended with status 3; the end of its log:\nno such thing"):
        supervisor.start(
            "bad",
            [sys.executable, "-c", "import sys; print('no such thing'); sys.exit(3)"],
            {},
            ready=lambda: False,
        )


def test_a_command_that_does_not_exist_is_an_error_that_names_it(supervisor):
    with pytest.raises(SupervisorError, match="no-such-command can't be started"):
        supervisor.start("bad", ["no-such-command"], {})


def test_a_child_that_is_not_ready_in_time_is_ended(supervisor):
    with pytest.raises(SupervisorError, match=r"slow was not ready after 0\.2 s; its log is empty"):
        supervisor.start("slow", SLEEP, {}, ready=lambda: False, timeout=0.2)
    assert gone(supervisor.pid("slow"))


def test_a_child_that_ignores_the_signal_is_killed(supervisor):
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    argv = [sys.executable, "-c", ignore]
    pid = supervisor.start("deaf", argv, {}, ready=partial(has_printed, supervisor.log("deaf")), grace=0.3)
    assert supervisor.stop("deaf") == 128 + signal.SIGKILL
    assert gone(pid)


def test_a_child_that_was_stopped_ends_in_order(supervisor):
    os.kill(supervisor.start("frozen", SLEEP, {}), signal.SIGSTOP)
    assert supervisor.stop("frozen") == 128 + signal.SIGTERM


def test_a_grandchild_in_its_own_session_ends_with_the_child(supervisor):
    child, grandchild = start_parent(supervisor)
    assert not gone(child)
    assert not gone(grandchild)
    supervisor.stop("parent")
    assert gone(child, grandchild)


def test_a_grandchild_ends_when_the_child_is_killed(supervisor):
    child, grandchild = start_parent(supervisor)
    os.kill(child, signal.SIGKILL)
    assert eventually(lambda: gone(child, grandchild) and not supervisor.alive("parent"))


def test_a_name_can_be_started_again_only_after_its_child_ended(supervisor):
    first = supervisor.start("sleeper", SLEEP, {})
    with pytest.raises(SupervisorError, match="running already"):
        supervisor.start("sleeper", SLEEP, {})
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: not supervisor.alive())
    assert supervisor.start("sleeper", SLEEP, {}) != first
    assert supervisor.alive()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_an_owner_that_is_ended(owner, number):
    process, folder, guard, child, grandchild = owner
    assert not gone(guard)
    process.send_signal(number)
    assert eventually(lambda: gone(process.pid, guard, child, grandchild))
    assert folder.exists() == (number == signal.SIGKILL)  # the others unwind


def test_a_child_does_not_outlive_its_guard(supervisor):
    child = supervisor.start("sleeper", SLEEP, {})
    psutil.Process(child).parent().kill()  # type: ignore[union-attr]  # it has one: its guard
    assert eventually(lambda: gone(child))


def test_leftovers_of_a_dead_owner_are_ended_and_removed(owner, scratch):
    process, folder, guard, child, grandchild = owner
    os.kill(guard, signal.SIGSTOP)  # so that the grandchild really is left
    process.kill()
    process.wait()
    os.kill(guard, signal.SIGKILL)
    assert eventually(lambda: gone(guard, child))
    assert not gone(grandchild)
    with subprocess.Popen(["tail", "-f", folder / "parent.log"], stdout=subprocess.DEVNULL) as reader:
        try:
            with Supervisor() as later:
                assert list(scratch.iterdir()) == [later.folder]
                assert gone(grandchild)
                assert reader.poll() is None, "who merely reads a log is not ours to end"
        finally:
            reader.kill()


def test_the_folder_of_a_living_owner_is_left_alone(owner, scratch):
    _, folder, guard, child, grandchild = owner
    with Supervisor() as other:
        assert set(scratch.iterdir()) == {folder, other.folder}
    assert folder.exists()
    assert not any(gone(pid) for pid in (guard, child, grandchild))


def test_a_link_with_our_prefix_is_not_followed(scratch, tmp_path):
    (tmp_path / "precious").touch()
    (scratch / "altiora-link").symlink_to(tmp_path)
    with Supervisor():
        assert (tmp_path / "precious").exists()


def test_a_temporary_folder_closed_to_other_users_is_not_used(tmp_path, monkeypatch):
    tmp_path.chmod(0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Supervisor() as supervisor:
        assert supervisor.folder.parent == Path("/tmp")
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_settings_of_a_living_run_are_read_and_removed_at_its_end(tmp_path):
    file = tmp_path / "new" / "env"
    settings = {
        "ALTIORA_DATABASE_URL": "postgresql://postgres@/altiora?host=/tmp/x y&port=5432",
        "ALTIORA_CLOCK": '/tmp/the baker\'s "own"/clock',
        "ALTIORA_TWILIO_AUTH_TOKEN": "a$b`c#d\\e",
    }
    assert published_environment.read(file) == {}
    with published_environment.published(settings, file):
        assert published_environment.read(file) == settings
        assert file.stat().st_mode & 0o777 == 0o600
        shell = [
            "sh",
            "-c",
            f'. {file}; printf %s "$ALTIORA_DATABASE_URL $ALTIORA_CLOCK $ALTIORA_TWILIO_AUTH_TOKEN $ALTIORA_OWNER_PID"',
        ]
        printed = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
        assert printed == " ".join([*settings.values(), str(os.getpid())])
        with (
            pytest.raises(published_environment.RunningError, match=f"process {os.getpid()} is running"),
            published_environment.published({}, file),
        ):
            pass
        assert published_environment.read(file) == settings
    assert not file.exists()


def test_settings_of_a_killed_run_count_for_nothing(tmp_path):
    file = tmp_path / "env"
    run = (
        "import os, signal, sys, pathlib\n"
        "from ops.processes.environment import published\n"
        "with published({'ALTIORA_PUBLIC_URL': 'http://old'}, pathlib.Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", run, file], cwd=REPOSITORY, check=False)
    assert "http://old" in file.read_text()
    assert published_environment.read(file) == {}
    with published_environment.published({"ALTIORA_PUBLIC_URL": "http://new"}, file):
        assert published_environment.read(file) == {"ALTIORA_PUBLIC_URL": "http://new"}


@pytest.mark.parametrize("then", ["alive()", "start('child', ['true'], {})"])
@pytest.mark.parametrize(
    ("number", "raised", "status"), [("SIGINT", "KeyboardInterrupt", -2), ("SIGTERM", "SystemExit", 143)]
)
def test_a_signal_that_a_destructor_dropped_is_obeyed_at_the_next_step(scratch, number, raised, status, then):
    code = DISTRACTED_OWNER.format(signal=number, then=then)
    owner = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert owner.stdout.splitlines() == [f"dropped {raised}", "goes on"]
    assert owner.returncode == status
    assert list(scratch.iterdir()) == []
