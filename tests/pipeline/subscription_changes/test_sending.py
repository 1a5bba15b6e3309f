"""What both outboxes share: answers are settled one by one, in time, and more slowly while Stripe says 429."""

import time
from collections.abc import Callable, Iterable

import pytest

from pipeline.providers import outbox_sender
from pipeline.providers.outbox_sender import AnswerKind, SendAnswer, send_all
from pipeline.providers.stripe_api import Limited, Refused, ServerError, Unreachable


def run(rows: Iterable[int], attempt: Callable[[int], str], until: float | None = None) -> dict[int, SendAnswer]:
    answers: dict[int, SendAnswer] = {}
    send_all(list(rows), attempt, answers.__setitem__, until=until or time.monotonic() + 60)
    return answers


def test_every_kind_of_answer_has_its_words():
    errors = {
        1: Refused(403, None, "not yours"),
        2: Limited("slower"),
        3: ServerError("sorry"),
        4: Unreachable("no connection"),
    }

    def attempt(row: int) -> str:
        if row in errors:
            raise errors[row]
        return "accepted"

    assert run(range(5), attempt) == {
        0: SendAnswer(AnswerKind.DONE, "accepted"),
        1: SendAnswer(AnswerKind.REFUSED, "403: not yours"),
        2: SendAnswer(AnswerKind.LIMITED, "slower"),
        3: SendAnswer(AnswerKind.SERVER_ERROR, "sorry"),
        4: SendAnswer(AnswerKind.UNREACHABLE, "no connection"),
    }


def test_no_call_begins_when_the_time_is_up():
    def attempt(row: int) -> str:
        raise AssertionError(f"row {row} was tried")

    answers = run([1, 2], attempt, until=time.monotonic() - 1)
    assert {answer.kind for answer in answers.values()} == {AnswerKind.NOT_TRIED}


def test_a_row_that_can_not_be_settled_is_told_and_keeps_no_other_from_it():
    settled: list[int] = []

    def settle(row: int, _: SendAnswer) -> None:
        if row == 0:
            raise RuntimeError("the database is away")
        settled.append(row)

    with pytest.raises(RuntimeError, match="the database is away"):
        send_all(range(20), lambda _: "accepted", settle, until=time.monotonic() + 60)
    assert sorted(settled) == list(range(1, 20))


def test_429s_slow_the_rest_of_the_batch_down_and_other_answers_speed_it_up(monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    pace = outbox_sender._Pace()
    for kind in (AnswerKind.DONE, *[AnswerKind.LIMITED] * 10, *[AnswerKind.DONE] * 10):
        pace.wait()
        pace.learn(SendAnswer(kind, ""))
    # The first wait comes after the first 429: nine growing ones, the last of ten, then shrinking to none.
    assert 0.05 <= slept[0] <= 0.1
    assert 0.9 <= max(slept) <= outbox_sender.LONGEST_PAUSE_SECONDS
    assert 10 <= len(slept) <= 17
    assert slept[-1] < 0.1


@pytest.mark.parametrize(("attempts", "longest"), [(1, 2), (3, 8), (6, 60), (1000, 60)])
def test_waits_double_up_to_a_minute_with_jitter(attempts, longest):
    waits = {outbox_sender.backoff_seconds(attempts) for _ in range(50)}
    assert max(waits) <= longest
    assert min(waits) >= longest / 2
    assert len(waits) > 1
