"""The drain: claim what is pending, apply it, mark it, in one transaction a batch, until nothing is left.

A batch that fails is tried again in halves, each its own claim, down to the one row that can't be applied. What
becomes of that, its fault decides (``db.faults``): an event's own failure is its end, a lock that somebody holds sets
aside what needs it, and where everything fails alike nothing ends: the drain halts, tries one a minute, and goes on by
itself.
"""

import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import structlog
from psycopg import errors as pg
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from db.faults import Fault, fault_of
from db.schema_version import SchemaError
from pipeline.businesses.consequences import Consequences
from pipeline.calls import call_reports, counting
from pipeline.events import heartbeats, queue, worker_deaths
from pipeline.events.outcomes import Applied, EventState, MoreBusinesses, Outcome
from pipeline.events.queue import StoredEvent
from pipeline.shared import halts
from pipeline.shared.business_locks import free_businesses, lock_businesses
from pipeline.shared.clock import Clock
from pipeline.shared.settings import METER_EVENT_NAME
from pipeline.stripe_mirror import event_types

log = structlog.get_logger()
_PIPELINE = Path(__file__).parent

#: A drain hands over to the next one after so many seconds, well below the task's soft limit.
MAX_SECONDS = 20.0
#: The events of a business that somebody holds, or of a table, are due again after so many seconds.
SET_ASIDE_SECONDS = 15
#: A batch that waits for a lock is halved so often in one drain, at lock_timeout each; then it is set aside whole.
MOST_WAITS = 4
#: On so many connections a drain tries, before it leaves the work to the next one.
CONNECTIONS = 3
#: So many in a row that fail alike by themselves do so too: a bad release, rather than bad events.
ALIKE_BY_THEMSELVES = 20
#: One that fails while others pass waits from a minute up to an hour, and is dead after a day.
STUCK_SECONDS, LONGEST_STUCK_SECONDS = 60, 3_600
STUCK_ATTEMPTS = 30

