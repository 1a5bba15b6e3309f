"""Usage records: finding or making those that instants fall into, and the locks of their businesses.

Everything here runs under the lock of the business (``lock_businesses``), so that what is read stays true until
the commit: whoever counts, cuts or closes takes that lock first.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows
from pipeline.usage import record_creation

_RECORDS_AROUND = """
select id, business_id, period_start, period_end, state, subscription_id, increment_seconds, trial, currency,
       count(*) over (partition by business_id, allowance_month) > 1 and allowance_month is not null as part_of_month
from usage_records
where business_id = any(%(ids)s::bigint[]) and period_end > %(earliest)s and period_start <= %(latest)s
order by business_id, period_start
"""

#: No period is longer, so nothing further away can bound a new one.
_LONGEST = timedelta(days=32)


class RecordState(StrEnum):
    """How far a usage record is, and the way out of each state."""

    OPEN = "open"
    """The period is running, or waits to be confirmed. Then CLOSING, when it ends."""
    CLOSING = "closing"
    """The period is over; late calls are still counted, and pushed while the invoice is a draft. Then CLOSED."""
    CLOSED = "closed"
    """Final, with a statement; what comes later is carried. No way out."""


@dataclass(frozen=True, slots=True)
class Record:
    """A usage record's identity, bounds and state, as read under the business's lock."""

    id: int
    business_id: int
    period_start: datetime
    period_end: datetime
    state: str
    subscription_id: int | None
    increment_seconds: int
    """By which its calls are rounded up, whatever the plan's is by now."""
    trial: bool
    currency: str | None
    part_of_month: bool
    """Whether it is one of several records of a calendar month, which share its included minutes."""

    @property
    def bills(self) -> bool:
        """Whether its minutes are charged: not those of a trial, nor those of a business without a subscription."""
        return self.subscription_id is not None and not self.trial


def records_around(
    connection: Connection, business_ids: Collection[int], earliest: datetime, latest: datetime
) -> dict[int, list[Record]]:
    """The records of these businesses that touch ``[earliest, latest]``, by business and start."""
    found: dict[int, list[Record]] = {}
    parameters = {"ids": list(business_ids), "earliest": earliest, "latest": latest}
    for record in typed_rows(Record, connection.exec_driver_sql(_RECORDS_AROUND, parameters)):
        found.setdefault(record.business_id, []).append(record)
    return found


def records_for(
    connection: Connection, wanted: Mapping[int, Collection[datetime]], now: datetime
) -> tuple[dict[int, list[Record]], bool]:
    """The records that hold these instants, by business and start; made where there are none.

    Returns them with their neighbours, and whether any had to be made: it may be provisional, so Stripe is to be
    asked. Raises RuntimeError when an instant finds no record all the same: its batch must not be committed.
    """
    instants = [instant for each in wanted.values() for instant in each]
    if not instants:
        return {}, False
    earliest, latest = min(instants) - _LONGEST, max(instants) + _LONGEST
    found = records_around(connection, wanted, earliest, latest)
    missing = {
        business_id: unheld
        for business_id, each in wanted.items()
        if (unheld := [instant for instant in each if record_at(found.get(business_id, ()), instant) is None])
    }
    if not missing:
        return found, False
    bounds = {
        business_id: [(record.period_start, record.period_end) for record in found.get(business_id, ())]
        for business_id in missing
    }
    record_creation.make_records(connection, missing, bounds, now)
    found |= records_around(connection, missing, earliest, latest)
    for business_id, each in missing.items():
        for instant in each:
            if record_at(found.get(business_id, ()), instant) is None:
                raise RuntimeError(
                    f"no usage record of business {business_id} takes {instant.isoformat()}: its bounds overlap"
                    f" others; look at `altiora usage {business_id}`"
                )
    return found, True


def record_for(connection: Connection, business_id: int, instant: datetime, now: datetime) -> Record:
    """The record of the period that ``instant`` falls into; made if there is none yet."""
    found, _ = records_for(connection, {business_id: [instant]}, now)
    record = record_at(found[business_id], instant)
    assert record is not None
    return record


def record_at(records: Iterable[Record], instant: datetime) -> Record | None:
    """That of these records of one business which holds the instant."""
    return next((each for each in records if each.period_start <= instant < each.period_end), None)
