"""What will happen in the simulated world, in order, and the business clock that moves with it."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from pipeline.shared import clock

Action = Callable[[], Awaitable[None]]

#: While time passes, the clock's file is written at most once in so many seconds of the machine's time: a write costs
#: more than a happening. It is always right at a stop and when a move ends, and never ahead of what has happened.
FILE_PAUSE = 0.02


class Timeline:
    """Happenings by instant. With a clock file it owns the business time; without one it follows the machine's.

    ``stop=True`` marks an instant that the simulator must let the pipeline catch up at: the end of a period,
    the finalisation of an invoice.
    """

    def __init__(self, start: datetime | None = None, clock_file: Path | None = None) -> None:
        self._clock_file = clock_file
        self._now = start or datetime.now(UTC)
        self._written = time.monotonic()
        self._due: list[tuple[datetime, int, Action]] = []
        self._stops: list[datetime] = []
        self._order = itertools.count()
        self._lock = asyncio.Lock()
        if clock_file is not None:
            clock.move(clock_file, self._now)

    @property
    def now(self) -> datetime:
        """The business time, UTC."""
        return self._now if self._clock_file is not None else datetime.now(UTC)

    @property
    def owns_time(self) -> bool:
        """Whether business time moves only by ``advance`` (there is a clock file), not with the machine's."""
        return self._clock_file is not None

    def at(self, instant: datetime, action: Action, *, stop: bool = False) -> None:
        """Let ``action`` happen when the business clock reaches ``instant`` (at once if that is past)."""
        heapq.heappush(self._due, (instant, next(self._order), action))
        if stop:
            heapq.heappush(self._stops, instant)

    def next_stop(self) -> datetime | None:
        """The earliest instant still ahead that the pipeline must be given time for, or None."""
        while self._stops and self._stops[0] <= self.now:
            heapq.heappop(self._stops)
        return self._stops[0] if self._stops else None

    async def advance(self, to: datetime) -> int:
        """Move the clock to ``to`` through everything that is due on the way; returns how many things happened.

        Between two happenings others run: webhooks leave and API requests are answered while time passes.
        """
        async with self._lock:
            happened = 0
            while self._due and self._due[0][0] <= to:
                instant, _, action = heapq.heappop(self._due)
                self._move(instant)
                await action()
                await asyncio.sleep(0)
                happened += 1
            self._move(to, whole=True)
            return happened

    async def follow(self, interval: float = 0.2) -> None:
        """Without a clock file: let things happen as the machine's time passes, for ever. ``interval`` in seconds."""
        while True:
            await self.advance(datetime.now(UTC))
            await asyncio.sleep(interval)

    def _move(self, instant: datetime, *, whole: bool = False) -> None:
        stop = self.next_stop()
        self._now = max(self._now, instant)
        if self._clock_file is None:
            return
        if whole or (stop is not None and stop <= instant) or time.monotonic() - self._written >= FILE_PAUSE:
            clock.move(self._clock_file, self._now)
            self._written = time.monotonic()
