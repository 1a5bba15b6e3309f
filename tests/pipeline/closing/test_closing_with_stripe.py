"""A period's last hour with the stand-in for Stripe and the real mirror: nobody tells us, everything is asked for."""

from datetime import UTC, datetime

import pytest

from pipeline.closing import period_close
from pipeline.shared.clock import Clock
from pipeline.stripe_mirror.fetching import StripeFetcher
from tests.worlds.ledger import Ledger
from tests.worlds.stripe_customers import Customers


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


@pytest.fixture
def clock(world, tmp_path):
    return Clock(tmp_path / "clock")


def work(world: Customers, clock: Clock) -> dict[str, int]:
    """One round of what beat has the workers do; no webhook ever comes."""
    counts = dict(period_close.close_due(world.ledger.engine, clock.now()))
    world.ledger.run("update refreshes set due_at = now() - interval '1 second'")
    StripeFetcher(world.ledger.engine, world.api, clock).run()
    world.ledger.plan(clock.now())
    world.ledger.make_due()
    world.send(clock.now())
    # Whoever asked a moment ago may ask again.
    world.ledger.run("update refreshes set marked_at = marked_at - interval '1 minute'")
    return counts


def talk(world: Customers, record_id: int, minutes: int) -> None:
    world.ledger.call(record_id, minutes)
    world.ledger.run(
        "update usage_records set minutes = minutes + %s, calls = calls + 1, seconds = seconds + %s where id = %s",
        minutes,
        minutes * 60,
        record_id,
    )


def linked(world: Customers, minutes: int) -> int:
    record_id = world.paying(0)
    talk(world, record_id, minutes)
    record = world.ledger.row("usage_records", record_id)
    world.ledger.run(
        "update businesses set stripe_customer_id = %s where id = %s", world.customer(record_id), record.business_id
    )
    return record_id


@pytest.mark.parametrize("faults", [[], ["lose_answer", "500"], ["500_done", "429"]], ids="+".join)
def test_the_last_push_goes_into_the_period_and_the_invoice_agrees(world, clock, faults):
    record_id = linked(world, 503)
    work(world, clock)
    world.it.advance(2026, 12, 5, 10, 24)
    assert work(world, clock)["closing"] == 1
    talk(world, record_id, 2)  # a late call
    world.fail(*faults)
    for _ in range(4):
        work(world, clock)
    last = world.ledger.pushes()[-1]
    assert (last.minutes, last.state, last.timestamp) == (2, "sent", datetime(2026, 12, 5, 10, 22, tzinfo=UTC))
    world.it.advance(2026, 12, 5, 11, 22)
    assert work(world, clock)["closed"] == 1
    world.it.advance(2026, 12, 5, 12, 0)
    work(world, clock)
    assert work(world, clock) == {"settled": 1}
    record = world.ledger.row("usage_records", record_id)
    assert record.invoiced_minutes == record.pushed_minutes == record.statement["pushed"] == 505
    assert world.summed(record_id) == 505
    assert world.ledger.rows("select * from usage_adjustments") == []
    assert world.ledger.drifts() == []


def test_what_did_not_reach_the_invoice_is_on_the_next_one(world, clock):
    record_id = linked(world, 503)
    work(world, clock)
    world.it.advance(2026, 12, 5, 10, 24)
    work(world, clock)
    talk(world, record_id, 2)
    world.it.faults.take_down("stripe", 3600)
    for _ in range(2):
        work(world, clock)
    world.it.advance(2026, 12, 5, 11, 24)
    world.it.faults.take_down("stripe", 0)
    for _ in range(4):
        work(world, clock)
    record = world.ledger.row("usage_records", record_id)
    assert (record.state, record.minutes, record.invoiced_minutes) == ("closed", 505, 503)
    ((carried,),) = world.ledger.rows("select minutes from usage_adjustments where kind = 'carried'")
    assert carried == 2
    for _ in range(3):
        work(world, clock)
    (following,) = world.ledger.rows("select * from usage_records where state = 'open'")
    assert (following.minutes, following.pushed_minutes, following.provisional) == (2, 2, False)
    assert {push.state for push in world.ledger.pushes()} == {"sent", "void"}
    assert world.ledger.drifts() == []
