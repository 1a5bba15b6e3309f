"""Pushes whose period can't be billed any more, or whose identifier is no protection any more: never sent again."""

from datetime import timedelta

import pytest

from tests.worlds.ledger import NOON, PERIOD_END, Ledger
from tests.worlds.stripe_customers import Customers

AFTER = PERIOD_END + timedelta(minutes=10)


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


def test_never_sent_and_too_late_is_void(world):
    record_id = world.paying(5)
    world.ledger.plan()
    world.ledger.run("update usage_records set state = 'closing'")
    world.ledger.invoice(record_id, automatically_finalizes_at=AFTER + timedelta(minutes=1))
    assert world.send(AFTER) == {"void": 1}
    assert world.ledger.the_push().state == "void"
    assert world.summed(record_id) == 0


def test_in_time_it_is_sent_into_the_old_period(world):
    record_id = world.paying(5)
    world.ledger.plan()
    world.ledger.run("update usage_records set state = 'closing'")
    world.ledger.invoice(record_id)
    assert world.send(AFTER) == {"done": 1}
    assert world.summed(record_id) == 5


@pytest.mark.parametrize(
    "too_late",
    [
        "update usage_records set state = 'closed', closed_at = now()",
        "update usage_records set subscription_id = null",
        "update usage_records set period_end = '2026-11-20 11:00Z'",
    ],
)
def test_sent_without_an_answer_and_too_late_is_unknown(world, too_late):
    world.paying(5)
    world.fail("lose_answer")
    world.ledger.plan()
    world.send()
    world.ledger.run(too_late)
    world.ledger.make_due()
    assert world.send() == {"unknown": 1}
    assert world.ledger.drifts() == ["unknown-push"]
    assert len(world.api.asked) == 1


def test_after_23_hours_without_an_answer_it_is_never_sent_again(world):
    world.paying(5)
    world.fail("lose_answer")
    world.ledger.plan()
    world.send()
    world.ledger.run("update meter_pushes set first_sent_at = first_sent_at - interval '23 hours'")
    world.ledger.make_due()
    assert world.send() == {"unknown": 1}
    assert len(world.api.asked) == 1


def test_the_record_is_the_one_of_the_timestamp_after_a_cut(world):
    record_id = world.paying(5)
    world.ledger.plan()
    record = world.ledger.row("usage_records", record_id)
    cut = NOON - timedelta(hours=1)
    world.ledger.run("update usage_records set state = 'closed', closed_at = %s, period_end = %s", cut, cut)
    following = world.ledger.record(
        record.business_id, 5, subscription_id=record.subscription_id, period_start=cut, period_end=PERIOD_END
    )
    assert world.send() == {"done": 1}
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 0
    assert world.ledger.row("usage_records", following).pushed_minutes == 5
