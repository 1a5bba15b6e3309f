"""Sending, against the stand-in for Stripe over HTTP: whatever it answers, its sums are the minutes, to the unit."""

import pytest

from pipeline.meter import push_sending
from pipeline.providers.outbox_sender import AnswerKind, SendAnswer
from pipeline.providers.stripe_api import Refused
from tests.worlds.breaking import breaks
from tests.worlds.ledger import NOON, Ledger
from tests.worlds.stripe_customers import Customers, RecordingApi


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


@pytest.mark.parametrize(
    "faults",
    [
        [],
        ["lose_answer"],
        ["lose_answer", "lose_answer", "500", "429", "lose_answer"],
        ["500"],
        ["500_done"],
        ["500", "500_done", "lose_answer"],
        ["429"],
        ["429", "429", "down", "500"],
        ["down"],
        ["slow:0.2"],
    ],
    ids="+".join,
)
def test_whatever_stripe_answers_its_summary_and_its_invoice_are_the_minutes(world, faults):
    record_id = world.paying(503)
    world.fail(*faults)
    world.ledger.plan()
    world.send_until_quiet()
    push = world.ledger.the_push()
    assert push.state == "sent"
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 503
    assert world.summed(record_id) == 503
    assert world.invoiced(record_id) == 503
    assert world.ledger.drifts() == []


def test_the_same_event_again_under_a_new_key_only_after_a_5xx(world):
    world.paying(7)
    world.fail("lose_answer", "down", "500", "429", "500_done")
    world.ledger.plan()
    name = world.ledger.the_push().identifier
    world.ledger.run("update usage_records set minutes = 9")
    world.send_until_quiet()
    assert world.api.keys[:3] == [name, name, name]
    # The lost answer is replayed under the first key: the push is known to be sent at the second attempt.
    assert world.ledger.the_push().state == "sent"
    bodies = {tuple(sorted((k, v) for k, v in body.items() if k != "idempotency_key")) for body in world.api.asked}
    assert len(bodies) == 1, "frozen, whatever was counted meanwhile"


def test_keys_after_5xx(world):
    world.paying(7)
    world.fail("500", "429", "500_done", "down")
    world.ledger.plan()
    name = world.ledger.the_push().identifier
    world.send_until_quiet()
    assert world.api.keys == [name, f"{name}:2", f"{name}:2", f"{name}:3", f"{name}:3"]
    assert world.ledger.the_push().state == "sent"
    assert world.ledger.the_push().answer.startswith("An event already exists")


def test_a_429_costs_no_attempt_and_was_never_sent(world):
    world.paying(7)
    world.fail("429")
    world.ledger.plan()
    assert world.send() == {"limited": 1}
    push = world.ledger.the_push()
    assert (push.state, push.attempts, push.first_sent_at) == ("planned", 0, None)
    assert push.due_at > push.created_at
    world.send_until_quiet()
    assert world.ledger.the_push().attempts == 1


def test_a_429_after_a_lost_answer_forgets_neither_the_attempt_nor_its_time(world):
    world.paying(7)
    world.fail("down", "429")
    world.ledger.plan()
    world.send()
    first = world.ledger.the_push()
    world.ledger.make_due()
    world.send()
    second = world.ledger.the_push()
    assert (second.state, second.attempts, second.first_sent_at) == ("planned", 1, first.first_sent_at)


@breaks(
    "pipeline/meter/push_sending.py",
    "            identifier=push.identifier,",
    '            identifier=f"{push.identifier}-{push.attempts}",',
)
def test_a_worker_killed_between_call_and_commit(world):
    record_id = world.paying(12)
    world.ledger.plan()
    with world.ledger.engine.begin() as connection:
        (push,) = push_sending.claim_pushes(connection, NOON)
    push_sending._attempt(world.api, push)  # and then it died
    assert world.send() == {}, "leased"
    world.ledger.make_due()
    assert world.send() == {"done": 1}
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 12
    assert world.summed(record_id) == 12


