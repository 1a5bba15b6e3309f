"""Rebuilding calls from their stored webhook events alone, and what differs from what is stored of them.

Decoded by `reports`, folded by rank, given to businesses by `resolving`, rounded by the record's plan. Nothing here
changes anything.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.calls import call_owner, call_reports
from pipeline.calls.billable_leg import is_billable_leg
from pipeline.calls.call_reports import CallReport
from pipeline.events import queue
from pipeline.events.outcomes import EventState
from pipeline.providers.twilio_words import CallStatus
from pipeline.usage import records
from pipeline.usage.records import Record
from pipeline.usage.rounding import billable_minutes

# A call's events are a range of the unique index, since their keys begin with its SID. Offset 0 has it read call by
# call: as a plain join, all events were read for each call.
_EVENTS = """
select e.id, e.key, e.state, e.content_type, e.body, e.received_at, s.sid
from unnest(%(sids)b::text[]) s(sid)
cross join lateral (
  select * from webhook_events e
  where e.provider = 'twilio' and e.key >= (s.sid || ':') collate "C" and e.key < (s.sid || ';') collate "C"
  offset 0
) e
order by e.id
"""

_STORED = """
select c.sid, c.business_id, c.usage_record_id, c.status, c.seconds, c.minutes, c.counted, c.counted_seconds,
       c.counted_minutes, c.ended_at, c.event_id, r.business_id as record_business_id, r.period_start, r.period_end,
       coalesce(r.state = 'closed', false) as frozen, a.here as carried, a.elsewhere as carried_elsewhere
from calls c
left join usage_records r on r.id = c.usage_record_id
cross join lateral (
  select coalesce(sum(minutes) filter (where origin_record_id = c.usage_record_id), 0)::int as here,
         coalesce(sum(minutes) filter (where origin_record_id is distinct from c.usage_record_id), 0)::int as elsewhere
  from usage_adjustments where call_sid = c.sid
) a
where c.sid = any(%(sids)b::text[])
"""

_INCREMENTS = "select id, increment_seconds from usage_records where id = any(%b::bigint[])"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the rules need to know of this installation."""

    twilio_account_sid: str
    bill_child_legs: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """Where what is stored is not what the events come to. Kinds:

    lost          events tell of a call that is to be counted, and no call is stored
    unheard       a call is stored as of a record, and no event tells of it
    not-counted   the call is stored, and not counted
    counted       it is counted, and is not to be
    wrong-record  it is counted in another record than that of its business and its end
    seconds, minutes  they are others
    adjustments   what was carried of the call is not what became known of it after the close
    adjustment    an adjustment without a call of its period, or without a settlement that makes it
    record-sum    a record's figures are not the sums of its calls and adjustments
    """

    kind: str
    record_id: int | None
    call: str | None
    stored: str
    rebuilt: str
    event_ids: Sequence[int] = ()
    frozen: bool = False
    """The call is of a closed record: applying its events again would only carry."""


