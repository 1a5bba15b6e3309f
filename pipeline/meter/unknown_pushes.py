"""Pushes of which nobody knows whether Stripe counts them: its summary of their minute decides, and no second send.

Two kinds: ``unknown``, without an answer until the identifier's window ended; and sent ones in doubt, since Stripe
reported more invalid events of their time than it named (``meter_errors``). A summary can be read by whole minutes
only, so what it says of one push depends on all others of the customer with that minute. It is right only eventually:
nothing is asked before the settling time has passed since the last attempt. What it can't decide is a drift, for a
person.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from sqlalchemy import Connection, Engine

from pipeline.meter import error_reports, push_states
from pipeline.meter.push_sending import mark_sent
from pipeline.meter.push_states import PUSH_COLUMNS, Push, PushState, PushVerdict, push_of
from pipeline.providers.stripe_api import StripeApi, StripeApiError
from pipeline.providers.stripe_words import ACTIVE_METER
from pipeline.shared import drifts, restores
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind

#: Minutes that one run asks about at most, and seconds after which it asks about no more.
LIMIT = 500
SECONDS = 25.0
#: What could not be decided is asked about again after so long.
AGAIN = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
#: More pushes in doubt in one minute than this are not worth trying all their sums.
MOST_IN_DOUBT = 12

# Each kind by its partial index.
_DUE = """
select p.business_id, p.stripe_customer_id, p.event_name, p.timestamp
from (
  select * from meter_pushes where state in ('planned', 'sending', 'unknown') and state = 'unknown'
  union all
  select * from meter_pushes where doubt is not null and state = 'sent'
) p
where coalesce(p.last_sent_at, p.settled_at, p.due_at) < clock_timestamp() - %(settling)s::interval
  and (p.looked_at is null or p.looked_at < clock_timestamp() - %(again)s::interval)
  and (%(business_id)s::bigint is null or p.business_id = %(business_id)s)
group by 1, 2, 3, 4
order by min(p.looked_at) nulls first, 4
limit %(limit)s
"""

_OF_MINUTE = f"""
select {PUSH_COLUMNS}, p.doubt, p.first_sent_at is not null as attempted,
       coalesce(p.last_sent_at, p.settled_at, p.due_at) < clock_timestamp() - %(settling)s::interval as settled
from meter_pushes p
where p.business_id = %(business_id)s and p.stripe_customer_id = %(customer)s and p.timestamp = %(timestamp)s
order by p.id
"""  # noqa: S608 - names of columns

_LOOKED = """
update meter_pushes set looked_at = clock_timestamp()
where business_id = %(business_id)s and stripe_customer_id = %(customer)s and timestamp = %(timestamp)s
  and (state = 'unknown' or doubt is not null)
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Minute:
    """One customer's minute whose sum is to be asked."""

    business_id: int
    customer: str
    event_name: str
    timestamp: datetime


@dataclass(frozen=True, slots=True)
class HeldPush:
    """A push of such a minute, with what is known of it by now."""

    push: Push
    doubt: str | None
    attempted: bool
    settled: bool

    @property
    def certain(self) -> bool:
        """Whether Stripe has it for sure."""
        return self.push.state is PushState.SENT and self.doubt is None

    @property
    def asked(self) -> bool:
        """Whether it is one that the sum is to decide."""
        return self.push.state is PushState.UNKNOWN or (self.push.state is PushState.SENT and self.doubt is not None)

    @property
    def underway(self) -> bool:
        """Whether Stripe may get it at any moment, or has got it already."""
        return self.attempted and self.push.state in {PushState.PLANNED, PushState.SENDING}

    @property
    def possible(self) -> bool:
        """Whether Stripe may have it: also a void one that was sent, which the invoice came too early for."""
        return self.asked or (self.push.state is PushState.VOID and self.attempted)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the sum of its minute says of a push; no ``verdict`` where it fits neither, or both."""

    held: HeldPush
    verdict: PushVerdict | None
    summed: Decimal
    others: int


def minutes_due(
    connection: Connection, settling: timedelta, business_id: int | None = None, again: timedelta = AGAIN
) -> list[Minute]:
    """The minutes to ask about, the longest waiting first."""
    about = {"settling": settling, "again": again, "business_id": business_id, "limit": LIMIT}
    return [Minute(*row) for row in connection.exec_driver_sql(_DUE, about)]


def pushes_of(connection: Connection, minute: Minute, settling: timedelta) -> list[HeldPush]:
    """All pushes of the customer with that minute."""
    rows = connection.exec_driver_sql(_OF_MINUTE, {**_about(minute), "settling": settling})
    return [HeldPush(push_of(row), row.doubt, row.attempted, row.settled) for row in rows]


def all_settled(pushes: Sequence[HeldPush]) -> bool:
    """Whether the sum of their minute can be right by now about each of these."""
    return not any(held.underway or ((held.attempted or held.asked) and not held.settled) for held in pushes)


def verdicts_of(pushes: Sequence[HeldPush], summed: Decimal) -> list[Verdict]:
    """What a minute's sum says of each push in question; nothing while one of them has not settled."""
    if not all_settled(pushes):
        return []
    certain = sum(held.push.minutes for held in pushes if held.certain)
    answers = []
    for held in pushes:
        if held.asked:
            others = [other.push.minutes for other in pushes if other.possible and other is not held]
            verdict = _verdict(summed - certain, held.push.minutes, others)
            answers.append(Verdict(held, verdict, summed, certain))
    return answers