def test_a_worker_that_lost_its_lease_can_tell_success_and_nothing_else(world):
    record_id = world.paying(12)
    world.ledger.plan()

    def claim():
        with world.ledger.engine.begin() as connection:
            (push,) = push_sending.claim_pushes(connection, NOON)
        world.ledger.make_due()
        return push

    late, present = claim(), claim()
    with world.ledger.engine.begin() as connection:
        refused = SendAnswer(AnswerKind.REFUSED, "no")
        push_sending._settle(connection, late, refused, NOON)
    assert world.ledger.the_push().state == "sending"
    done = SendAnswer(AnswerKind.DONE, "accepted")
    for push in (late, present):
        with world.ledger.engine.begin() as connection:
            push_sending._settle(connection, push, done, NOON)
    assert world.ledger.the_push().state == "sent"
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 12, "once"


def test_refused_for_good_is_shown_in_stripes_words_and_blocks_nothing_else(world):
    refused, other = world.paying(5), world.paying(6)
    world.it.control("/stripe/rules", synchronous_checks=True)
    world.ledger.plan()
    lost = world.customer(refused)
    world.it.client.v1.customers.delete(lost)
    assert world.send() == {"refused": 1, "done": 1}
    push = next(push for push in world.ledger.pushes() if push.usage_record_id == refused)
    assert push.state == "failed"
    assert lost in push.answer
    assert world.ledger.drifts() == ["push-refused"]
    assert world.summed(other) == 6
    world.ledger.make_due()
    assert world.send() == {}
    assert world.ledger.plan() == 0, "not before an operator releases it"


class Refusing(RecordingApi):
    """Stripe as it answers what it will never take."""

    def create_meter_event(self, **_):
        raise Refused(400, "invalid_request_error", "Invalid payload")


def test_a_push_that_was_never_sent_before_fails_by_a_refusal(world):
    world.paying(5)
    world.api = Refusing(world.it.url)
    world.ledger.plan()
    assert world.send() == {"refused": 1}
    assert world.ledger.the_push().state == "failed"
    assert "Invalid payload" in world.ledger.the_push().answer


def test_refused_after_a_lost_answer_is_unknown_since_stripe_may_have_it(world):
    world.paying(5)
    world.fail("lose_answer")
    world.ledger.plan()
    world.send()
    right, world.api = world.api, Refusing(world.it.url)
    world.ledger.make_due()
    assert world.send() == {"refused": 1}
    assert world.ledger.the_push().state == "unknown"
    assert world.ledger.drifts() == ["unknown-push"]
    world.api = right
    world.ledger.make_due()
    assert world.send() == {}, "never sent again"
    assert world.ledger.plan() == 0


def test_92_a_wrong_key_after_a_lost_answer_leaves_the_push_as_it_is(world):
    record_id = world.paying(5)
    world.fail("lose_answer")
    world.ledger.plan()
    world.send()
    right, world.api = world.api, RecordingApi(world.it.url, "sk_live_wrong")
    world.ledger.make_due()
    assert world.send() == {"account": 1}
    assert (world.ledger.the_push().state, world.ledger.the_push().attempts) == ("planned", 1)
    world.api = right
    world.send_until_quiet()
    assert (world.summed(record_id), world.ledger.drifts()) == (5, [])


def test_a_duplicate_that_is_not_of_an_identifier_is_a_refusal(world):
    class Other(RecordingApi):
        def create_meter_event(self, **_):
            raise Refused(400, None, "A meter exists already.")

    world.paying(5)
    world.api = Other(world.it.url)
    world.ledger.plan()
    assert world.send() == {"refused": 1}


# Many