@dataclass(slots=True)
class CallCheck:
    """A call as its events tell it beside the call as it is stored; either may be missing."""

    sid: str
    told: Sequence[CallReport] = ()
    best: CallReport | None = None
    business_id: int | None = None
    stored: Any = None
    record: Record | None = None
    """That of the business and the end that the events tell; None when there is none."""
    increment_seconds: int = 60
    billable: bool = False
    waiting: bool = False
    """Some of its events are still to be applied, so nothing can be said of it yet."""
    event_ids: Sequence[int] = field(default=())

    @property
    def minutes(self) -> int:
        """Billable minutes, by the events."""
        if not self.billable or self.best is None or self.best.seconds is None:
            return 0
        return billable_minutes(self.best.seconds, self.increment_seconds)

    @property
    def seconds(self) -> int:
        return self.best.seconds or 0 if self.best is not None and self.billable else 0

    @property
    def at(self) -> datetime | None:
        """When it ended: as told, else as stored."""
        told = self.best.ended_at if self.best is not None else None
        return told or (self.stored.ended_at if self.stored is not None else None)

    @property
    def known(self) -> bool:
        """Whether it is a call at all: some keys begin with no call's SID."""
        return self.best is not None or self.stored is not None

    def carried_too_much(self, carried: int) -> int:
        """How many of the ``carried`` minutes are beyond what became known of the call after its period's close."""
        if self.stored is None:
            return 0 if self.billable else carried
        if self.waiting or not carried:
            return 0
        due = self.minutes - self.stored.counted_minutes if self.stored.frozen else 0
        return int(self.stored.carried + self.stored.carried_elsewhere) - due

    def concerns(self, record_id: int) -> bool:
        """Whether it is in this record, as it is stored or as it is told."""
        here = self.stored is not None and self.stored.usage_record_id == record_id
        return here or (self.record is not None and self.record.id == record_id and self.billable)

    def difference(self) -> Difference | None:
        """The first thing that differs, if anything does."""
        if self.waiting:
            return None
        stored = self.stored
        if stored is None:
            return self._differs("lost", "no call", self._as_told()) if self.billable else None
        if self.best is None:
            in_record = stored.usage_record_id is not None
            return self._differs("unheard", self._as_stored(), "no event tells of it") if in_record else None
        if stored.carried_elsewhere:
            here = f"carried {stored.carried_elsewhere:+} of a period that it is not in"
            return self._differs("adjustments", here, self._as_told())
        return self._frozen_difference() if stored.frozen else self._open_difference()

    def share(self, record: Any) -> tuple[int, int, int]:
        """The calls (0 or 1), seconds and minutes that it is to have in this record, by its events."""
        stored = self.stored
        here = stored is not None and stored.usage_record_id == record.id
        if self.waiting:
            return (1, stored.counted_seconds, stored.counted_minutes) if here and stored.counted else (0, 0, 0)
        if here and stored.frozen and self._was_here():
            minutes = self.minutes - stored.carried
            if not stored.counted:
                return 0, 0, minutes
            return 1, stored.counted_seconds if self._was_said() else self.seconds, minutes
        if self.billable and self.record is not None and self.record.id == record.id:
            return 1, self.seconds, self.minutes
        return 0, 0, 0

    def _open_difference(self) -> Difference | None:
        stored = self.stored
        if not self.billable:
            return self._differs("counted", self._as_stored(), self._as_told()) if stored.counted else None
        if not stored.counted:
            return self._differs("not-counted", "not counted", self._as_told())
        if self.record is None or stored.usage_record_id != self.record.id:
            return self._differs("wrong-record", self._as_stored(), self._as_told())
        if stored.counted_seconds != self.seconds or stored.seconds != self.seconds:
            return self._differs("seconds", self._as_stored(), self._as_told())
        if stored.counted_minutes != self.minutes or stored.minutes != self.minutes:
            return self._differs("minutes", self._as_stored(), self._as_told())
        if stored.carried:
            return self._differs("adjustments", f"{self._as_stored()}, carried {stored.carried:+}", self._as_told())
        return None

    def _frozen_difference(self) -> Difference | None:
        """What a closed record counted stays; it must have been said by some event, and the rest be carried."""
        stored = self.stored
        if not self._was_here():
            return self._differs("wrong-record", self._as_stored(), self._as_told())
        if stored.counted and not self._was_said():
            return self._differs("seconds", self._as_stored(), self._as_told())
        rounded = billable_minutes(stored.counted_seconds, self.increment_seconds)
        if stored.minutes != self.minutes or (stored.counted and stored.counted_minutes != rounded):
            return self._differs("minutes", self._as_stored(), self._as_told())
        if self.minutes - stored.counted_minutes != stored.carried:
            was = f"{self._as_stored()}, carried {stored.carried:+}"
            return self._differs("adjustments", was, f"{self._as_told()}, {self.minutes - stored.counted_minutes:+}")
        return None

    def _was_here(self) -> bool:
        """Whether some event puts it into the closed record that it is stored in; what came later moves nothing."""
        stored = self.stored
        if self.business_id is not None and self.business_id != stored.record_business_id:
            return False
        ends = [report.ended_at for report in self.told if report.ended_at is not None]
        return any(stored.period_start <= end < stored.period_end for end in ends)

    def _was_said(self) -> bool:
        return any(
            report.status == CallStatus.COMPLETED and report.seconds == self.stored.counted_seconds
            for report in self.told
        )

    def _differs(self, kind: str, stored: str, rebuilt: str) -> Difference:
        frozen = self.stored is not None and self.stored.frozen
        here = self.stored.usage_record_id if self.stored is not None else None
        record_id = here or (self.record.id if self.record is not None else None)
        return Difference(kind, record_id, self.sid, stored, rebuilt, self.event_ids, frozen)

    def _as_stored(self) -> str:
        stored = self.stored
        where = f"record {stored.usage_record_id}" if stored.usage_record_id is not None else "no record"
        if not stored.counted:
            return f"{where}, not counted, {stored.minutes} minutes known"
        return f"{where}, {stored.counted_seconds} s, {stored.counted_minutes} minutes"

    def _as_told(self) -> str:
        if not self.billable or self.best is None:
            return f"{self.best.status if self.best else 'nothing'}, not to be counted"
        where = f"record {self.record.id}" if self.record is not None else "a record that is not there"
        return f"{where}, {self.seconds} s, {self.minutes} minutes"


