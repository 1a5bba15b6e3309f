"""Stripe's sum of each record beside what it was sent."""

from datetime import timedelta

import pytest

from pipeline.meter import sum_comparison
from tests.worlds.ledger import NOON, PERIOD_END, Ledger
from tests.worlds.stripe_customers import Customers
from tests.worlds.superuser import run_as_superuser

NOW = timedelta(0)
HOUR = timedelta(hours=1)
LATER = NOON + timedelta(minutes=5)


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


def sending(world: Customers, minutes: int) -> int:
    record_id = world.paying(minutes)
    world.ledger.plan()
    world.send_until_quiet()
    return record_id


def compare(world: Customers, settling: timedelta = NOW, now=NOON) -> dict[str, int]:
    return dict(sum_comparison.compare_due_records(world.ledger.engine, world.api, now, settling))


def compare_again(world: Customers, settling: timedelta = NOW, now=NOON) -> dict[str, int]:
    world.ledger.run("update stripe_sums set compared_at = compared_at - interval '20 hours'")
    return compare(world, settling, now)


def test_what_stripe_sums_up_is_what_it_was_sent(world):
    record_id = sending(world, 5)
    world.paying(3)  # nothing was sent of it yet
    assert compare(world) == {"agree": 1}
    ((noted, sent, summed),) = world.ledger.rows("select usage_record_id, sent, summed from stripe_sums")
    assert (noted, sent, summed) == (record_id, 5, 5)
    assert world.ledger.drifts() == []
    assert compare(world) == {}, "not again today"


@pytest.mark.parametrize(("strange", "missing"), [("-2", "2"), ("4", "-4")])
def test_a_difference_is_a_drift_that_ends_with_it(world, strange, missing):
    record_id = sending(world, 5)
    customer = world.customer(record_id)
    world.it.report(customer, strange, "not-ours", at=NOON)
    assert compare(world) == {"differ": 1}
    ((kind, subject, evidence),) = world.ledger.rows("select kind, subject, evidence from drifts")
    assert (kind, subject, evidence["missing"]) == ("stripe-sum", f"record:{record_id}", f"{float(missing)}")
    world.it.report(customer, str(-int(strange)), "put-right", at=NOON)
    assert compare(world) == {}
    world.ledger.run("update stripe_sums set compared_at = compared_at - interval '1 hour'")
    assert compare(world) == {"agree": 1}
    assert world.ledger.drifts() == []


def test_minutes_that_have_not_settled_are_left_out(world):
    record_id = sending(world, 5)
    assert compare(world, HOUR) == {"agree": 1}, "none of it has settled, and nothing is missing"
    world.ledger.run("delete from stripe_sums")
    world.ledger.run(
        "update meter_pushes set last_sent_at = now() - interval '2 h', settled_at = now() - interval '2 h'"
    )
    world.ledger.run("update usage_records set minutes = 8")
    world.ledger.plan(LATER)
    world.it.advance(2026, 11, 20, 12, 5)
    world.send(LATER)
    world.it.sandbox.state.meter_events.clear()
    assert compare(world, HOUR) == {"differ": 1}
    ((sent, until),) = world.ledger.rows("select sent, until from stripe_sums")
    assert (sent, until) == (5, LATER.replace(second=0))
    assert record_id


@pytest.mark.parametrize("change", ["state = 'unknown'", "doubt = 'evt_1'"])
def test_what_nobody_knows_is_not_compared(world, change):
    sending(world, 5)
    world.it.sandbox.state.meter_events.clear()
    run_as_superuser(world.ledger.engine, "alter table meter_pushes disable trigger frozen")
    world.ledger.run(f"update meter_pushes set {change}")
    assert compare(world).get("differ", 0) == 0


def test_what_stripe_took_too_late_explains_a_larger_sum(world):
    record_id = sending(world, 5)
    customer = world.customer(record_id)
    world.ledger.push(
        record_id, 2, NOON.replace(second=0), stripe_customer_id=customer, state="void", first_sent_at="now"
    )
    world.it.report(customer, "2", "late", at=NOON)
    assert compare(world) == {"agree": 1}
    world.it.report(customer, "1", "strange", at=NOON)
    assert compare_again(world) == {"differ": 1}


def test_a_record_is_compared_until_its_invoice_is_sure_to_be_final(world):
    record_id = sending(world, 5)
    world.ledger.run("update usage_records set state = 'closed', closed_at = now() where id = %s", record_id)
    assert compare(world, now=PERIOD_END + timedelta(days=3)) == {"agree": 1}
    assert compare_again(world, now=PERIOD_END + timedelta(days=5)) == {}


def test_a_comparison_with_what_was_sent_meanwhile_is_not_written_down(world, engine):
    record_id = sending(world, 5)
    with engine.begin() as connection:
        (due,) = sum_comparison.records_due(connection, NOON)
        told = sum_comparison.sent_minutes(connection, due, NOW)
    assert told is not None
    world.ledger.sent(record_id, 3, NOON.replace(second=0))
    run_as_superuser(world.ledger.engine, "alter table meter_pushes disable trigger frozen")
    world.ledger.run("update meter_pushes set stripe_customer_id = %s", due.customer)
    comparison = sum_comparison.compare_record(world.api, {told.event_name: world.it.meter}, due, told)
    with engine.begin() as connection:
        assert not sum_comparison.note_comparison(connection, comparison, NOON, NOW)


@pytest.mark.parametrize("fault", ["429", "500", "down"])
def test_trouble_at_stripe_is_no_difference(world, fault):
    sending(world, 5)
    world.it.faults.script("GET /v1/billing/meters/*/event_summaries", [fault])
    assert compare(world) == {"failed": 1}
    assert compare(world) == {"agree": 1}
