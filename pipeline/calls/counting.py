"""Counting calls: what the reports of a batch do to `calls` and `usage_records`, set-based, once.

A call is upserted by its SID (``call_rows``), and the change of what it counts moves its usage record by the
difference.
"""

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses import plan_limits
from pipeline.businesses.consequences import Consequences
from pipeline.businesses.service_rules import Matter
from pipeline.calls import call_owner, call_rows
from pipeline.calls.billable_leg import is_billable_leg
from pipeline.calls.call_reports import CallReport
from pipeline.calls.call_rows import Counted
from pipeline.events import fetch_requests
from pipeline.events.outcomes import EventState, MoreBusinesses, Outcome
from pipeline.providers.twilio_words import CallStatus
from pipeline.usage import late_minutes, monthly_allowance, record_figures, records
from pipeline.usage.late_minutes import Late
from pipeline.usage.record_figures import CallDifference
from pipeline.usage.rounding import billable_minutes


class Batch:
    """The calls of one batch, from their reports to the usage records. ``businesses`` are to be locked in between."""

    def __init__(self, connection: Connection, reports: list[CallReport], consequences: Consequences) -> None:
        self._connection = connection
        self.outcomes: list[Outcome] = []
        """How the events end if ``apply`` succeeds; known before anything is locked."""
        self._consequences = consequences
        self._candidates = call_owner.fold(reports)
        if self._candidates:
            call_owner.find_owners(connection, self._candidates)
            self._set_aside_the_unknown()
            for candidate in self._candidates.values():
                self.outcomes += [Outcome(event_id, EventState.PROCESSED) for event_id in candidate.event_ids]

    @property
    def businesses(self) -> set[int]:
        """The businesses that the calls belong to, by their reports."""
        return {each.business_id for each in self._candidates.values() if each.business_id is not None}

    def events_of(self, business_ids: set[int]) -> set[int]:
        """The events that tell of calls of these businesses."""
        return {
            event_id
            for each in self._candidates.values()
            if each.business_id in business_ids
            for event_id in each.event_ids
        }

    def apply(self, locked: set[int], now: datetime, *, bill_child_legs: bool) -> None:
        """Count, under the locks of ``locked``.

        Raises MoreBusinesses when a call belongs to another business as yet.
        """
        if self._candidates:
            counted = self._figures(now, bill_child_legs=bill_child_legs)
            sids = sorted(self._candidates)
            frozen = call_rows.frozen(self._connection, sids)
            changed = self._upsert([sid for sid in sids if sid not in frozen], counted, locked, now)
            changed |= self._update_frozen(sorted(frozen), counted, now)
            self._fetch_where_in_doubt(changed)

    def _set_aside_the_unknown(self) -> None:
        """Calls of nobody: dead with the number, or fetched first where no number stands; orphans are kept."""
        unknown = [
            (sid, each)
            for sid, each in self._candidates.items()
            if each.business_id is None and each.report.parent_sid is None
        ]
        if not unknown:
            return
        fetched = fetch_requests.fetched_before(self._connection, "call", [sid for sid, _ in unknown])
        for sid, candidate in unknown:
            del self._candidates[sid]
            number = next((number for number, _ in candidate.numbers), None)
            if number is None and sid not in fetched and not candidate.report.from_api:
                self._request_fetch(sid, "no-number")
                ends = [Outcome(event_id, EventState.PENDING, "awaiting-call", 300) for event_id in candidate.event_ids]
            else:
                reason = f"unknown-number {number}" if number else "unknown-number"
                ends = [Outcome(event_id, EventState.DEAD, reason) for event_id in candidate.event_ids]
            self.outcomes += ends

    def _figures(self, now: datetime, *, bill_child_legs: bool) -> dict[str, Counted]:
        """What each call is to count; usage records that are missing are made."""
        billable = {
            sid: each
            for sid, each in self._candidates.items()
            if each.business_id is not None
            and is_billable_leg(
                each.report.status, each.report.seconds, each.report.parent_sid, bill_child_legs=bill_child_legs
            )
        }
        ends: dict[int, set[datetime]] = {}
        for each in billable.values():
            assert each.business_id is not None and each.report.ended_at is not None  # noqa: PT018
            ends.setdefault(each.business_id, set()).add(each.report.ended_at)
        around, made = records.records_for(self._connection, ends, now)
        if made:
            self._consequences.follow_ups.add("stripe.refresh")  # one may be provisional
        figures = {}
        for sid, candidate in billable.items():
            business_id, ended_at, seconds = candidate.business_id, candidate.report.ended_at, candidate.report.seconds
            assert business_id is not None and ended_at is not None and seconds is not None  # noqa: PT018
            record = records.record_at(around[business_id], ended_at)
            assert record is not None
            figures[sid] = Counted(billable_minutes(seconds, record.increment_seconds), seconds, record)
        return figures

    def _upsert(self, sids: list[str], counted: dict[str, Counted], locked: set[int], now: datetime) -> set[str]:
        if not sids:
            return set()
        returned = call_rows.upsert(
            self._connection, ((self._candidates[sid], counted.get(sid, Counted())) for sid in sids)
        )
        strangers = {row.was_business_id for row in returned} - locked - {None}
        if strangers:
            raise MoreBusinesses(strangers)
        changes: dict[int, CallDifference] = {}
        late = []
        for sid, _, was_record, was_counted, was_minutes, was_seconds in returned:
            if was_counted:
                changes.setdefault(was_record, CallDifference()).add(-1, was_seconds, was_minutes)
            new = counted.get(sid)
            if new is not None and new.record is not None:
                if new.in_record:
                    changes.setdefault(new.record.id, CallDifference()).add(1, new.seconds, new.minutes)
                else:
                    late.append((new.record.id, new.minutes, sid))
        uses = record_figures.add_calls(self._connection, changes)
        self._used(plan_limits.check_use(self._connection, uses, now))
        self._share_allowances(counted)
        self._carry(late, now)
        return {row.sid for row in returned}

    def _update_frozen(self, sids: list[str], counted: dict[str, Counted], now: datetime) -> set[str]:
        """Calls of closed records: the difference is carried, the attribution stays."""
        if not sids:
            return set()
        reports = [self._candidates[sid].report for sid in sids]
        minutes = [counted[sid].minutes if sid in counted else 0 for sid in sids]
        changed = call_rows.update_frozen(self._connection, reports, minutes)
        self._carry([(record_id, minutes, sid) for sid, record_id, minutes in changed], now)
        return {row.sid for row in changed}

    def _share_allowances(self, counted: dict[str, Counted]) -> None:
        """Where a calendar month is cut into several records, what one uses is missing in the next."""
        cut = sorted(
            {
                each.record.business_id
                for each in counted.values()
                if each.record is not None and each.record.part_of_month
            }
        )
        if cut and monthly_allowance.share_allowance(self._connection, cut):
            self._used(cut)

    def _used(self, business_ids: Iterable[int]) -> None:
        for business_id in business_ids:
            self._consequences.service(business_id, Matter.MINUTES, "", "minutes used")

    def _carry(self, late: Iterable[tuple[int, int, str]], now: datetime) -> None:
        for record_id, minutes, sid in late:
            event_id = self._candidates[sid].report.event_id
            late_minutes.carry_minutes(self._connection, Late(record_id, minutes, sid, event_id), now)

    def _fetch_where_in_doubt(self, changed: set[str]) -> None:
        """Ask Twilio about calls whose end or seconds are not known, and about reports that contradict each other."""
        unchanged = [sid for sid in self._candidates if sid not in changed]
        stored = call_rows.ranked(self._connection, unchanged)
        for sid, candidate in self._candidates.items():
            report = candidate.report
            if report.from_api or not candidate.event_ids:
                continue
            contradicts = sid in stored and stored[sid][0] == report.rank and stored[sid][1:] != report.content
            if candidate.disputed or contradicts:
                self._request_fetch(sid, "reports-differ")
            elif sid in changed and report.status == CallStatus.COMPLETED and report.seconds is None:
                self._request_fetch(sid, "no-duration")
            elif sid in changed and report.estimated:
                self._request_fetch(sid, "no-timestamp")

    def _request_fetch(self, sid: str, reason: str) -> None:
        self._consequences.fetch("call", sid, reason)
