"""``.altiora/env``: where a running demo or `altiora up` is, for the commands that are typed beside it.

The file holds the ``ALTIORA_…`` settings of that run as shell lines (``set -a; . .altiora/env``), readable by its
owner only since secrets are among them. The run holds a lock on the file, so that a file which a killed run
left behind counts for nothing, whatever process has its number today.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from dotenv import dotenv_values

from ops.processes.repository import REPOSITORY

#: Beside the source, so that every command of this clone finds it.
FILE = REPOSITORY / ".altiora" / "env"

_OWNER = "ALTIORA_OWNER_PID"


class RunningError(Exception):
    """Another run of this clone publishes its settings; the message says which process to end first."""


@contextlib.contextmanager
def published(settings: Mapping[str, str], file: Path = FILE) -> Iterator[Path]:
    """Write ``settings`` and this process's id to ``file`` for as long as the block lasts.

    Raises RunningError while another process does so.
    """
    file.parent.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _parse(file).get(_OWNER, "unknown")
            raise RunningError(f"process {owner} is running already in this clone; end it first") from None
        lines = {**settings, _OWNER: str(os.getpid())}
        content = "".join(f"{name}={_quoted(value)}\n" for name, value in lines.items()).encode()
        os.fchmod(handle, 0o600)
        os.ftruncate(handle, 0)
        os.pwrite(handle, content, 0)
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
    finally:
        os.close(handle)


def read(file: Path = FILE) -> dict[str, str]:
    """The settings of the run that is alive now; empty when there is none."""
    try:
        with file.open() as content:
            fcntl.flock(content, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return {name: value for name, value in _parse(file).items() if name != _OWNER}
    except FileNotFoundError:
        return {}
    return {}


def _quoted(value: str) -> str:
    """So that a shell and dotenv read the same; an apostrophe (of a folder's name) stands in double quotes."""
    if "'" in value:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"'{value}'"


def _parse(file: Path) -> dict[str, str]:
    """Empty when there is no file: its run has just ended."""
    return {name: value for name, value in dotenv_values(file, interpolate=False).items() if value is not None}
