"""The drain: claim what is pending, apply it, mark it, in one transaction a batch, until nothing is left.

A batch that fails is tried again in halves, each its own claim, down to the one row that can't be applied. A lock
that somebody holds too long sets only that business's events aside.
"""

import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog
from psycopg import errors as pg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from pipeline.businesses.consequences import Consequences
from pipeline.calls import call_reports, counting
from pipeline.events import heartbeats, queue, worker_deaths
from pipeline.events.outcomes import Applied, EventState, MoreBusinesses, Outcome
from pipeline.events.queue import StoredEvent
from pipeline.shared.business_locks import free_businesses, lock_businesses
from pipeline.shared.clock import Clock
from pipeline.shared.settings import METER_EVENT_NAME
from pipeline.stripe_mirror import event_types

log = structlog.get_logger()
_PIPELINE = Path(__file__).parent

#: A drain hands over to the next one after so many seconds, well below the task's soft limit.
MAX_SECONDS = 20.0
#: Attempts at a single row that fails for reasons that may pass (deadlock, lost connection), then it is dead.
MAX_ATTEMPTS = 10
#: The events of a business that somebody holds are due again after so many seconds.
SET_ASIDE_SECONDS = 15


@dataclass(frozen=True, slots=True)
class DrainSettings:
    """What the rules need to know of this installation."""

    twilio_account_sid: str
    livemode: bool
    bill_child_legs: bool = False
    meter_event_name: str = METER_EVENT_NAME


@dataclass(slots=True)
class DrainResult:
    """What a drain did: counts by state, the tasks that now have something to do, and whether more is waiting."""

    counts: dict[str, int] = field(default_factory=dict)
    follow_ups: set[str] = field(default_factory=set)
    more: bool = False

    def add(self, applied: Applied) -> None:
        for outcome in applied.outcomes:
            self.counts[outcome.state] = self.counts.get(outcome.state, 0) + 1
        self.follow_ups |= applied.follow_ups


