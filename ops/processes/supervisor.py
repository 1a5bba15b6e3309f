"""Owns a group of child processes, their folder and their logs; nothing of it outlives the owner.

Each child runs below a guard (``guard.py``), which ends it and all that it started when the owner stops it,
leaves, or is killed. The owner holds a lock on its folder for as long as it lives, so a folder whose lock is
free belongs to a dead owner: the next supervisor ends what still writes there and removes it.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Self

import psutil

from ops.processes import guard
from ops.processes.repository import REPOSITORY

_PREFIX = "altiora-"
#: A unix socket's path may have 107 bytes; what stands below our folder takes less than 30 of them.
_LONGEST_PARENT = 60


class SupervisorError(Exception):
    """A child did not start, did not become ready or did not end; the message holds the end of its log."""


@dataclass
class _Child:
    guard: subprocess.Popen[bytes]
    lifeline: socket.socket
    pid: int
    grace: float


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def listening(port: int) -> Callable[[], bool]:
    """A ``ready`` for ``Supervisor.start``: whether somebody accepts connections on 127.0.0.1:``port``."""

    def ready() -> bool:
        with socket.socket() as client:
            client.settimeout(1)
            return client.connect_ex(("127.0.0.1", port)) == 0

    return ready


class Supervisor:
    """Starts and stops named children. Use it as a context manager: leaving it ends them all, newest first.

    While it is entered, SIGTERM raises SystemExit and SIGINT KeyboardInterrupt in the main thread (unless the program
    has handlers of its own), so that the ``with`` blocks of the owner run. What Python dropped, since the signal came
    inside a destructor, ``start`` and ``alive`` raise again. The owner must not fork without exec while it is entered:
    the copy would keep the children and the lock alive.
    """

    folder: Path
    """Private to this owner: logs as ``NAME.log``, and whatever the children keep. Removed at the end."""

    def __init__(self) -> None:
        self._children: dict[str, _Child] = {}
        self._unwind = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_signals_unwind())
            parent = _parent_folder()
            _clean_up(parent)
            self.folder = stack.enter_context(_owned_folder(parent))
            stack.callback(self.stop_all)
            self._unwind = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._unwind.close()

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str],
        *,
        ready: Callable[[], bool] | None = None,
        timeout: float = 30.0,
        grace: float = 10.0,
        stop_signal: signal.Signals = signal.SIGTERM,
        user: str = "",
    ) -> int:
        """Start ``argv`` in the repository and wait until it runs and ``ready()`` is true; returns the process id.

        ``env`` comes on top of our own environment without any ``ALTIORA_`` variable. ``timeout`` and ``grace``
        are seconds: to become ready, and to end after ``stop_signal`` before it is killed. ``user`` is whom
        to run as, when we are root. A name whose child has ended may be started again; its log goes on.
        Raises SupervisorError.
        """
        _raise_what_was_dropped()
        if name in self._children:
            if self.alive(name):
                raise SupervisorError(f"{name} is running already; stop it before it is started again")
            self.stop(name)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("ALTIORA_")}
        lifeline, theirs = socket.socketpair()
        with theirs, self.log(name).open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  the commands are the program's own
                [sys.executable, "-I", guard.__file__, user, str(int(stop_signal)), str(grace), *map(str, argv)],
                stdin=theirs.fileno(),
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=inherited | dict(env),
                start_new_session=True,  # Ctrl-C is for the owner, who then stops the children in order
            )
        child = self._children[name] = _Child(process, lifeline, 0, grace)
        with lifeline.makefile("rb") as answer:
            child.pid = int(answer.readline() or 0)
        deadline = time.monotonic() + timeout
        while child.pid == 0 or (ready is not None and not ready()):
            if child.pid == 0 or not self.alive(name):
                raise SupervisorError(f"{name} ended with status {self.stop(name)}; {self._log_end(name)}")
            if time.monotonic() > deadline:
                self.stop(name)
                raise SupervisorError(f"{name} was not ready after {timeout:g} s; {self._log_end(name)}")
            time.sleep(0.03)
        return child.pid

    def stop(self, name: str) -> int:
        """End one child and all that it started; its exit status, or 128 and the signal's number."""
        child = self._children[name]
        child.lifeline.close()
        try:
            return child.guard.wait(child.grace + 20)
        except subprocess.TimeoutExpired:
            raise SupervisorError(
                f"{name} (process {child.pid}) can't be killed; see what it waits for in /proc/{child.pid}/stack"
            ) from None

    def stop_all(self) -> None:
        """End every child, the newest first: those that were started later use the earlier ones."""
        try:
            for name in reversed(list(self._children)):
                self.stop(name)
        finally:  # a second Ctrl-C, or one that can't be killed: at least all the others are told to end
            for child in self._children.values():
                child.lifeline.close()
            self._children.clear()

    def pid(self, name: str) -> int:
        """The process id of the child itself (not of its guard)."""
        return self._children[name].pid

    def alive(self, name: str | None = None) -> bool:
        """Whether this child is running; without a name, whether every child that was started is."""
        _raise_what_was_dropped()
        children = self._children.values() if name is None else [self._children[name]]
        return all(child.guard.poll() is None for child in children)

    def log(self, name: str) -> Path:
        """The file that holds what the child printed, on both streams."""
        return self.folder / f"{name}.log"

    def _log_end(self, name: str) -> str:
        lines = self.log(name).read_text(errors="replace").splitlines()[-15:]
        return "the end of its log:\n" + "\n".join(lines) if lines else "its log is empty"