def check_calls(connection: Connection, sids: Collection[str], rules: Rules) -> list[CallCheck]:
    """Rebuild these calls from their events and put them beside what is stored. Use one snapshot for it."""
    queue.plan_by_index(connection)
    checks = {sid: CallCheck(sid) for sid in sids}
    told: dict[str, list[CallReport]] = {sid: [] for sid in sids}
    for event in connection.exec_driver_sql(_EVENTS, {"sids": sorted(sids)}):
        check = checks[event.sid]
        check.event_ids = [*check.event_ids, event.id]
        check.waiting = check.waiting or event.state == EventState.PENDING
        report = call_reports.decode_report(
            event.id, event.key, event.content_type, bytes(event.body), event.received_at, rules.twilio_account_sid
        )
        if isinstance(report, CallReport):
            told[event.sid].append(report)
    for stored in connection.exec_driver_sql(_STORED, {"sids": sorted(sids)}):
        checks[stored.sid].stored = stored
    candidates = call_owner.fold([report for each in told.values() for report in each])
    for sid, candidate in candidates.items():
        candidate.report = _applied(candidate.report, told[sid], checks[sid].stored)
    call_owner.find_owners(connection, candidates)
    for sid, check in checks.items():
        if sid in candidates:
            candidate = candidates[sid]
            report = candidate.report
            check.told, check.best, check.business_id = told[sid], report, candidate.business_id
            check.billable = candidate.business_id is not None and is_billable_leg(
                report.status, report.seconds, report.parent_sid, bill_child_legs=rules.bill_child_legs
            )
    _find_records(connection, list(checks.values()))
    return list(checks.values())


def _applied(best: CallReport, told: Sequence[CallReport], stored: Any) -> CallReport:
    """Of several reports with the highest rank the one that was applied first stays."""
    applied = (each for each in told if stored and each.rank == best.rank and each.event_id == stored.event_id)
    return next(applied, best)


def _find_records(connection: Connection, checks: Sequence[CallCheck]) -> None:
    """Give each call the record of its business and its end, and the steps in which its seconds are rounded."""
    ends: dict[int, list[datetime]] = {}
    for check in checks:
        if check.business_id is not None and check.best is not None and check.best.ended_at is not None:
            ends.setdefault(check.business_id, []).append(check.best.ended_at)
    if ends:
        every = [end for each in ends.values() for end in each]
        around = records.records_around(connection, ends, min(every), max(every))
        for check in checks:
            if check.business_id is not None and check.best is not None and check.best.ended_at is not None:
                check.record = records.record_at(around.get(check.business_id, ()), check.best.ended_at)
    homes = {check.sid: _home(check) for check in checks}
    ids = sorted({home for home in homes.values() if home is not None})
    increments: dict[int, int] = dict(connection.exec_driver_sql(_INCREMENTS, (ids,)).all())
    for check in checks:
        home = homes[check.sid]
        if home is not None:
            check.increment_seconds = increments[home]


def _home(check: CallCheck) -> int | None:
    if check.stored is not None and check.stored.frozen:
        return int(check.stored.usage_record_id)
    return check.record.id if check.record is not None else None
