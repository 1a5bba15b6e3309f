"""What both outboxes share: sending claimed rows concurrently, slowing down when Stripe asks, and trying again.

A row is claimed with a lease, so that one whose worker died is sent again; the lease outlives any call (20 s).
"""

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from pipeline.providers.stripe_api import Limited, Refused, ServerError, Unreachable

LEASE_SECONDS = 120
#: After these no call is begun; the last one may take its 20 s and still end before the task's soft limit.
SECONDS = 25.0
THREADS = 8
LONGEST_BACKOFF_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 2.0

Row = TypeVar("Row")


class AnswerKind(Enum):
    """What an attempt came to."""

    DONE = "done"
    REFUSED = "refused"  # for good
    LIMITED = "limited"  # not done, and costs no attempt
    SERVER_ERROR = "server-error"  # perhaps done; stored under its idempotency key
    UNREACHABLE = "unreachable"  # perhaps done
    NOT_TRIED = "not-tried"  # the time was up


@dataclass(frozen=True, slots=True)
class SendAnswer:
    """What became of one row, with Stripe's words."""

    kind: AnswerKind
    words: str


def backoff_seconds(attempts: int) -> float:
    """How long to wait after so many attempts: doubling up to a minute, with jitter."""
    return min(LONGEST_BACKOFF_SECONDS, 2.0 ** min(attempts, 10)) * random.uniform(0.5, 1.0)


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


def send_all(
    rows: Sequence[Row], attempt: Callable[[Row], str], settle: Callable[[Row, SendAnswer], None], *, until: float
) -> None:
    """Attempt every row in a few threads and settle each answer at once; rows past ``until`` are not tried.

    ``attempt`` does the calls and returns what to note, or raises one of the four StripeApiErrors. ``settle``
    commits; what it raises is raised here when all the others are done. ``until`` is of time.monotonic().
    """
    pace = _Pace()

    def one(row: Row) -> None:
        pace.wait()
        if time.monotonic() > until:
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
    except Refused as refused:
        return SendAnswer(AnswerKind.REFUSED, str(refused))
    except Limited as limited:
        return SendAnswer(AnswerKind.LIMITED, limited.words)
    except ServerError as error:
        return SendAnswer(AnswerKind.SERVER_ERROR, error.words)
    except Unreachable as error:
        return SendAnswer(AnswerKind.UNREACHABLE, error.words)
