"""The businesses of the demo: who they are, what they pay for, when their periods end, how much is talked.

The arithmetic of periods and minutes here is the demo's own, and imports no rule of the pipeline: a wrong rounding or
a wrong bound must not be right on both sides.
"""

import calendar
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
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


class Kind(StrEnum):
    """What is not usual about a subscription."""

    SMS = "text messages"
    """On a meter of their own, beside the minutes."""
    ADD_ON = "a number more"
    YEARLY = "fee by the year"
    EURO = "in euros"
    CLASSIC = "classic billing"
    LEAVES = "leaves"
    """In Stripe's portal, when its period ends."""
    RETURNS = "leaves, returns"
    COUPON = "20 % off"


#: Of all lines of the invoices of a business with a coupon.
PERCENT_OFF = 20

#: So many months' fees are paid for a year at once.
MONTHS_OF_A_YEAR = 10

#: These talk more than their plan includes, so that it costs something.
_TALKATIVE = frozenset({Kind.EURO, Kind.CLASSIC, Kind.COUPON})

#: How long a business that returns was away.
_AWAY = timedelta(days=2, hours=5)

#: So many paying businesses are as usual before the first one is not.
_USUAL = 3

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
    kind: Kind | None = None

    @property
    def currency(self) -> str:
        return "eur" if self.kind is Kind.EURO else "usd"

    @property
    def left(self) -> datetime | None:
        """When its first subscription ends, if it does: with the first period that ends in November."""
        if self.anchor is None or self.kind not in {Kind.LEAVES, Kind.RETURNS}:
            return None
        return next(end for _, end in _periods(self.anchor) if end > START)

    @property
    def back(self) -> datetime | None:
        """When its second subscription begins, if one does."""
        return self.left + _AWAY if self.left is not None and self.kind is Kind.RETURNS else None

    def pays(self, bounds: Bounds) -> bool:
        """Whether a subscription bills this period."""
        away = self.left is not None and bounds[0] >= self.left and (self.back is None or bounds[0] < self.back)
        return self.anchor is not None and not away

    def cost(self, minutes: int) -> int:
        """What so many minutes of one period cost by its plan's price, in cents of its currency; of Free nothing."""
        plan = PLANS[self.plan]
        overage = max(0, minutes - plan.included) * Decimal(plan.overage_cents or 0)
        return int(overage.quantize(Decimal(1), ROUND_HALF_UP))

    def fees(self, until: datetime) -> int:
        """What its plan's fee comes to, in cents of its currency: in advance for each period that begins before then.

        A year is paid at once.
        """
        flat = PLANS[self.plan].flat_cents
        if self.anchor is None:
            return 0
        if self.kind is Kind.YEARLY:
            return MONTHS_OF_A_YEAR * flat
        ends = until if self.left is None else min(self.left, until)
        begun = list(_periods(self.anchor, ends))
        if self.back is not None:
            begun += _periods(self.back, until)
        return len(begun) * flat

    def periods(self, until: datetime) -> Iterator[Bounds]:
        """Its billing periods from the one that holds START on, those that begin before ``until``."""
        for bounds in self._all_periods():
            if bounds[0] >= until:
                return
            if bounds[1] > START:
                yield bounds

    def _all_periods(self) -> Iterator[Bounds]:
        """By the subscription where one bills; by the months of the business's calendar where none does."""
        midnight = datetime(START.year, 10, 1, tzinfo=ZoneInfo(self.time_zone))
        if self.anchor is None:
            yield from _periods(midnight)
            return
        yield from _periods(self.anchor, self.left)
        if self.left is None:
            return
        for start, end in _periods(midnight, self.back):
            if end > self.left:
                yield max(start, self.left), end if self.back is None else min(end, self.back)
        if self.back is not None:
            yield from _periods(self.back)


def _periods(first: datetime, until: datetime | None = None) -> Iterator[Bounds]:
    """The periods of a month from ``first`` on, in UTC, those that begin before ``until``."""

    def boundary(months: int) -> datetime:
        year, month = divmod(first.year * 12 + first.month - 1 + months, 12)
        day = min(first.day, calendar.monthrange(year, month + 1)[1])
        return first.replace(year=year, month=month + 1, day=day).astimezone(UTC)

    months = 0
    while until is None or boundary(months) < until:
        yield boundary(months), boundary(months + 1)
        months += 1


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
        anchor = kind = None
        if plan.overage_cents is not None:
            kind = dict(enumerate(Kind, start=_USUAL)).get(sum(paying.values()))
            if kind in _TALKATIVE:
                share = max(share, 1.35)
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
                kind=kind,
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
