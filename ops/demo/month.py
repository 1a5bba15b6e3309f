"""How the simulated month passes: fast while nothing is due, and standing still where the pipeline needs time.

Only what real operation has drives the pipeline: webhooks, nudges and beat. When a time limit of the machine's has
passed, business time goes on whatever happened; what comes too late then must be carried, and the checks see it.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ops.demo.figures import CLOSED_BEFORE, FREE_GRACE, GRACE, News, totals, undone
from ops.demo.screen import Screen, View
from ops.demo.stage import Stage
from ops.demo.world import START, Member

#: Business time that passes at once where nothing is due.
SLICE = timedelta(hours=6)

#: Of the machine's time: for the pipeline to catch up at a stop, and to finish everything in the end.
STOP_SECONDS = 10.0
END_SECONDS = 120.0

#: Between two looks at the pipeline; between two updates of the screen, which cost more.
_LOOK_SECONDS = 0.04
_SHOW_SECONDS = 0.3

#: Webhooks that may still be on their way when the next slice begins: some are held back on purpose.
_ON_THEIR_WAY = 100

#: The last push of a period must be done before the pipeline closes it.
_LAST_PUSH = GRACE - CLOSED_BEFORE - timedelta(minutes=1)

#: From the month's end until every period that ended in it is final, in every time zone.
AFTERMATH = timedelta(hours=14) + FREE_GRACE

_OUTAGE_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Mishap:
    """Something to break when business time comes ``at`` it: broker, stripe or worker."""

    kind: str
    at: datetime


def mishaps(faults: str, members: Sequence[Member], end: datetime) -> list[Mishap]:
    """What is broken when, beside what the stand-ins do by themselves. Stripe is away when a period ends."""
    shares = {"none": [], "default": [0.45], "heavy": [0.25, 0.5, 0.75]}[faults]
    span = end - START
    planned = [Mishap("broker", START + span * share) for share in shares]
    ends = sorted(bounds[1] for member in members for bounds in member.periods(end) if member.pays(bounds))
    for share in shares:
        at = START + span * (share + 0.2)
        planned += [Mishap("stripe", next((end for end in ends if end >= at), at))]
    if faults == "heavy":
        planned += [Mishap("worker", START + span * share) for share in (0.35, 0.8)]
    return planned


def stops(members: Sequence[Member], end: datetime) -> list[datetime]:
    """The instants up to ``end`` at which the pipeline must be given time.

    Ends of periods that Stripe bills, and what must be done before and after their invoices are final. Free ones
    can wait for beat: nothing is too late for them.
    """
    ends = {bounds[1] for member in members for bounds in member.periods(end) if member.pays(bounds)}
    found = {period_end + wait for period_end in ends for wait in (timedelta(0), _LAST_PUSH, GRACE)}
    return sorted(instant for instant in found if START < instant <= end)


class Month:
    """The simulated month and its aftermath, until ``end``.

    ``broken`` is what goes wrong meanwhile, ``errands`` what else somebody does, at its instant.
    """

    def __init__(
        self,
        stage: Stage,
        screen: Screen,
        members: Sequence[Member],
        end: datetime,
        broken: Sequence[Mishap],
        errands: Sequence[tuple[datetime, Callable[[], None]]],
    ) -> None:
        self._stage = stage
        self._screen = screen
        self._end = end
        self._mishaps = sorted(broken, key=lambda mishap: mishap.at)
        self._errands = [(at, errand) for at, errand in errands if at <= end]
        self._stops = sorted({*stops(members, end), *(at for at, _ in self._errands)})
        self._news = News(stage.engine, START)
        self._now = START
        self._shown = 0.0
        self._rate = 0.0
        self._last: tuple[float, int] = (time.monotonic(), 0)
        self.mishaps: dict[str, int] = {}
        """What was broken on purpose, by kind, and how often."""
        self.messages_lost = 0
        """In the broker, when it was emptied."""

    def run(self) -> dict[str, int]:
        """Let it pass. Returns what the pipeline had not done in the end, within END_SECONDS; best nothing."""
        for instant, stop in self._instants():
            self._advance(instant, caught_up=stop)
        return self._catch_up(END_SECONDS, all_of_it=True)

    def _instants(self) -> Iterator[tuple[datetime, bool]]:
        """Where time goes next, and whether the pipeline must catch up there."""
        stops = iter([*self._stops, self._end])
        stop = next(stops)
        while self._now < self._end:
            if stop <= self._now:
                stop = next(stops)
                continue
            ahead = min(self._now + SLICE, stop)
            yield ahead, ahead == stop

    def _advance(self, to: datetime, *, caught_up: bool) -> None:
        due = [mishap for mishap in self._mishaps if mishap.at <= to]
        self._mishaps = [mishap for mishap in self._mishaps if mishap.at > to]
        for mishap in due:
            if mishap.kind == "stripe":
                self._break(mishap)
        self._stage.sandbox.advance(to)
        self._now = to
        for at, errand in self._errands:
            if at == to:
                errand()
        for mishap in due:
            if mishap.kind != "stripe":  # while the webhooks of this slice are on their way
                self._break(mishap)
        if caught_up:
            self._catch_up(STOP_SECONDS)
        else:
            self._breathe()

    def _break(self, mishap: Mishap) -> None:
        match mishap.kind:
            case "broker":
                lost = self._stage.empty_broker()
                self.messages_lost += lost
                words = f"the broker is emptied, and {lost} messages are gone"
            case "stripe":
                self._stage.sandbox.take_down_stripe(_OUTAGE_SECONDS)
                words = f"Stripe does not answer for {_OUTAGE_SECONDS:.0f} s, while a period ends"
            case _:
                self._stage.kill_worker_child()
                words = "one of the worker's two children is killed"
        self.mishaps[mishap.kind] = self.mishaps.get(mishap.kind, 0) + 1
        self._screen.mishap(mishap.at, words)

    def _breathe(self) -> None:
        """Wait until most webhooks of this slice have arrived: they are not to be late by business hours."""
        until = time.monotonic() + STOP_SECONDS
        while self._stage.sandbox.deliveries().pending > _ON_THEIR_WAY and time.monotonic() < until:
            self._show("webhooks on their way")
            time.sleep(_LOOK_SECONDS)
        self._show("")

    def _catch_up(self, seconds: float, *, all_of_it: bool = False) -> dict[str, int]:
        """Wait until the pipeline has done what is due, or ``seconds`` have passed; returns what it has not."""
        until = time.monotonic() + seconds
        while True:
            left = {"webhooks on their way": self._stage.sandbox.deliveries().pending}
            left = {what: count for what, count in left.items() if count}
            left |= undone(self._stage.engine, self._now, all_of_it=all_of_it)
            if not left or time.monotonic() > until:
                return left
            self._show(", ".join(left))
            time.sleep(_LOOK_SECONDS)

    def _show(self, waiting_for: str) -> None:
        """Bring the screen up to date, unless that was just done; see that everything still runs."""
        moment = time.monotonic()
        if moment - self._shown < _SHOW_SECONDS:
            return
        self._shown = moment
        self._stage.check()
        deliveries = self._stage.sandbox.deliveries()
        self._screen.news(self._now, self._news.read())
        self._screen.update(
            View(
                now=self._now,
                share=(self._now - START) / (self._end - START),
                totals=totals(self._stage.engine),
                webhooks=deliveries.count("delivered"),
                webhooks_per_second=self._webhooks_per_second(moment, deliveries.count("delivered")),
                lost=deliveries.count("dropped"),
                waiting_for=waiting_for,
            )
        )

    def _webhooks_per_second(self, moment: float, webhooks: int) -> float:
        """Of the machine's time, smoothed over a few seconds."""
        before, known = self._last
        self._last = (moment, webhooks)
        self._rate += ((webhooks - known) / (moment - before) - self._rate) * min(1.0, (moment - before) / 3)
        return self._rate
