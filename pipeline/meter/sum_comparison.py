"""Stripe's own sum of each record's minutes beside what it was sent: compared about daily, a difference is a drift.

Summaries are right only eventually. So what is compared are the whole minutes of the period up to the first one that
holds a push which has not settled; a business that never stops talking is compared all the same.
"""

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from sqlalchemy import Connection, Engine

from pipeline.meter.unknown_pushes import MOST_IN_DOUBT, meters_by_event_name, summed_by_stripe, sums_of
from pipeline.providers.stripe_api import StripeApi, StripeApiError
from pipeline.shared import drifts, restores
from pipeline.shared.drifts import DriftKind
from pipeline.usage.periods import minute_ceil, minute_floor

#: Records that one run compares at most, and seconds after which it begins no more.
LIMIT = 500
SECONDS = 25.0
#: A record is compared again after so long, and until so long after its end: Stripe's longest grace is three days.
AGAIN = timedelta(hours=20)
UNTIL = timedelta(days=4)
#: One that differs is looked at again after so long.
AGAIN_DIFFERENT = timedelta(hours=1)

_DUE = """
select r.id, r.business_id, r.period_start, r.period_end, s.stripe_customer_id
from usage_records r
join subscriptions s on s.id = r.subscription_id
left join stripe_sums compared on compared.usage_record_id = r.id
left join drifts d on d.kind = 'stripe-sum' and d.subject = 'record:' || r.id and d.resolved_at is null
where r.subscription_id is not null and not r.provisional
  and (%(business_id)s::bigint is null or r.business_id = %(business_id)s)
  and (r.state <> 'closed' or r.period_end > %(now)s - %(until)s::interval or d.id is not null)
  and (compared.compared_at is null
       or compared.compared_at < clock_timestamp() - case when d.id is null then %(again)s::interval
                                                          else least(%(again)s::interval, %(again_different)s) end)
  and exists (
    select from meter_pushes p
    where p.business_id = r.business_id and p.timestamp >= r.period_start and p.timestamp < r.period_end
      and p.state = 'sent')
order by compared.compared_at nulls first, r.id
limit %(limit)s
"""

# The first minute with a push of which Stripe's sum may not tell yet, or of which nobody knows whether it should.
_OPEN_FROM = """
select min(timestamp) from meter_pushes
where business_id = %(business_id)s and timestamp >= %(start)s and timestamp < %(end)s
  and (state in ('planned', 'sending', 'unknown') or doubt is not null
       or greatest(last_sent_at, settled_at) > clock_timestamp() - %(settling)s::interval)
  and (state <> 'planned' or first_sent_at is not null)
"""

_SENT = """
select coalesce(sum(minutes), 0) from meter_pushes
where business_id = %(business_id)s and stripe_customer_id = %(customer)s and state = 'sent'
  and timestamp >= %(start)s and timestamp < %(until)s
"""

# Sent, and void since the final invoice does not have them: Stripe may have taken them too late, and sums them up.
_TOO_LATE = """
select minutes from meter_pushes
where business_id = %(business_id)s and stripe_customer_id = %(customer)s and state = 'void'
  and first_sent_at is not null and timestamp >= %(start)s and timestamp < %(until)s
order by id limit %(limit)s
"""

_EVENT_NAME = """
select event_name from meter_pushes
where business_id = %(business_id)s and timestamp >= %(start)s and timestamp < %(end)s and state = 'sent'
order by id desc limit 1
"""

