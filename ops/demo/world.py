"""The businesses of the demo: who they are, what they pay for, when their periods end, how much is talked.

The arithmetic of periods and minutes here is the demo's own, and imports no rule of the pipeline: a wrong rounding or
a wrong bound must not be right on both sides.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

#: When the simulated month begins: New York leaves daylight saving time some hours later.
START = datetime(2026, 11, 1, tzinfo=UTC)

#: One business of each plan, and a second one to compare with.
FEWEST_BUSINESSES = 5

Bounds = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Plan:
    """What somebody has set up in Stripe for a plan; Free is not there."""

    name: str
    flat_cents: int
    included: int
    overage_cents: str | None
    """For each further minute, in cents; None: it is not billed."""
    shares: tuple[float, ...]
    """How much of the included minutes its businesses talk in 30 days, in turn."""
    numbers: int


PLANS = {
    "free": Plan("Free", 0, 50, None, (0.5, 1.7, 0.9, 1.2, 0.3), 1),
    "starter": Plan("Starter", 4_900, 500, "12", (0.6, 1.3, 0.85, 0.3, 1.1), 2),
    "professional": Plan("Professional", 14_900, 2_000, "9", (0.35, 1.1, 0.5), 3),
    "enterprise": Plan("Enterprise", 49_900, 10_000, "6.5", (0.1, 1.03, 0.15, 0.1), 5),
}

#: Which plan the next business has, over and over: mostly small ones.
_PLANS_IN_TURN = (
    "starter",
    "free",
    "professional",
    "enterprise",
    "free",
    "starter",
    "starter",
    "free",
    "professional",
    "starter",
)

_PLACES = (
    ("America/New_York", "Brooklyn"),
    ("Asia/Kolkata", "Pune"),
    ("Europe/London", "Camden"),
    ("Australia/Sydney", "Bondi"),
    ("America/Los_Angeles", "Oakland"),
    ("Europe/Berlin", "Kreuzberg"),
    ("Asia/Tokyo", "Shibuya"),
    ("America/Sao_Paulo", "Santos"),
    ("America/Chicago", "Pilsen"),
    ("Pacific/Auckland", "Ponsonby"),
)

_TRADES = (
    "Dental",
    "Plumbing",
    "Bakery",
    "Legal",
    "Bikes",
    "Clinic",
    "Movers",
    "Flowers",
    "Garage",
    "Books",
    "Roofing",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One simulated business. ``anchor``: when its subscription began, and so when its periods end; None on Free."""

    name: str
    plan: str
    time_zone: str
    numbers: tuple[str, ...]
    minutes: float
    """Of talk in 30 days, about."""
    anchor: datetime | None

    def periods(self, until: datetime) -> Iterator[Bounds]:
        """Its billing periods from the one that holds START on, those that begin before ``until``."""
        months = 0
        while True:
            bounds = self._boundary(months), self._boundary(months + 1)
            if bounds[0] >= until:
                return
            if bounds[1] > START:
                yield bounds
            months += 1

    def _boundary(self, months: int) -> datetime:
        """The boundary so many months after the first one: the anchor, or the local midnight that began October."""
        first = self.anchor or datetime(START.year, 10, 1, tzinfo=ZoneInfo(self.time_zone))
        year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
        day = min(first.day, calendar.monthrange(year, month + 1)[1])
        return first.replace(year=year, month=month + 1, day=day).astimezone(UTC)


def minutes_of(seconds: int) -> int:
    """Billable minutes of a completed call, as the plans say it: every minute that was begun."""
    return seconds // 60 + (seconds % 60 > 0)


def cast(businesses: int, days: int, seed: int) -> list[Member]:
    """The businesses, the same for the same arguments.

    Each paying one has a period that ends in the first ``days`` (30 of them at most), at an odd second. Those that
    talk more than their plan includes end last, so that a whole month counts.
    """
    random = Random(f"{seed}:businesses")
    so_far: dict[str, int] = {}
    paying = {False: 0, True: 0}
    names: set[str] = set()
    members = []
    for index in range(businesses):
        code = _PLANS_IN_TURN[index % len(_PLANS_IN_TURN)]
        plan = PLANS[code]
        turn = so_far[code] = so_far.get(code, -1) + 1
        time_zone, place = _PLACES[(turn + list(PLANS).index(code)) % len(_PLACES)]
        share = plan.shares[turn % len(plan.shares)]
        anchor = None
        if plan.overage_cents is not None:
            anchor = _anchor(paying[share > 1], days, seed, last=share > 1)
            paying[share > 1] += 1
        members.append(
            Member(
                name=_name(place, index, names),
                plan=code,
                time_zone=time_zone,
                numbers=tuple(f"+1555{index:05d}{n:02d}" for n in range(1 + turn % plan.numbers)),
                minutes=plan.included * share * random.uniform(0.95, 1.05),
                anchor=anchor,
            )
        )
    return members


def _name(place: str, index: int, names: set[str]) -> str:
    """A name that none of ``names`` is, and is one of them from now on."""
    trades = [_TRADES[(index + n) % len(_TRADES)] for n in range(len(_TRADES))]
    free = [f"{place} {trade}" for trade in trades if f"{place} {trade}" not in names]
    name = free[0] if free else f"{place} {trades[0]} {index}"
    names.add(name)
    return name


def _anchor(paying: int, days: int, seed: int, *, last: bool) -> datetime:
    """An instant of October whose next monthly boundary lies in the first ``days`` of November.

    Some share it, as those do that signed up on the same day.
    """
    group = paying // 2
    random = Random(f"{seed}:{group}:{last}")
    within = min(days, 30)
    day = within - 1 if last else group * 9 % within
    seconds = random.randrange(3 * 3600, 21 * 3600) // 2 * 2 + 1
    boundary = START + timedelta(days=day, seconds=seconds)
    on_the_31st = boundary.day == 30 and group % 2 == 0
    return boundary.replace(month=10, day=31 if on_the_31st else boundary.day)
