"""Runs one command and ends it, with everything that it started, when its owner goes away.

The supervisor beside it starts one guard per child: ``python guard.py USER STOP_SIGNAL GRACE COMMAND…``. The guard's
standard input is a socket whose other end only the owner holds. The guard writes the child's process id to it;
end of file on it means that the owner wants the child stopped, or has died, by whatever signal.

Why a process, and not only ``PR_SET_PDEATHSIG`` on the child: that signal reaches no grandchild (a worker's
prefork children, PostgreSQL's backends), also fires when merely the thread that forked ends, and leaves no
time for an orderly stop. The guard is a subreaper, so whatever its child started stays below it, even in a
session of its own or after its parent's death. The signal is kept for the one case left: a killed guard.
"""

import contextlib
import ctypes
import os
import pwd
import select
import signal
import socket
import sys
import time

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed; a Linux kernel of 3.4 or newer is needed")


def _become(command: list[str], user: str, guard: int) -> None:
    """In the child: drop to ``user`` ("" keeps the present one) and turn into ``command``."""
    os.setsid()
    if user:
        account = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    if os.getppid() != guard:  # it died before the line above
        return
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.execvp(command[0], command)  # noqa: S606  no shell is wanted


def _start(command: list[str], user: str) -> int | None:
    """Start the child and wait until it runs ``command``; None when it can't, which is said on standard error.

    A signal that came before would be lost: until then the child has our handlers.
    """
    guard = os.getpid()
    reader, writer = os.pipe()  # both ends are closed by a successful exec
    child = os.fork()
    if child == 0:
        try:
            _become(command, user, guard)
        except OSError as error:
            os.write(2, f"{command[0]} can't be started: {error}\n".encode())
        finally:
            os.write(writer, b"failed")
            os._exit(127)
    os.close(writer)
    failed = os.read(reader, 6)
    os.close(reader)
    return None if failed else child


def _reap(child: int) -> int | None:
    """Collect what has ended below us; the child's wait status if it was among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == child:
                status = ended[1]
    return status


def _kill_all(child: int) -> int | None:
    """Kill everything below us until nothing is left; the child's wait status if it ended here."""
    status = None
    while below := psutil.Process().children(recursive=True):
        for process in below:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)
        ended = _reap(child)
        status = ended if status is None else status
    return status


def _watch(child: int, lifeline: socket.socket, wakeup: int, stop_signal: int, grace: float) -> int:
    """Wait until the child has ended, and see to it that it does once the owner lets go; its wait status."""
    deadline: float | None = None
    watched = [lifeline.fileno(), wakeup]
    while True:
        status = _reap(child)
        if status is not None:
            _kill_all(child)
            return status
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return _kill_all(child) or 0
        readable = select.select(watched, [], [], left)[0]
        woken_by = os.read(wakeup, 512) if wakeup in readable else b""
        if deadline is None and (lifeline.fileno() in readable or signal.SIGTERM in woken_by):
            deadline = time.monotonic() + grace
            watched = [wakeup]
            # Unreaped, so the number is still the child's. A child that was stopped must run to end in order.
            os.kill(child, stop_signal)
            os.kill(child, signal.SIGCONT)


def main() -> int:
    """Guard one command. The exit status is its own, 128 and the signal that ended it, or 127: it can't be started."""
    user, stop_signal, grace, *command = sys.argv[1:]
    lifeline = socket.socket(fileno=0)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # only to be woken by it
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = _start(command, user)
    if child is None:
        return 127
    with contextlib.suppress(OSError):  # an owner that is gone already shows as end of file below
        lifeline.sendall(b"%d\n" % child)
    status = _watch(child, lifeline, reader, int(stop_signal), float(grace))
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
