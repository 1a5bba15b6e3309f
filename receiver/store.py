"""Storing events in groups: those that arrive together are committed together, each is told after the commit.

One commit for many events is what makes the receiver fast. It changes nothing for the sender: ``put`` returns when
the event is committed, or says that it was not.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import orjson
import psycopg
import structlog
from psycopg.rows import TupleRow

from db.faults import Fault, fault_of
from pipeline.events.outcomes import EventState
from receiver.pool import Pool

_STORE = Path(__file__).with_name("store.sql").read_bytes()
_RESENT = Path(__file__).with_name("resent.sql").read_bytes()

#: One group commits while the next is collected.
COMMITTERS = 2
#: Events in a group: beyond it a commit takes long and no longer gets cheaper by the event.
GROUP = 256
#: Events that wait while the database doesn't answer; then the sender is told at once to try again.
WAITING = 4096
#: Seconds after which a sender is told that its event was not stored. Twilio waits for 15 in all.
PATIENCE = 5.0
#: Seconds for one group; psycopg takes up to ten more to give up a connection whose server hangs.
GROUP_TIMEOUT = 4.0

_log = structlog.get_logger(__name__)


class NotStoredError(Exception):
    """The event could not be stored, or nobody knows whether it was: the sender should send it again."""


class Event(NamedTuple):
    """A row of webhook_events as it arrives. ``state`` is pending, or dead with a reason."""

    provider: str
    key: str
    type: str | None
    state: EventState
    reason: str | None
    received_at: datetime
    content_type: str
    body: bytes  # the last, see _DESCRIBED


_DESCRIBED = [field for field in Event._fields if field != "body"]


class Store:
    """Stores events in the database at ``libpq_url``; calls ``stored`` after each commit that a worker should see.

    Belongs to one event loop: ``open`` it there, and ``close`` it before the loop ends. Opening needs no database:
    while there is none, ``put`` says so.
    """

    def __init__(self, libpq_url: str, stored: Callable[[], None], *, pooler: bool = False) -> None:
        self._stored = stored
        self._queue: asyncio.Queue[tuple[Event, asyncio.Future[None]]] = asyncio.Queue(WAITING)
        #: In the order of their deadlines; one look at them all is cheaper than a timer for each.
        self._deadlines: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._open = False
        #: Whether the last thing known is that events can be stored.
        self.able = False
        self._pool = Pool(libpq_url, COMMITTERS, pooler=pooler)

    async def open(self) -> None:
        await self._pool.open()
        work = [self._commit_groups() for _ in range(COMMITTERS)]
        self._tasks = [asyncio.create_task(part) for part in (*work, self._refuse_the_late())]
        self._open = True

    async def close(self) -> None:
        """Store what waits, then disconnect. New events are refused from here on."""
        self._open = False
        try:
            async with asyncio.timeout(PATIENCE):
                await self._queue.join()
        except TimeoutError:
            _log.error("closed-with-events-waiting", events=self._queue.qsize())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, stored in self._deadlines:
            _refuse(stored, "closing")
        await self._pool.close()

    async def put(self, event: Event) -> None:
        """Return when the event is committed, or was before. Raises NotStoredError.

        Whoever stops waiting stops nothing: the event is stored all the same.
        """
        if not self._open or self._queue.full():
            raise NotStoredError("closing" if not self._open else f"{WAITING} events wait for the database")
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[None] = loop.create_future()
        self._queue.put_nowait((event, stored))
        self._deadlines.append((loop.time() + PATIENCE, stored))
        await stored

    async def _refuse_the_late(self) -> None:
        """Tell those whose time is over that it is; their events may still be stored, which harms nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.25)
            while self._deadlines and (self._deadlines[0][1].done() or self._deadlines[0][0] <= loop.time()):
                _refuse(self._deadlines.popleft()[1], f"the database has not answered for {PATIENCE:.0f} s")

    async def _commit_groups(self) -> None:
        while True:
            group = [await self._queue.get()]
            while len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            try:
                await self._store(group)
            finally:
                for _ in group:
                    self._queue.task_done()

    async def _store(self, group: Sequence[tuple[Event, asyncio.Future[None]]]) -> None:
        """Commit a group; when the database takes exception to one of its events, each of them alone."""
        try:
            news = await self._insert([event for event, _ in group])
        except Exception as error:  # noqa: BLE001 - whatever one event made psycopg or PostgreSQL raise
            if fault_of(error) is not Fault.EVENT:
                self.able = False
                _log.error("not-stored", events=len(group), error=type(error).__name__)
                for _, stored in group:
                    _refuse(stored, "the database can't store it now")
                return
            if len(group) > 1:
                for alone in group:
                    await self._store([alone])
                return
            event, stored = group[0]
            # Without PostgreSQL's own words, which quote the row.
            _log.error("refused-by-the-database", provider=event.provider, key=event.key, error=type(error).__name__)
            _refuse(stored, f"the database refuses it: {type(error).__name__}")
        else:
            self.able = True
            for _, stored in group:
                if not stored.done():
                    stored.set_result(None)
            if news:
                self._stored()

    async def _insert(self, events: Sequence[Event]) -> int:
        """Insert them in one transaction; returns how many were new, or are dead and wished back."""
        described = [dict(zip(_DESCRIBED, event, strict=False)) for event in events]
        params = {"events": orjson.dumps(described).decode(), "bodies": [event.body for event in events]}

        async def insert(connection: psycopg.AsyncConnection[TupleRow]) -> int:
            new = (await connection.execute(_STORE, params)).rowcount
            if new == len(events):
                return new
            return new + (await connection.execute(_RESENT, {"events": params["events"]})).rowcount

        async with asyncio.timeout(GROUP_TIMEOUT):
            return await self._pool.use(insert)


def _refuse(stored: asyncio.Future[None], why: str) -> None:
    if not stored.done():
        stored.set_exception(NotStoredError(why))
