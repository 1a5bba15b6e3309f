"""Beat's scheduler: Celery's own, which a wrong clock can't silence, and which tells what it has sent (85).

Celery remembers when it sent what by the machine's wall clock, in a file. If that clock was ahead by hours and is put
right, everything seems to have been sent just now, and nothing is sent for hours.
"""

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from celery.beat import PersistentScheduler, ScheduleEntry
from celery.result import AsyncResult

log = structlog.get_logger(__name__)

#: A clock is corrected by some seconds now and then; more is a jump.
AHEAD_SECONDS = 5.0

#: No entry waits longer.
LONGEST_INTERVAL = timedelta(days=1)

#: Where beat says when it sent its last message, beside its schedule: seconds since the machine's start, which no
#: correction of its clock changes.
SENT_FILE = "beat-sent"


class Scheduler(PersistentScheduler):
    """Looks before each tick for runs that lie in the future, and forgets them: they are due at once."""

    def setup_schedule(self) -> None:
        super().setup_schedule()
        self._forget_the_future()

    def tick(self, *args: Any, **kwargs: Any) -> float:
        self._forget_the_future()
        return float(super().tick(*args, **kwargs))

    def apply_async(self, entry: ScheduleEntry, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        sent: AsyncResult[Any] = super().apply_async(entry, *args, **kwargs)
        note_sent(Path(self.schedule_filename).parent)  # type: ignore[attr-defined]  # set by its __init__
        return sent

    def _forget_the_future(self) -> None:
        ahead = [entry for entry in self.schedule.values() if _seconds_ahead(entry) > AHEAD_SECONDS]
        if not ahead:
            return
        log.warning(
            "clock-was-ahead", entries=len(ahead), seconds=round(max(map(_seconds_ahead, ahead))), next="sent at once"
        )
        for entry in ahead:
            entry.last_run_at = entry.default_now() - LONGEST_INTERVAL
        self._heap = None  # it is ordered by those instants


def _seconds_ahead(entry: ScheduleEntry) -> float:
    return float((entry.last_run_at - entry.default_now()).total_seconds()) if entry.last_run_at else 0.0


def note_sent(folder: Path) -> None:
    """Say that a message was sent just now."""
    (folder / SENT_FILE).write_text(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.1f}\n")
