"""Twilio's own totals of each GMT day beside the calls that we hold: a check that shares nothing with the listing.

Twilio sums by the day of a call's start, so a day is compared when its longest call is over and everything has been
listed since. Only a day that differs is listed again, call by call: what Twilio knows and we don't comes in as any call
does, and what we hold and Twilio does not know is a drift.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

import structlog
from sqlalchemy import Connection, Engine

from pipeline.calls import calls_from_api
from pipeline.calls.call_listing import LONGEST_CALL
from pipeline.events.listings import Listing, listed_until, note_listed
from pipeline.providers.twilio_api import TwilioApi
from pipeline.providers.twilio_words import CallStatus, Direction
from pipeline.shared import drifts
from pipeline.shared.clock import machine_now
from pipeline.shared.drifts import DriftKind

DAY = timedelta(days=1)
#: Twilio's totals are a little behind.
SLACK = timedelta(hours=1)
#: Days that one run compares at most, and calls that it asks Twilio about one by one.
MOST_DAYS = 7
MOST_CALLS = 100

#: Twilio's categories of usage, and the directions of the calls that each counts.
CATEGORIES = {
    "calls-inbound": [Direction.INBOUND],
    "calls-outbound": [Direction.OUTBOUND_API, Direction.OUTBOUND_DIAL],
}

_OURS = """
select count(*), coalesce(sum((seconds + 59) / 60), 0) from calls
where started_at >= %(start)s and started_at < %(end)s and status = 'completed' and seconds is not null
  and direction = any(%(directions)s::text[])
"""

_SIDS = """
select sid from calls where started_at >= %(start)s and started_at < %(end)s and status = 'completed' order by sid
"""

_OPEN = "select subject, evidence from drifts where kind = %s and resolved_at is null order by id"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Total:
    """One category of one day: calls and minutes by Twilio's totals, and of the calls that we hold."""

    category: str
    twilio: tuple[int, int]
    ours: tuple[int, int]


@dataclass(slots=True)
class DayDifference:
    """A day whose totals differ: which do, calls that Twilio lists and we don't hold, and the other way round."""

    day: date
    totals: list[Total]
    not_ours: list[str] = field(default_factory=list)
    not_twilios: list[str] = field(default_factory=list)
    news: int = 0


def compare_due_days(engine: Engine, api: TwilioApi, now: datetime) -> Counter[str]:
    """Compare the days that are due by the business clock, and those that differed; counts ``agree`` and ``differ``.

    ``stored`` are events that this brought in. Raises TwilioApiError; the days that are left are due again. Running it
    twice at once compares twice and notes the same.
    """
    counts: Counter[str] = Counter()
    _look_again_at_unknown(engine, api, now)
    for day in days_due(engine, now):
        difference = compare_day(engine, api, day, now, store=True)
        with engine.begin() as connection:
            _note(connection, day, difference, now)
        counts["agree" if difference is None else "differ"] += 1
        counts["stored"] += 0 if difference is None else difference.news
    return +counts


def days_due(engine: Engine, now: datetime) -> list[date]:
    """The days to compare: those that can be told by now, and those with an open drift.

    The first run compares nothing: what lies before it is not ours.
    """
    today = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
    with engine.begin() as connection:
        compared = listed_until(connection, Listing.DAYS)
        listed = listed_until(connection, Listing.CALLS)
        if compared is None:
            note_listed(connection, Listing.DAYS, today + DAY)
            return []
        again = [
            date.fromisoformat(evidence["day"])
            for _, evidence in connection.exec_driver_sql(_OPEN, (DriftKind.TWILIO_DAY,))
        ]
    fresh: list[date] = []
    while listed is not None and compared + DAY + LONGEST_CALL + SLACK <= min(now, listed) and len(fresh) < MOST_DAYS:
        fresh.append(compared.astimezone(UTC).date())
        compared += DAY
    return [*again[:MOST_DAYS], *(day for day in fresh if day not in again)]


def compare_day(engine: Engine, api: TwilioApi, day: date, now: datetime, *, store: bool) -> DayDifference | None:
    """Compare one GMT day; None where it agrees. With ``store``, calls that we don't hold come in as events.

    Raises TwilioApiError.
    """
    start = datetime.combine(day, time(), UTC)
    about = {"start": start, "end": start + DAY}
    totals = []
    for category, directions in CATEGORIES.items():
        told = api.usage_of_day(day, category)
        with engine.connect() as connection:
            calls, minutes = connection.exec_driver_sql(_OURS, {**about, "directions": directions}).one()
        if told != (calls, int(minutes)):
            totals.append(Total(category, told, (calls, int(minutes))))
    if not totals:
        return None
    asked_at = machine_now()
    listed = {
        call["sid"]: call for call in api.list_calls(start, start + DAY) if call["status"] == CallStatus.COMPLETED
    }
    with engine.connect() as connection:
        ours = set(connection.exec_driver_sql(_SIDS, about).scalars())
    difference = DayDifference(day, totals, sorted(listed.keys() - ours))
    # The list goes by Twilio's start and ours may be some seconds off: each one is asked about by its SID.
    difference.not_twilios = [sid for sid in sorted(ours - listed.keys())[:MOST_CALLS] if api.fetch_call(sid) is None]
    if store:
        with engine.begin() as connection:
            difference.news = calls_from_api.store_news(
                connection,
                listed.values(),
                account_sid=api.account_sid,
                machine_now=asked_at,
                now=now,
                recovered=True,
            )
    return difference


def _look_again_at_unknown(engine: Engine, api: TwilioApi, now: datetime) -> None:
    """End the drifts of calls that Twilio knows after all."""
    with engine.connect() as connection:
        subjects = [subject for subject, _ in connection.exec_driver_sql(_OPEN, (DriftKind.UNKNOWN_AT_TWILIO,))][
            :MOST_CALLS
        ]
    for subject in subjects:
        if api.fetch_call(subject.removeprefix("call:")) is not None:
            with engine.begin() as connection:
                drifts.resolve(connection, DriftKind.UNKNOWN_AT_TWILIO, subject, now)


def _note(connection: Connection, day: date, difference: DayDifference | None, now: datetime) -> None:
    until = datetime.combine(day, time(), UTC) + DAY
    note_listed(connection, Listing.DAYS, until)
    subject = f"day:{day.isoformat()}"
    if difference is None:
        drifts.resolve(connection, DriftKind.TWILIO_DAY, subject, now)
        return
    drifts.report(
        connection,
        DriftKind.TWILIO_DAY,
        subject,
        expected="; ".join(_words(total.category, total.twilio) for total in difference.totals),
        actual="; ".join(_words(total.category, total.ours) for total in difference.totals),
        evidence={
            "day": day.isoformat(),
            "not_ours": difference.not_ours[:MOST_CALLS],
            "not_twilios": difference.not_twilios,
        },
        now=now,
    )
    for sid in difference.not_twilios:
        business_id, minutes = connection.exec_driver_sql(
            "select business_id, counted_minutes from calls where sid = %s", (sid,)
        ).one()
        drifts.report(
            connection,
            DriftKind.UNKNOWN_AT_TWILIO,
            f"call:{sid}",
            business_id=business_id,
            expected="Twilio knows every call that we hold",
            actual=f"404, and {minutes} minutes are counted for it",
            evidence={"call_sid": sid, "minutes": minutes, "day": day.isoformat()},
            now=now,
        )


def _words(category: str, figures: tuple[int, int]) -> str:
    return f"{category}: {figures[0]} calls, {figures[1]} minutes"