_NOTE = """
insert into stripe_sums (usage_record_id, until, sent, summed, compared_at)
values (%(record_id)s, %(until)s, %(sent)s, %(summed)s, clock_timestamp())
on conflict (usage_record_id) do update
set until = excluded.until, sent = excluded.sent, summed = excluded.summed, compared_at = excluded.compared_at
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ComparedRecord:
    """A record to compare."""

    record_id: int
    business_id: int
    period_start: datetime
    period_end: datetime
    customer: str


@dataclass(frozen=True, slots=True)
class SentMinutes:
    """What Stripe was sent of a record's whole minutes in ``[start, until)``."""

    start: datetime
    until: datetime
    minutes: int
    too_late: tuple[int, ...]
    event_name: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A record's sent minutes beside Stripe's sum of them."""

    due: ComparedRecord
    sent: SentMinutes
    summed: Decimal

    @property
    def missing(self) -> Decimal:
        """Minutes that Stripe was sent and does not count; negative: it counts more than it was sent."""
        missing = self.sent.minutes - self.summed
        return Decimal(0) if -missing in sums_of(self.sent.too_late) else missing


def records_due(
    connection: Connection, now: datetime, business_id: int | None = None, again: timedelta = AGAIN
) -> list[ComparedRecord]:
    """The records to compare, the longest waiting first; ``again`` is of machine time."""
    about = {
        "now": now,
        "business_id": business_id,
        "until": UNTIL,
        "again": again,
        "again_different": AGAIN_DIFFERENT,
        "limit": LIMIT,
    }
    return [ComparedRecord(*row) for row in connection.exec_driver_sql(_DUE, about)]


def sent_minutes(connection: Connection, record: ComparedRecord, settling: timedelta) -> SentMinutes | None:
    """What has settled of a record; None where nothing has."""
    start, end = minute_ceil(record.period_start), minute_floor(record.period_end)
    about = {"business_id": record.business_id, "customer": record.customer, "start": start, "end": end}
    open_from = connection.exec_driver_sql(_OPEN_FROM, {**about, "settling": settling}).scalar_one()
    until = end if open_from is None else open_from
    event_name = connection.exec_driver_sql(_EVENT_NAME, about).scalar()
    if until <= start or event_name is None:
        return None
    minutes = connection.exec_driver_sql(_SENT, {**about, "until": until}).scalar_one()
    late = connection.exec_driver_sql(_TOO_LATE, {**about, "until": until, "limit": MOST_IN_DOUBT}).scalars()
    return SentMinutes(start, until, int(minutes), tuple(late), event_name)


def compare_record(api: StripeApi, meters: dict[str, str], record: ComparedRecord, told: SentMinutes) -> Comparison:
    """Ask Stripe. Raises StripeApiError, and LookupError where no meter has the event's name."""
    summed = summed_by_stripe(api, meters[told.event_name], record.customer, told.start, told.until)
    return Comparison(record, told, summed)


def compare_due_records(engine: Engine, api: StripeApi, now: datetime, settling: timedelta) -> Counter[str]:
    """Compare what is due; counts records that ``agree`` and ``differ``, and looks that ``failed``.

    ``settling`` is of machine time. Asks outside any transaction; run twice at once, it notes the same twice.
    """
    until = time.monotonic() + SECONDS
    counts: Counter[str] = Counter()
    with engine.connect() as connection:
        records = records_due(connection, now)
    meters: dict[str, str] = {}
    for record in records:
        if time.monotonic() > until:
            break
        with engine.connect() as connection:
            told = sent_minutes(connection, record, settling)
        if told is None:
            continue
        try:
            meters = meters or meters_by_event_name(api)
            comparison = compare_record(api, meters, record, told)
        except (StripeApiError, LookupError) as error:
            log.warning("comparing-failed", record_id=record.record_id, error=str(error), next="the next run")
            counts["failed"] += 1
            continue
        with engine.begin() as connection:
            if note_comparison(connection, comparison, now, settling):
                counts["differ" if comparison.missing else "agree"] += 1
    return counts


def note_comparison(connection: Connection, comparison: Comparison, now: datetime, settling: timedelta) -> bool:
    """Write a comparison down, unless what was sent is not the same any more; returns whether it was written.

    Nor in a database that is behind (``restores``): of what was sent after its backup it knows nothing yet.
    """
    if restores.is_behind(connection):
        return False
    record, told = comparison.due, comparison.sent
    again = sent_minutes(connection, record, settling)
    if again is None or again.until < told.until or _sent_until(connection, record, told) != told.minutes:
        return False
    about = {"record_id": record.record_id, "until": told.until, "sent": told.minutes, "summed": comparison.summed}
    connection.exec_driver_sql(_NOTE, about)
    subject = f"record:{record.record_id}"
    if not comparison.missing:
        drifts.resolve(connection, DriftKind.STRIPE_SUM, subject, now)
        return True
    drifts.report(
        connection,
        DriftKind.STRIPE_SUM,
        subject,
        business_id=record.business_id,
        expected=f"{told.minutes} minutes, which were sent for {told.start.isoformat()} to {told.until.isoformat()}",
        actual=f"{comparison.summed} minutes by Stripe's summary",
        evidence={"record": record.record_id, "customer": record.customer, "missing": str(comparison.missing)},
        now=now,
    )
    return True


def _sent_until(connection: Connection, record: ComparedRecord, told: SentMinutes) -> int:
    about = {"business_id": record.business_id, "customer": record.customer, "start": told.start, "until": told.until}
    return int(connection.exec_driver_sql(_SENT, about).scalar_one())