def test_many_businesses_at_once_under_every_fault(world):
    records = [world.paying(minutes) for minutes in range(1, 17)]
    world.it.control("/faults", rate_429=0.2, rate_500=0.2, rate_lost_answer=0.2)
    for round_ in range(2):
        world.ledger.plan()
        for _ in range(40):
            world.ledger.make_due()
            world.send()
            if not world.ledger.rows("select 1 from meter_pushes where state <> 'sent'"):
                break
        world.ledger.run("update usage_records set minutes = minutes + %s", 10 * (1 - round_))
    world.it.control("/faults", rate_429=0, rate_500=0, rate_lost_answer=0)
    for minutes, record_id in enumerate(records, 11):
        assert world.summed(record_id) == minutes == world.ledger.row("usage_records", record_id).pushed_minutes
    assert world.ledger.drifts() == []


def test_what_there_was_no_time_for_is_given_back(world):
    for minutes in (1, 2, 3):
        world.paying(minutes)
    world.ledger.plan()
    with world.ledger.engine.begin() as connection:
        claimed = push_sending.claim_pushes(connection, NOON)
    assert len(claimed) == 3
    not_tried = SendAnswer(AnswerKind.NOT_TRIED, "")
    for push in claimed:
        with world.ledger.engine.begin() as connection:
            push_sending._settle(connection, push, not_tried, NOON)
    assert {(push.state, push.attempts, push.first_sent_at) for push in world.ledger.pushes()} == {("planned", 0, None)}
    assert world.send() == {"done": 3}


# 92: the account's fault, not the push's


def told(world):
    return [
        row.actual
        for row in world.ledger.rows(
            "select actual from drifts where kind = 'account-refused' and resolved_at is null order by id"
        )
    ]


@breaks(
    "pipeline/providers/outbox_sender.py",
    "return SendAnswer(AnswerKind.ACCOUNT, str(fault))",
    "return SendAnswer(AnswerKind.REFUSED, str(fault))",
)
def test_92_a_key_that_is_refused_stops_sending_and_costs_no_push_anything(world):
    records = [world.paying(7 + number) for number in range(30)]
    world.ledger.plan()
    good, world.api = world.api, RecordingApi(world.it.url, "sk_live_of_another_account")
    for _ in range(3):
        world.ledger.make_due()
        counts = world.send()
        assert 0 < counts.get("account", 0) <= 8, "those that were under way, and no other"
    assert [actual[:3] for actual in told(world)] == ["401"]
    assert {(push.state, push.attempts, push.first_sent_at) for push in world.ledger.pushes()} == {("planned", 0, None)}
    world.api = good
    world.send_until_quiet()
    assert {push.state for push in world.ledger.pushes()} == {"sent"}
    assert [world.summed(record) for record in records] == [7 + number for number in range(30)]
    assert world.ledger.drifts() == []


def test_92_so_does_a_meter_that_is_not_there(world):
    record_id = world.paying(7)
    world.ledger.plan()
    world.it.client.v1.billing.meters.deactivate(world.it.meter)
    assert world.send() == {"account": 1}
    (actual,) = told(world)
    assert "No active meter found for event name call_minutes" in actual
    world.it.client.v1.billing.meters.reactivate(world.it.meter)
    world.send_until_quiet()
    assert (world.summed(record_id), world.ledger.drifts()) == (7, [])


@pytest.mark.parametrize(
    ("column", "words"), [("active", "is not active"), ("sums_by_our_keys", "does not sum by our")]
)
def test_92_a_meter_that_would_lose_what_it_is_told_is_told_nothing(world, column, words):
    record_id = world.paying(7)
    world.ledger.plan()
    world.ledger.run("insert into stripe_meters values ('mtr_1', 'call_minutes', true, true, now())")
    world.ledger.run(f"update stripe_meters set {column} = false")
    for _ in range(3):
        assert world.send() == {}
    (actual,) = told(world)
    assert words in actual
    assert world.api.asked == []
    assert world.ledger.rows("select kind, object_id from refreshes where mark > fetched_mark") == [("meter", "mtr_1")]
    world.ledger.run(f"update stripe_meters set {column} = true")
    world.send_until_quiet()
    assert (world.summed(record_id), world.ledger.drifts()) == (7, [])
