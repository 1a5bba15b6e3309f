"""The two clocks.

The business clock says when calls end, periods close and invoices finalise. It is real by default; a
simulator moves it through the file that ``ALTIORA_CLOCK`` names. Rules never read it: a task, a command or
the receiver reads it once and hands ``now`` on.

The machine clock says how old a signature, a lease or a backlog is. It is always real.
"""

import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path


class ClockError(Exception):
    """The file that ALTIORA_CLOCK names can't be read as a time; it must hold one ISO 8601 instant with its offset."""


class Clock:
    """The business clock: ``now()`` in UTC, from the machine or from a file that a simulator moves."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def now(self) -> datetime:
        """The business time, in UTC. Raises ClockError when the clock's file is missing or broken."""
        if self._path is None:
            return datetime.now(UTC)
        try:
            instant = datetime.fromisoformat(self._path.read_text().strip())
        except (OSError, ValueError) as error:
            raise ClockError(f"ALTIORA_CLOCK names {self._path}, which holds no time: {error}") from error
        if instant.tzinfo is None:
            raise ClockError(f"ALTIORA_CLOCK names {self._path}, whose time has no offset; write it in UTC")
        return instant.astimezone(UTC)


def business_clock(values: Mapping[str, str] | None = None) -> Clock:
    """The clock by these settings, or by this process's: ``ALTIORA_CLOCK`` is empty, ``real``, or a file's path."""
    value = (os.environ if values is None else values).get("ALTIORA_CLOCK", "")
    return Clock() if value in {"", "real"} else Clock(Path(value))


def move(path: Path, instant: datetime) -> None:
    """Set the clock file to ``instant``, so that a reader sees the old time or the new one and never half."""
    if instant.tzinfo is None:
        raise ValueError("the business clock moves to an instant with an offset, not to a naive time")
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".clock-")
    with os.fdopen(handle, "w") as file:
        file.write(instant.astimezone(UTC).isoformat())
    Path(name).chmod(0o644)
    Path(name).replace(path)


def machine_now() -> datetime:
    """The machine's own time in UTC: signatures, leases, retries, health. Never a business rule."""
    return datetime.now(UTC)
