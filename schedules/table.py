"""How often: the table that beat ticks by. Every task asks what is due, so a lost or double tick harms nothing."""

from dataclasses import dataclass
from typing import Any, Final

_MINUTE = 60.0
_DAY = 24 * 60 * _MINUTE

#: Beat itself wakes up no more often.
SHORTEST_SECONDS = 0.5
#: A poke that waited so long is useless: its successors are in the queue.
SHORTEST_EXPIRY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One periodic task: its interval, its queue, and how long its message is good for (None: for ever)."""

    task: str
    seconds: float
    queue: str
    expires: float | None
    reason: str


TABLE: Final = (
    Entry("events.sweep", 5, "events", 10, "what no nudge led to is processed within seconds"),
    Entry("stripe.refresh", 10, "stripe", 20, "a stale or provisional period holds up its pushes and its close"),
    Entry("stripe.plan-meter-pushes", _MINUTE, "stripe", 120, "few, larger deltas: one unsettled push per business"),
    Entry("stripe.send-meter-pushes", 10, "stripe", 20, "the last push of a period must reach Stripe within its grace"),
    Entry("stripe.send-subscription-changes", 10, "stripe", 20, "people wait for what they changed"),
    Entry("stripe.send-credits", _MINUTE, "stripe", 120, "what a person has given back is at Stripe within minutes"),
    Entry(
        "stripe.verify-meter-pushes",
        5 * _MINUTE,
        "stripe",
        600,
        "a push of unknown outcome holds up its whole business until Stripe's sum of its minute has settled",
    ),
    Entry(
        "stripe.compare-sums",
        10 * _MINUTE,
        "stripe",
        600,
        "each record about once a day, some at a time: what Stripe sums up is what it was sent, or a drift",
    ),
    Entry("twilio.fetch-calls", 10, "maintenance", 20, "a call of unknown duration is not counted before"),
    Entry(
        "twilio.list-calls",
        _MINUTE,
        "maintenance",
        600,
        "every 45 minutes of business time, which it sees to itself: Twilio never retries a callback that was lost",
    ),
    Entry(
        "twilio.list-numbers", 60 * _MINUTE, "maintenance", 3600, "a number that was bought can be had within the hour"
    ),
    Entry(
        "twilio.compare-days",
        60 * _MINUTE,
        "maintenance",
        3600,
        "each GMT day once by the business clock, when it is over, and those that differ until they agree",
    ),
    Entry(
        "periods.close-due",
        2 * _MINUTE,
        "usage",
        None,
        "a tick an hour could miss an hour of grace; a close that is late is still to be done, so it never expires",
    ),
    Entry(
        "stripe.recover-events",
        60 * _MINUTE,
        "stripe",
        3600,
        "Stripe gives up after three days; an endpoint that was misconfigured has events that nobody told us",
    ),
    Entry("stripe.sweep-subscriptions", _DAY, "stripe", _DAY, "nightly: the mirror is what Stripe says, or is fetched"),
    Entry("mail.send", 5, "maintenance", 10, "somebody waits for the link to sign in"),
    Entry("usage.settle-service", 5 * _MINUTE, "usage", 600, "days of grace pass without any event"),
    Entry("usage.resum", _DAY, "usage", _DAY, "nightly: every record is the sum of its calls, or a drift"),
    Entry("maintenance.prune", _DAY, "maintenance", _DAY, "raw events are kept 13 months, and not for ever"),
)


def beat_schedule(pace: float = 1.0) -> dict[str, dict[str, Any]]:
    """Celery's ``beat_schedule``. ``pace`` divides the intervals: a simulated month passes in a minute."""
    return {
        entry.task: {
            "task": entry.task,
            "schedule": max(SHORTEST_SECONDS, entry.seconds / pace),
            "options": {"queue": entry.queue}
            | ({} if entry.expires is None else {"expires": max(SHORTEST_EXPIRY_SECONDS, entry.expires / pace)}),
        }
        for entry in TABLE
    }
