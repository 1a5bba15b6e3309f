"""The calls of simulated businesses: how many, when, how long, how they end. Seconds only; nothing is rounded here."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

from sandbox.twilio.account import TwilioAccount

#: Shares of all calls.
UNANSWERED, OUTGOING = 0.06, 0.15

#: Shares of the completed ones: nobody spoke, hung up at once, ended on the very second of a full minute.
SILENT, SHORT, FULL_MINUTES = 0.02, 0.08, 0.10

#: All others are log-normal around a median, in seconds, up to the longest.
MEDIAN, SPREAD, LONGEST = 110, 0.8, 60 * 60

#: Shares of the completed incoming calls that are passed on with <Dial>, and of all callbacks that lack what the
#: documentation promises (as real ones do).
PASSED_ON, INCOMPLETE = 0.02, 0.005

#: Share of the outgoing calls that ask for callbacks about every step.
TALKATIVE = 0.5

#: How many calls a weekend day has for each call of a working day, and the share of a day's calls in busy hours.
WEEKEND, IN_BUSY_HOURS = 0.3, 0.85


@dataclass(frozen=True)
class Business:
    """Who is called: numbers in E.164, minutes of talk in 30 days on average, busy hours of its own wall clock.

    ``boundaries`` are instants, such as ends of billing periods, around which calls shall end to the second.
    """

    name: str
    time_zone: str
    numbers: tuple[str, ...]
    minutes: float
    busy_hours: tuple[int, int] = (8, 18)
    boundaries: tuple[datetime, ...] = ()

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Business":
        """Read a business from its JSON description; raises TypeError for a field that it does not have."""
        instants = tuple(datetime.fromisoformat(instant) for instant in given.get("boundaries", ()))
        first, last = given.get("busy_hours", (8, 18))
        return cls(**given | {"numbers": tuple(given["numbers"]), "busy_hours": (first, last), "boundaries": instants})


def populate(twilio: TwilioAccount, businesses: Iterable[Business], start: datetime, end: datetime, seed: int) -> int:
    """Plan the calls of all businesses that start in ``[start, end)``; returns how many legs there will be.

    The same seed gives the same calls, for each business whoever else there is.
    """
    legs = 0
    for business in businesses:
        random = Random(f"{seed}:{business.name}")
        for number in business.numbers:
            if number not in twilio.numbers:
                twilio.add_number(number)
        for number, at, seconds in [*_ordinary(business, start, end, random), *_at_boundaries(business, random)]:
            legs += _place(twilio, number, at, seconds, random)
    return legs


def _ordinary(
    business: Business, start: datetime, end: datetime, random: Random
) -> Iterator[tuple[str, datetime, int]]:
    """Number, start and seconds of calls that together last what the business talks in this time."""
    left = business.minutes * 60 * ((end - start) / timedelta(days=30))
    zone = ZoneInfo(business.time_zone)
    first = start.astimezone(zone).date()
    days = [first + timedelta(days=n) for n in range((end.astimezone(zone).date() - first).days + 1)]
    weights = [WEEKEND if day.weekday() >= 5 else 1.0 for day in days]
    while left > 0:
        at = _moment(random.choices(days, weights)[0], zone, business.busy_hours, random)
        if start <= at < end:
            seconds = _length(random)
            left -= seconds
            yield random.choice(business.numbers), at, seconds


def _moment(day: date, zone: ZoneInfo, busy_hours: tuple[int, int], random: Random) -> datetime:
    opens, closes = busy_hours if random.random() < IN_BUSY_HOURS else (0, 24)
    return datetime.combine(day, time(), zone) + timedelta(seconds=random.randrange(opens * 3600, closes * 3600))


def _length(random: Random) -> int:
    kind = random.random()
    if kind < SILENT:
        return 0
    if kind < SILENT + SHORT:
        return random.randint(1, 5)
    if kind < SILENT + SHORT + FULL_MINUTES:
        return 60 * random.randint(1, 6)
    return min(round(random.lognormvariate(math.log(MEDIAN), SPREAD)), LONGEST)


def _at_boundaries(business: Business, random: Random) -> Iterator[tuple[str, datetime, int]]:
    """Calls that end a second before a boundary, on it, a second after it, and one that goes on across it."""
    for boundary in business.boundaries:
        for offset in (-1, 0, 1, 90):
            seconds = random.randint(100, 400)
            yield random.choice(business.numbers), boundary + timedelta(seconds=offset - seconds), seconds


def _place(twilio: TwilioAccount, number: str, at: datetime, seconds: int, random: Random) -> int:
    """Plan one call, and the leg that it may be passed on to; returns the number of legs."""
    other = f"+447700900{random.randrange(1000):03d}"  # numbers that belong to nobody, kept free for fiction
    outgoing = random.random() < OUTGOING
    all_events = outgoing and random.random() < TALKATIVE
    call = twilio.place_call(
        number,
        at,
        seconds,
        random.choice(["busy", "no-answer", "failed", "canceled"]) if random.random() < UNANSWERED else "completed",
        "outbound-api" if outgoing else "inbound",
        other=other,
        events=("initiated", "ringing", "answered", "completed") if all_events else ("completed",),
        without=[random.choice(["Timestamp", "CallDuration"])] if random.random() < INCOMPLETE else [],
    )
    if outgoing or call.status != "completed" or seconds < 60 or random.random() >= PASSED_ON:
        return 1
    wait = random.randint(10, seconds // 2)
    talk = random.randint(1, seconds - wait)
    twilio.place_call(
        number, at + timedelta(seconds=wait), talk, child_of=call.sid, other=f"+447700900{random.randrange(1000):03d}"
    )
    return 2