_Claim = Callable[[Connection], list[StoredEvent]]


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
        self._failures: Counter[tuple[Fault, str]] = Counter()
        """Of single events, alike, since something has passed."""
        self._waits = 0
        self._halted = False

    def run(self, max_seconds: float = MAX_SECONDS) -> DrainResult:
        """Apply batch after batch until nothing is due, or for ``max_seconds`` of machine time.

        Where the database can't be reached, or the queue itself is locked, what is due waits for the next run.
        """
        until = time.monotonic() + max_seconds
        for _ in range(CONNECTIONS):
            try:
                self._run(until)
                heartbeats.note_heard(self._engine, self._heard)
            except SchemaError as error:
                log.warning("drain-stopped", error=str(error))
                break
            except DBAPIError as error:
                fault = fault_of(error)
                if fault is Fault.EVENT:
                    raise
                log.warning("drain-stopped", fault=fault, error=halts.kind_of(error), where=_where(error))
                self._result.more = self._result.more or fault is not Fault.CONNECTION
                if fault is not Fault.CONNECTION:
                    break
            else:
                break
        return self._result

    def _run(self, until: float) -> None:
        with self._engine.begin() as connection:
            queue.revive_resent(connection)
            self._halted = halts.is_halted(connection, halts.DRAIN)
            if self._halted and not halts.may_try(connection, halts.DRAIN):
                return
        if self._halted:
            self._batch(lambda connection: queue.claim_due(connection, limit=1))
        while not self._halted and self._batch(queue.claim_due):
            if time.monotonic() > until:
                self._result.more = True
                break
        # Suspects come last, and yet in each run: there may always be something else that is due.
        while not self._halted and self._batch(queue.claim_suspects) and time.monotonic() < until:
            pass

    def _again(self, events: Sequence[StoredEvent], business_ids: frozenset[int] = frozenset()) -> None:
        ids = [event.id for event in events]
        self._batch(lambda connection: queue.claim_these(connection, ids), business_ids)

    def _batch(self, claim: _Claim, business_ids: frozenset[int] = frozenset()) -> bool:
        """Claim and apply one batch. Returns whether there was anything."""
        with self._engine.connect() as connection:
            queue.plan_by_index(connection)
            events = claim(connection)
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
                self._passed(applied)
                return True
        self._recover(events, business_ids, failure)
        return True

    def _passed(self, applied: Applied) -> None:
        self._result.add(applied)
        self._failures.clear()
        if self._halted:
            with self._engine.begin() as connection:
                halts.go_on(connection, halts.DRAIN)
            self._halted = False

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
            self._again(events, business_ids | failure.business_ids)
            return
        if isinstance(failure, _BusinessLocked):
            self._wait_for_businesses(events, failure)
            return
        fault = fault_of(failure)
        log.warning(
            "batch-failed",
            events=len(events),
            first_event=events[0].id,
            fault=fault,
            error=halts.kind_of(failure),
            where=_where(failure),
        )
        if fault is Fault.CONNECTION:
            raise failure
        if fault is Fault.WAIT:
            self._waits += 1
        if len(events) == 1 or (fault is Fault.WAIT and self._waits > MOST_WAITS):
            self._end(events, fault, failure)
            return
        middle = len(events) // 2
        for half in (events[:middle], events[middle:]):
            if not self._halted:
                self._again(half)

    def _wait_for_businesses(self, events: list[StoredEvent], failure: "_BusinessLocked") -> None:
        """Let the events of businesses that somebody holds wait, without costing an attempt; the others go on."""
        with self._engine.begin() as connection:
            held = failure.held_events(connection)
            waiting = [_set_aside(event_id, "business-locked") for event_id in sorted(held)]
            queue.mark(connection, waiting)
        self._result.add(Applied(waiting))
        log.warning("business-locked", set_aside=len(held))
        self._again([event for event in events if event.id not in held])

    def _end(self, events: list[StoredEvent], fault: Fault, failure: Exception) -> None:
        """What becomes of events that can't be applied now: one alone, or all that wait for the same lock."""
        if fault is Fault.WAIT:
            ends = [_set_aside(event.id, f"waits: {halts.kind_of(failure)}") for event in events]
            with self._engine.begin() as connection:
                queue.mark(connection, ends)
            self._result.add(Applied(ends))
            return
        (event,) = events
        self._failures[fault, halts.kind_of(failure)] += 1
        alike = self._failures[fault, halts.kind_of(failure)]
        # While the drain tries whether it may go on, no event is at fault.
        if fault is Fault.EVENT and not self._halted and alike <= ALIKE_BY_THEMSELVES:
            end = Outcome(event.id, EventState.DEAD, f"failed: {halts.kind_of(failure)}")
        else:
            end = _stuck(event, failure, may_die=not self._halted)
        with self._engine.begin() as connection:
            queue.count_attempt(connection, event.id)
            queue.mark(connection, [end])
            if alike > ALIKE_BY_THEMSELVES or (fault is Fault.ENVIRONMENT and alike >= halts.ALIKE):
                halts.halt(connection, halts.DRAIN, f"{halts.kind_of(failure)} at {_where(failure)}")
                self._halted = True
        self._result.add(Applied([end]))


def _set_aside(event_id: int, reason: str) -> Outcome:
    return Outcome(event_id, EventState.PENDING, reason, SET_ASIDE_SECONDS)


def _stuck(event: StoredEvent, failure: Exception, *, may_die: bool) -> Outcome:
    """Later, and later each time; dead when it has failed for a day."""
    reason = f"stuck: {halts.kind_of(failure)}"
    if may_die and event.attempts + 1 >= STUCK_ATTEMPTS:
        return Outcome(event.id, EventState.DEAD, reason)
    wait = min(LONGEST_STUCK_SECONDS, STUCK_SECONDS * 2 ** min(event.attempts, 10))
    return Outcome(event.id, EventState.PENDING, reason, wait)


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


def _where(failure: Exception) -> str:
    """The line of ours that an error passed through last."""
    frames = [
        frame for frame in traceback.extract_tb(failure.__traceback__) if Path(frame.filename).is_relative_to(_PIPELINE)
    ]
    return f"{Path(frames[-1].filename).relative_to(_PIPELINE)}:{frames[-1].lineno}" if frames else "unknown"
