"""The outbox of pushes and of changes: claim due rows with a lease, send them outside any transaction, settle each.

A row whose worker died is sent again when its lease has ended; the lease outlives any call (20 s). Rows are sent
concurrently, and more slowly while Stripe answers 429. Which rows, and what they say, is the caller's.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine

from pipeline.providers.stripe_api import AccountFault, Limited, Refused, ServerError, Unreachable
from pipeline.shared import drifts, restores
from pipeline.shared.drifts import DriftKind

LEASE_SECONDS = 120
#: After these no call is begun; the last one may take its 20 s and still end before the task's soft limit.
SECONDS = 25.0
THREADS = 8
LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 2.0
#: When rows that were refused for the account's fault are tried again.
ACCOUNT_WAIT_SECONDS = 30.0

#: What the drift is about while the account or the key refuses everything.
ACCOUNT_SUBJECT = "account:stripe"

Row = TypeVar("Row")


class AnswerKind(Enum):
    """What an attempt came to."""

    DONE = "done"
    REFUSED = "refused"  # for good
    ACCOUNT = "account"  # not done, whatever was asked: the key or the account is at fault
    LIMITED = "limited"  # not done, and costs no attempt
    SERVER_ERROR = "server-error"  # perhaps done; stored under its idempotency key
    UNREACHABLE = "unreachable"  # perhaps done
    NOT_TRIED = "not-tried"  # the time was up


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """What became of one row, with Stripe's words."""

    kind: AnswerKind
    words: str


@dataclass(frozen=True, slots=True)
class Claimed(Generic[Row]):
    """Rows that are ours to send; ``more``: another claim may find some, now or when these are settled."""

    rows: Sequence[Row]
    more: bool


def backoff_seconds(attempts: int) -> float:
    """How long to wait after so many attempts: doubling up to a minute, with jitter."""
    return min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(attempts, 10)) * random.uniform(0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Retry:
    """When a row that is not done is sent again, and what its attempt has cost."""

    words: str
    """Stripe's; empty ones say nothing."""
    wait_seconds: float
    given_back: bool
    """It was not tried, and costs no attempt."""
    server_error: bool
    """A 5xx, after which Stripe works on a new idempotency key only."""


def retry_of(answer: SendAnswer, attempts: int) -> Retry:
    """What follows from an answer that is neither done nor refused, for a row whose attempts count."""
    match answer.kind:
        case AnswerKind.SERVER_ERROR | AnswerKind.UNREACHABLE:
            server_error = answer.kind is AnswerKind.SERVER_ERROR
            return Retry(answer.words, backoff_seconds(attempts), given_back=False, server_error=server_error)
        case AnswerKind.LIMITED:
            wait = backoff_seconds(1)
        case AnswerKind.ACCOUNT:
            wait = ACCOUNT_WAIT_SECONDS
        case _:
            wait = 0.0
    return Retry(answer.words, wait, given_back=True, server_error=False)


class _Pace:
    """A pause before each call that grows with every 429 and shrinks with every other answer.

    Threads change it without a lock: a lost change costs a moment's patience.
    """

    def __init__(self) -> None:
        self._seconds = 0.0

    def wait(self) -> None:
        if self._seconds:
            time.sleep(self._seconds * random.uniform(0.5, 1.0))

    def learn(self, answer: SendAnswer) -> None:
        if answer.kind is AnswerKind.LIMITED:
            self._seconds = min(LONGEST_PAUSE_SECONDS, max(0.1, self._seconds * 2))
        else:
            self._seconds = self._seconds / 2 if self._seconds > 0.05 else 0.0


def send_due(
    engine: Engine,
    claim: Callable[[Connection], Claimed[Row]],
    attempt: Callable[[Row], str],
    settle: Callable[[Connection, Row, SendAnswer], None],
    now: datetime,
    *,
    seconds: float = SECONDS,
) -> Counter[str]:
    """Claim, send and settle until nothing is left or ``seconds`` (machine time) have passed; counts kinds of answer.

    ``claim`` takes due rows for LEASE_SECONDS, in a transaction that ends before anything is sent. ``attempt`` does
    the calls of one row, outside any transaction, and returns what to note, or raises one of the four StripeApiErrors.
    ``settle`` writes down what became of one row, in a transaction of its own; what it raises is raised here when the
    others of its batch are settled. An answer for the account's fault stops it, with one alarm; the next run tries
    again. From a database that is behind nothing is sent (``restores``).
    """
    until = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    faults: list[str] = []

    def settle_one(row: Row, answer: SendAnswer) -> None:
        with engine.begin() as connection:
            settle(connection, row, answer)
        counts[answer.kind.value] += 1
        if answer.kind is AnswerKind.ACCOUNT:
            faults.append(answer.words)

    while time.monotonic() < until and not faults:
        with engine.begin() as connection:
            if restores.is_behind(connection):
                break
            claimed = claim(connection)
        _send_all(claimed.rows, attempt, settle_one, until=until, stopped=faults)
        if not claimed.more:
            break
    if faults or counts[AnswerKind.DONE.value]:
        with engine.begin() as connection:
            if faults:
                report_account(connection, faults[0], now)
            else:
                drifts.resolve(connection, DriftKind.ACCOUNT_REFUSED, ACCOUNT_SUBJECT, now)
    return counts


def report_account(connection: Connection, words: str, now: datetime) -> None:
    """Say that nothing can be sent, for a fault of the key or of the account; it ends when something is taken."""
    drifts.report(
        connection,
        DriftKind.ACCOUNT_REFUSED,
        ACCOUNT_SUBJECT,
        expected="Stripe takes what is sent with our key",
        actual=words,
        now=now,
    )


def _send_all(
    rows: Sequence[Row],
    attempt: Callable[[Row], str],
    settle: Callable[[Row, SendAnswer], None],
    *,
    until: float,
    stopped: Sequence[str],
) -> None:
    """Attempt every row in a few threads and settle each answer at once; rows past ``until`` are not tried.

    Nor those after ``stopped`` has something in it. What ``settle`` raises is raised here when all the others are done.
    ``until`` is of time.monotonic().
    """
    pace = _Pace()

    def one(row: Row) -> None:
        pace.wait()
        if stopped or time.monotonic() > until:
            settle(row, SendAnswer(AnswerKind.NOT_TRIED, ""))
            return
        answer = _answer(attempt, row)
        pace.learn(answer)
        settle(row, answer)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="send") as pool:
        sent = [pool.submit(one, row) for row in rows]
    for each in sent:
        each.result()


def _answer(attempt: Callable[[Row], str], row: Row) -> SendAnswer:
    try:
        return SendAnswer(AnswerKind.DONE, attempt(row))
    except AccountFault as fault:
        return SendAnswer(AnswerKind.ACCOUNT, str(fault))
    except Refused as refused:
        return SendAnswer(AnswerKind.REFUSED, str(refused))
    except Limited as limited:
        return SendAnswer(AnswerKind.LIMITED, limited.words)
    except ServerError as error:
        return SendAnswer(AnswerKind.SERVER_ERROR, error.words)
    except Unreachable as error:
        return SendAnswer(AnswerKind.UNREACHABLE, error.words)