def _verdict(rest: Decimal, minutes: int, others: Sequence[int]) -> PushVerdict | None:
    """Whether ``rest`` needs these minutes, whichever of the others are in it."""
    if len(others) > MOST_IN_DOUBT:
        return None
    sums = sums_of(others)
    holds, lacks = rest - minutes in sums, rest in sums
    if holds == lacks:
        return None
    return PushVerdict.SENT if holds else PushVerdict.VOID


def sums_of(minutes: Sequence[int]) -> set[int]:
    """What some of these, or all, or none add up to."""
    sums = {0}
    for each in minutes:
        sums |= {sum_ + each for sum_ in sums}
    return sums


def sum_of(api: StripeApi, meters: dict[str, str], minute: Minute) -> Decimal:
    """Stripe's sum of the minute. Raises StripeApiError, and LookupError where no meter has the event's name."""
    return summed_by_stripe(
        api, meters[minute.event_name], minute.customer, minute.timestamp, minute.timestamp + MINUTE
    )


def summed_by_stripe(api: StripeApi, meter: str, customer: str, start: datetime, end: datetime) -> Decimal:
    """Stripe's sum of a customer's minutes in ``[start, end)``. Raises StripeApiError."""
    rows = api.event_summaries(meter, customer=customer, start=start, end=end)
    return sum((Decimal(str(row["aggregated_value"])) for row in rows), Decimal(0))


def meters_by_event_name(api: StripeApi) -> dict[str, str]:
    """The ids of the meters, an active one before one that is not. Raises StripeApiError."""
    listed = sorted(api.meters(), key=lambda meter: bool(meter["status"] == ACTIVE_METER))
    return {meter["event_name"]: meter["id"] for meter in listed}


def verify_due(engine: Engine, api: StripeApi, now: datetime, settling: timedelta) -> Counter[str]:
    """Let Stripe's sums decide what is due; counts pushes that are ``sent``, ``void`` or ``unclear``.

    ``failed`` counts minutes that could not be asked about. ``settling`` is of machine time. Asks outside any
    transaction; each minute is applied in one of its own.
    """
    until = time.monotonic() + SECONDS
    counts: Counter[str] = Counter()
    with engine.connect() as connection:
        minutes = minutes_due(connection, settling)
    if not minutes:
        return counts
    try:
        meters = meters_by_event_name(api)
    except StripeApiError as error:
        log.warning("verifying-failed", error=str(error), next="the next run tries it again")
        return Counter(failed=1)
    for minute in minutes:
        if time.monotonic() > until:
            break
        with engine.connect() as connection:
            before = pushes_of(connection, minute, settling)
        try:
            summed = sum_of(api, meters, minute)
        except (StripeApiError, LookupError) as error:
            log.warning("verifying-failed", business_id=minute.business_id, error=str(error), next="the next run")
            counts["failed"] += 1
            continue
        with engine.begin() as connection:
            counts += apply_verdicts(connection, minute, before, summed, now, settling)
    return counts


def apply_verdicts(
    connection: Connection,
    minute: Minute,
    before: Sequence[HeldPush],
    summed: Decimal,
    now: datetime,
    settling: timedelta,
) -> Counter[str]:
    """Write what the sum says, unless the minute's pushes are not those any more that stood ``before`` it was asked.

    Nor in a database that is behind (``restores``): Stripe sums up what was sent after its backup, too.
    """
    counts: Counter[str] = Counter()
    if restores.is_behind(connection):
        return counts
    lock_businesses(connection, [minute.business_id])
    if pushes_of(connection, minute, settling) != list(before):
        return counts
    for answer in verdicts_of(before, summed):
        _write(connection, answer, now)
        counts["unclear" if answer.verdict is None else answer.verdict.value] += 1
    connection.exec_driver_sql(_LOOKED, _about(minute))
    return counts


def _write(connection: Connection, answer: Verdict, now: datetime) -> None:
    push, doubt = answer.held.push, answer.held.doubt
    words = f"Stripe's sum of its minute is {answer.summed}, {answer.others} without it"
    if answer.verdict is None:
        drifts.report(
            connection,
            DriftKind.UNKNOWN_PUSH,
            push.subject,
            business_id=push.business_id,
            expected=f"to know whether Stripe has these {push.minutes} minutes",
            actual=f"{words}: that fits neither way, or both",
            evidence={"push_id": push.id, "summed": str(answer.summed), "others": answer.others, "doubt": doubt},
            now=now,
        )
        return
    log.info(
        "push-verified", push=push.identifier, business_id=push.business_id, verdict=answer.verdict.value, answer=words
    )
    push_states.clear_doubt(connection, push.id)
    if push.state is PushState.UNKNOWN and answer.verdict is PushVerdict.SENT:
        mark_sent(connection, push, words, now)
    elif push.state is PushState.UNKNOWN:
        push_states.set_not_counted(connection, push.id, "not in Stripe's sum of its minute: planned anew")
    elif answer.verdict is PushVerdict.VOID:
        error_reports.fail_push(connection, push.identifier, f"reported invalid by {doubt}: {words}", now)
    drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, push.subject, now)
    if doubt is not None:
        error_reports.resolve_verified(connection, doubt, now)


def _about(minute: Minute) -> dict[str, object]:
    return {"business_id": minute.business_id, "customer": minute.customer, "timestamp": minute.timestamp}
