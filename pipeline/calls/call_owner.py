"""Whose call is it? Folding a batch's reports to one per call, and finding each call's business.

By the number of ours that was called or that calls, held when the call started; a child leg by its parent.
All of it is looked up before the locks: the upsert tells when a call turns out to be somebody else's.
"""

from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Connection

from pipeline.calls.call_reports import CallReport

_HOLDERS = """
select number, business_id, agent_id, lower(held), upper(held)
from phone_number_assignments
where number = any(%b::text[])
"""

_STORED = "select sid, business_id from calls where sid = any(%b::text[])"

_ORPHANS = """
select event_id, sid, parent_sid, status, direction, from_number, to_number, rank, started_at, ended_at,
       estimated, seconds, price, price_unit
from calls
where business_id is null and parent_sid = any(%b::text[])
"""


@dataclass(slots=True)
class Candidate:
    """The best report of one call in a batch, the events that told of it, and whose call it is."""

    report: CallReport
    event_ids: list[int] = field(default_factory=list)
    numbers: list[tuple[str, datetime]] = field(default_factory=list)
    disputed: bool = False
    business_id: int | None = None
    number: str | None = None
    agent_id: int | None = None
    """Who answered the number when the call began."""


#: Of a number: a business, its agent, since when and until when.
_Holder = tuple[int, int | None, datetime | None, datetime | None]


def fold(reports: list[CallReport]) -> dict[str, Candidate]:
    """One candidate per call: the report of the highest rank. Reports of one rank that differ are disputed."""
    candidates: dict[str, Candidate] = {}
    for report in reports:
        candidate = candidates.get(report.sid)
        if candidate is None:
            candidate = candidates[report.sid] = Candidate(report)
        elif report.rank > candidate.report.rank:
            candidate.report, candidate.disputed = report, False
        elif report.rank == candidate.report.rank and report.content != candidate.report.content:
            candidate.disputed = True
        candidate.event_ids.append(report.event_id)
        if report.number is not None:
            candidate.numbers.append((report.number, report.started_at))
    return candidates


def find_owners(connection: Connection, candidates: dict[str, Candidate]) -> None:
    """Find each candidate's business, where it can be told; adds the orphans that were waiting for one of them."""
    sids = {sid: candidate.report.parent_sid for sid, candidate in candidates.items()}
    holders = _holders(connection, {number for each in candidates.values() for number, _ in each.numbers})
    known: dict[str, int | None] = dict(
        connection.exec_driver_sql(_STORED, (sorted({*sids, *filter(None, sids.values())}),)).all()
    )
    for candidate in candidates.values():
        _resolve_one(candidate, candidates, holders, known)
    found = [sid for sid, candidate in candidates.items() if candidate.business_id is not None]
    for row in connection.exec_driver_sql(_ORPHANS, (found,)):
        report = CallReport(*row)
        if report.sid not in candidates and report.parent_sid is not None:
            candidates[report.sid] = Candidate(report, business_id=candidates[report.parent_sid].business_id)


def _holders(connection: Connection, numbers: set[str]) -> dict[str, list[_Holder]]:
    holders: dict[str, list[_Holder]] = {}
    for number, *held in connection.exec_driver_sql(_HOLDERS, (sorted(numbers),)):
        business_id, agent_id, since, until = held
        holders.setdefault(number, []).append((business_id, agent_id, since, until))
    return holders


def _resolve_one(
    candidate: Candidate,
    candidates: dict[str, Candidate],
    holders: dict[str, list[_Holder]],
    known: dict[str, int | None],
) -> None:
    parent_sid = candidate.report.parent_sid
    if candidate.business_id is not None:
        return
    if parent_sid is not None:
        parent = candidates.get(parent_sid)
        if parent is not None and parent.report.parent_sid is None:
            _resolve_one(parent, candidates, holders, known)
            candidate.business_id = parent.business_id
        candidate.business_id = candidate.business_id or known.get(parent_sid) or known.get(candidate.report.sid)
        return
    own = candidate.report.number
    # The best report's own number first; an earlier one may have named it where the best one does not.
    for number, started_at in [(own, candidate.report.started_at)] if own else candidate.numbers:
        for business_id, agent_id, since, until in holders.get(number, ()):
            if (since is None or since <= started_at) and (until is None or started_at < until):
                candidate.business_id, candidate.agent_id, candidate.number = business_id, agent_id, number
                return
    candidate.business_id = known.get(candidate.report.sid)