class Drain:
    """One run of the drain over ``engine``; ``clock`` gives the business time of each batch."""

    def __init__(self, engine: Engine, settings: DrainSettings, clock: Clock) -> None:
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._result = DrainResult()
        self._heard: dict[str, datetime] = {}

    def run(self, max_seconds: float = MAX_SECONDS) -> DrainResult:
        """Apply batch after batch until nothing is due, or for ``max_seconds`` of machine time."""
        started = time.monotonic()
        while self._batch(None):
            if time.monotonic() - started > max_seconds:
                self._result.more = True
                break
        heartbeats.note_heard(self._engine, self._heard)
        return self._result

    def _batch(self, event_ids: Sequence[int] | None, business_ids: frozenset[int] = frozenset()) -> bool:
        """Claim and apply one batch: what is due, or these events. Returns whether there was anything."""
        with self._engine.connect() as connection:
            queue.plan_by_index(connection)
            events = queue.claim_due(connection) if event_ids is None else queue.claim_these(connection, event_ids)
            if not events:
                return False
            self._heard |= heartbeats.heard(events)
            ids = [event.id for event in events]
            trace_id = worker_deaths.leave_trace(self._engine, ids)
            try:
                applied = self._apply(connection, events, business_ids, self._clock.now())
                worker_deaths.remove_trace(connection, trace_id)
                connection.commit()
            except BaseException as error:
                # While our locks still stand: a trace without them would speak of a dead worker.
                with self._engine.begin() as other:
                    worker_deaths.remove_trace(other, trace_id)
                connection.rollback()
                if not isinstance(error, Exception):
                    raise
                failure = error
            else:
                self._result.add(applied)
                return True
        self._recover(events, business_ids, failure)
        return True

    def _apply(self, connection: Connection, events: list[StoredEvent], more: frozenset[int], now: datetime) -> Applied:
        applied, consequences = Applied(), Consequences()
        calls, changes = [], []
        for event in events:
            if event.provider == "twilio":
                report = call_reports.decode_report(
                    event.id,
                    event.key,
                    event.content_type,
                    event.body,
                    event.received_at,
                    self._settings.twilio_account_sid,
                )
                applied.outcomes.append(report) if isinstance(report, Outcome) else calls.append(report)
            else:
                change = event_types.decode_event(event.id, event.key, event.type, event.body)
                applied.outcomes.append(change) if isinstance(change, Outcome) else changes.append(change)
        batch = counting.Batch(connection, calls, consequences)
        applied.outcomes += batch.outcomes
        # The largest write of a batch of calls, done before its businesses are locked: two workers that count for the
        # same businesses wait for each other from here on.
        queue.mark(connection, applied.outcomes)
        locked = batch.businesses | event_types.businesses_of_events(connection, changes) | more
        try:
            lock_businesses(connection, locked)
        except OperationalError as error:
            if isinstance(error.orig, pg.LockNotAvailable):
                raise _BusinessLocked(batch, changes, locked) from error
            raise
        batch.apply(locked, now, bill_child_legs=self._settings.bill_child_legs)
        of_stripe = event_types.apply_events(
            connection,
            changes,
            locked,
            consequences,
            now,
            livemode=self._settings.livemode,
            event_name=self._settings.meter_event_name,
        )
        queue.mark(connection, of_stripe)
        consequences.settle(connection, now)
        applied.outcomes += of_stripe
        applied.follow_ups = consequences.follow_ups
        return applied

    def _recover(self, events: list[StoredEvent], business_ids: frozenset[int], failure: Exception) -> None:
        if isinstance(failure, MoreBusinesses):
            self._batch([event.id for event in events], business_ids | failure.business_ids)
        elif isinstance(failure, _BusinessLocked):
            self._set_aside(events, failure)
        elif isinstance(failure, DBAPIError) and failure.connection_invalidated:
            raise failure
        else:
            self._fail_or_halve(events, failure)

    def _set_aside(self, events: list[StoredEvent], failure: "_BusinessLocked") -> None:
        """Let the events of businesses that somebody holds wait, without costing an attempt; the others go on."""
        with self._engine.begin() as connection:
            held = failure.held_events(connection)
            waiting = [
                Outcome(event_id, EventState.PENDING, "business-locked", SET_ASIDE_SECONDS) for event_id in sorted(held)
            ]
            queue.mark(connection, waiting)
        self._result.add(Applied(waiting))
        log.warning("business-locked", set_aside=len(held))
        self._batch([event.id for event in events if event.id not in held])

    def _fail_or_halve(self, events: list[StoredEvent], failure: Exception) -> None:
        """Try a failed batch in halves; a single row that fails is dead, or waits where its fault may pass."""
        log.warning(
            "batch-failed", events=len(events), first_event=events[0].id, error=_name(failure), where=_where(failure)
        )
        if len(events) > 1:
            middle = len(events) // 2
            for half in (events[:middle], events[middle:]):
                self._batch([event.id for event in half])
            return
        (event,) = events
        reason = f"failed: {_name(failure)}"
        if isinstance(failure, OperationalError) and event.attempts + 1 < MAX_ATTEMPTS:
            end = Outcome(event.id, EventState.PENDING, reason, min(2**event.attempts, 300))
        else:
            end = Outcome(event.id, EventState.DEAD, reason)
        with self._engine.begin() as connection:
            queue.count_attempt(connection, event.id)
            queue.mark(connection, [end])
        self._result.add(Applied([end]))


class _BusinessLocked(Exception):  # noqa: N818 - a condition to act on
    """Somebody holds the lock of a business of this batch for longer than lock_timeout."""

    def __init__(self, batch: counting.Batch, changes: list[event_types.StripeEvent], wanted: set[int]) -> None:
        super().__init__("a business is locked")
        self._batch = batch
        self._changes = changes
        self._wanted = wanted

    def held_events(self, connection: Connection) -> set[int]:
        """The events of those businesses that are still held, as seen in a new transaction."""
        held = self._wanted - free_businesses(connection, self._wanted)
        return self._batch.events_of(held) | {
            change.id for change in self._changes if event_types.businesses_of_events(connection, [change]) & held
        }


def _name(failure: Exception) -> str:
    """The kind of an error, without the values that its text may show."""
    origin = failure.orig if isinstance(failure, DBAPIError) else failure
    return type(origin).__name__


def _where(failure: Exception) -> str:
    """The line of ours that an error passed through last."""
    frames = [
        frame for frame in traceback.extract_tb(failure.__traceback__) if Path(frame.filename).is_relative_to(_PIPELINE)
    ]
    return f"{Path(frames[-1].filename).relative_to(_PIPELINE)}:{frames[-1].lineno}" if frames else "unknown"
