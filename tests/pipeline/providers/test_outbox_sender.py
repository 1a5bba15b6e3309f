"""The outbox of pushes and of changes: claimed, sent outside any transaction, settled one by one, in time."""

import time
from collections.abc import Callable, Iterable

import pytest
from sqlalchemy import Connection, Engine

from pipeline.providers import outbox_sender
from pipeline.providers.outbox_sender import AnswerKind, Claimed, SendAnswer, send_due
from pipeline.providers.stripe_api import Limited, Refused, ServerError, Unreachable
from tests.worlds.ledger import NOON
from tests.worlds.superuser import run_as_superuser


def run(rows: Iterable[int], attempt: Callable[[int], str], until: float | None = None) -> dict[int, SendAnswer]:
    answers: dict[int, SendAnswer] = {}
    outbox_sender._send_all(list(rows), attempt, answers.__setitem__, until=until or time.monotonic() + 60, stopped=[])
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
        outbox_sender._send_all(range(20), lambda _: "accepted", settle, until=time.monotonic() + 60, stopped=[])
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


# Claim, send, settle


class Outbox:
    """Rows of a table with a lease, in a real database, as both outboxes have them."""

    def __init__(self, engine: Engine, rows: int, batch: int = 100) -> None:
        self.engine, self.batch = engine, batch
        self.seen_while_sending: list[list[str]] = []
        run_as_superuser(
            engine,
            "create table letters (id int primary key, state text not null default 'planned')",
            "grant all on letters to public",
        )
        self.run("insert into letters select generate_series(1, %s)", rows)

    def run(self, sql: str, *parameters: object) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql(sql, parameters or None)

    def states(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql("select state from letters order by id").scalars())

    def claim(self, connection: Connection) -> Claimed[int]:
        taken = connection.exec_driver_sql(
            "update letters set state = 'sending' where id in"
            " (select id from letters where state = 'planned' order by id limit %s for update) returning id",
            (self.batch,),
        )
        rows = sorted(taken.scalars())
        return Claimed(rows, more=len(rows) == self.batch)

    def attempt(self, row: int) -> str:
        self.seen_while_sending.append(self.states())
        if row == 2:
            raise Unreachable("no connection")
        return f"accepted {row}"

    def settle(self, connection: Connection, row: int, answer: SendAnswer) -> None:
        about = (f"{answer.kind.value}: {answer.words}", row)
        connection.exec_driver_sql("update letters set state = %s where id = %s and state = 'sending'", about)

    def send(self, seconds: float = 60) -> dict[str, int]:
        return dict(send_due(self.engine, self.claim, self.attempt, self.settle, NOON, seconds=seconds))


def test_what_is_claimed_is_sent_outside_any_transaction_and_settled(engine):
    outbox = Outbox(engine, rows=3)
    assert outbox.send() == {"done": 2, "unreachable": 1}
    assert outbox.states() == ["done: accepted 1", "unreachable: no connection", "done: accepted 3"]
    assert all("planned" not in states for states in outbox.seen_while_sending), "claims are committed before"


def test_batches_are_claimed_until_a_claim_says_that_there_is_no_more(engine):
    outbox = Outbox(engine, rows=7, batch=3)
    assert outbox.send() == {"done": 6, "unreachable": 1}
    once = send_due(engine, lambda _: Claimed([1], more=False), lambda _: "", lambda *_: None, NOON)
    assert once == {"done": 1}, "and not again"


def test_a_claim_without_rows_may_be_followed_by_one_with_rows(engine):
    claims: list[Claimed[int]] = [Claimed([], more=True), Claimed([5], more=False)]
    sent: list[int] = []

    def attempt(row: int) -> str:
        sent.append(row)
        return ""

    send_due(engine, lambda _: claims.pop(0), attempt, lambda *_: None, NOON)
    assert sent == [5]


def test_nothing_is_claimed_when_the_time_is_up(engine):
    outbox = Outbox(engine, rows=1)
    assert outbox.send(seconds=0) == {}
    assert outbox.states() == ["planned"]


def test_each_row_is_settled_in_a_transaction_of_its_own(engine):
    outbox = Outbox(engine, rows=4)
    settle = outbox.settle

    def failing(connection: Connection, row: int, answer: SendAnswer) -> None:
        settle(connection, row, answer)
        if row == 3:
            raise RuntimeError("the database is away")

    outbox.settle = failing  # type: ignore[method-assign]  # what fails
    with pytest.raises(RuntimeError, match="the database is away"):
        outbox.send()
    assert outbox.states() == ["done: accepted 1", "unreachable: no connection", "sending", "done: accepted 4"]