#: What a signal has raised in the owner, until its blocks have run.
_raised: list[BaseException] = []


def _raise_what_was_dropped() -> None:
    if _raised:
        raise _raised[0]


@contextlib.contextmanager
def _signals_unwind() -> Iterator[None]:
    """Make SIGTERM and SIGINT unwind, where nobody handles them and signals can be handled (the main thread)."""
    usual: dict[signal.Signals, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    in_main = threading.current_thread() is threading.main_thread()
    ours = [number for number, handler in usual.items() if in_main and signal.getsignal(number) is handler]

    def leave(number: int, _frame: FrameType | None) -> None:
        _raised[:] = [KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)]
        raise _raised[0]

    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, usual[number])
        if ours:
            _raised.clear()


def _parent_folder() -> Path:
    """The folder for temporary files, unless its path is too long for sockets or closed to other users."""
    parent = Path(tempfile.gettempdir()).resolve()
    open_to_all = all(folder.stat().st_mode & 0o001 for folder in (parent, *parent.parents))
    return parent if open_to_all and len(os.fsencode(parent)) <= _LONGEST_PARENT else Path("/tmp")  # noqa: S108  mkdtemp follows


@contextlib.contextmanager
def _owned_folder(parent: Path) -> Iterator[Path]:
    """A new folder with our lock on it, removed at the end."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        if os.geteuid() == 0:
            folder.chmod(0o711)  # a server that must not be root has to reach its own folder inside
        lock = _lock(folder)
        if lock is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Take the lock of a folder; None when somebody has it, or has removed the folder before we got it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), folder.stat()):
            return handle
    except OSError:  # BlockingIOError: its owner lives; FileNotFoundError: it is gone
        pass
    os.close(handle)
    return None


def _clean_up(parent: Path) -> None:
    """Remove the folders of our own dead owners, after ending what still writes its output there."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if folder.lstat().st_uid != os.geteuid():
                continue
        lock = _lock(folder)
        if lock is not None:
            _end_writers(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _end_writers(folder: Path) -> None:
    """Kill the processes whose standard output or error is a log of this folder.

    Only children of the folder's dead owner, and theirs, have that: the folder is private and its name random.
    A process id from a file would prove nothing, and somebody who merely reads a log is left alone.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            outputs = [Path(file.path) for file in process.open_files() if file.fd in {1, 2}]
            if any(path.parent == folder and path.suffix == ".log" for path in outputs):
                process.kill()
                process.wait(5)
