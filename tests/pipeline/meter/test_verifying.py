"""Pushes of unknown outcome and pushes in doubt: Stripe's sum of their minute decides, in its time, or a person."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from pipeline.meter import error_reports, unknown_pushes
from pipeline.shared.business_locks import lock_businesses
from tests.worlds.ledger import MINUTE_OF_NOON, NOON, Ledger
from tests.worlds.stripe_customers import Customers

NOW = timedelta(0)
SETTLING = timedelta(hours=1)


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


def verify(world: Customers, settling: timedelta = NOW) -> dict[str, int]:
    return dict(unknown_pushes.verify_due(world.ledger.engine, world.api, NOON, settling))


def unknown(world: Customers, minutes: int, fault: str) -> int:
    """A record whose push met this fault and has had no answer for 23 hours."""
    record_id = world.paying(minutes)
    world.fail(fault)
    world.ledger.plan()
    world.send()
    world.ledger.run("update meter_pushes set first_sent_at = first_sent_at - interval '23 hours'")
    world.ledger.make_due()
    assert world.send() == {"unknown": 1}
    assert len(world.api.asked) == 1
    return record_id


def other(world: Customers, record_id: int, minutes: int, *, arrives: bool, **columns: Any) -> int:
    """One more push of the same customer and minute, which Stripe has or has not."""
    customer = world.customer(record_id)
    push_id = world.ledger.push(record_id, minutes, MINUTE_OF_NOON, stripe_customer_id=customer, **columns)
    if arrives:
        identifier = world.ledger.row("meter_pushes", push_id).identifier
        world.it.report(customer, str(minutes), identifier, at=MINUTE_OF_NOON)
    return push_id


def states(world: Customers) -> list[tuple[int, str]]:
    return [(push.minutes, push.state) for push in world.ledger.pushes()]


# Unknown


def test_41_what_stripe_sums_up_was_sent(world):
    record_id = unknown(world, 5, "lose_answer")
    assert world.ledger.drifts() == ["unknown-push"]
    assert verify(world) == {"sent": 1}
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 5
    assert world.ledger.drifts() == []
    assert verify(world) == {}, "once"


def test_41_what_stripe_does_not_sum_up_is_void_and_its_minutes_are_planned_anew(world):
    record_id = unknown(world, 5, "500")
    assert world.ledger.plan() == 0, "an unknown push holds up its business"
    assert verify(world) == {"void": 1}
    assert world.ledger.drifts() == []
    assert world.ledger.plan() == 1
    world.send_until_quiet()
    assert states(world) == [(5, "void"), (5, "sent")]
    assert world.summed(record_id) == 5


@pytest.mark.parametrize("fault", ["lose_answer", "500"])
def test_41_nothing_is_asked_before_the_settling_time_has_passed(world, fault):
    unknown(world, 5, fault)
    assert verify(world, SETTLING) == {}
    world.ledger.run("update meter_pushes set last_sent_at = now() - interval '59 minutes'")
    assert verify(world, SETTLING) == {}
    world.ledger.run("update meter_pushes set last_sent_at = now() - interval '61 minutes'")
    assert verify(world, SETTLING) == {"sent" if fault == "lose_answer" else "void": 1}


@pytest.mark.parametrize(("fault", "verdict"), [("lose_answer", "sent"), ("500", "void")])
def test_41_the_other_pushes_of_the_minute_are_taken_off_first(world, fault, verdict):
    record_id = unknown(world, 5, fault)
    other(world, record_id, 5, arrives=True, state="sent", first_sent_at="now", last_sent_at="now")
    other(world, record_id, 3, arrives=False, state="failed", attempts=1, first_sent_at="now", last_sent_at="now")
    other(world, record_id, 2, arrives=False, state="void")
    assert verify(world) == {verdict: 1}


def test_41_a_sum_that_fits_neither_way_is_for_a_person_and_asked_again_later(world):
    record_id = unknown(world, 5, "500")
    other(world, record_id, 7, arrives=False, state="sent", first_sent_at="now", last_sent_at="now")
    assert verify(world) == {"unclear": 1}
    assert states(world)[0] == (5, "unknown")
    ((kind, actual),) = world.ledger.rows("select kind, actual from drifts where resolved_at is null")
    assert (kind, actual) == (
        "unknown-push",
        "Stripe's sum of its minute is 0, 7 without it: that fits neither way, or both",
    )
    assert verify(world) == {}, "not at once"
    world.ledger.run("update meter_pushes set looked_at = looked_at - interval '1 hour'")
    customer = world.customer(record_id)
    world.it.report(customer, "7", "push-1", at=MINUTE_OF_NOON)
    assert verify(world) == {"void": 1}


def test_41_a_push_of_the_same_minute_that_came_too_late_may_be_in_the_sum(world):
    record_id = unknown(world, 5, "500")
    other(world, record_id, 5, arrives=True, state="void", first_sent_at="now", last_sent_at="now")
    assert verify(world) == {"unclear": 1}


def test_a_minute_whose_pushes_changed_meanwhile_is_left_alone(world, engine):
    record_id = unknown(world, 5, "lose_answer")
    with engine.begin() as connection:
        (minute,) = unknown_pushes.minutes_due(connection, NOW)
        before = unknown_pushes.pushes_of(connection, minute, NOW)
    other(world, record_id, 5, arrives=False, state="sent", first_sent_at="now", last_sent_at="now")
    with engine.begin() as connection:
        assert unknown_pushes.apply_verdicts(connection, minute, before, Decimal(5), NOON, NOW) == {}
    assert states(world)[0] == (5, "unknown")


@pytest.mark.parametrize("fault", ["429", "500", "down"])
def test_trouble_at_stripe_decides_nothing(world, fault):
    unknown(world, 5, "lose_answer")
    world.it.faults.script("GET /v1/billing/meters/*/event_summaries", [fault])
    assert verify(world) == {"failed": 1}
    assert states(world) == [(5, "unknown")]
    assert verify(world) == {"sent": 1}


# In doubt


def report(world: Customers, count: int, named: dict[str, str] | None = None, event_id: str = "evt_1") -> None:
    """Stripe's report that so many meter events of this minute are invalid."""
    errors = error_reports.MeterErrors(
        count, named or {}, MINUTE_OF_NOON.isoformat(), (MINUTE_OF_NOON + timedelta(seconds=30)).isoformat(), ""
    )
    with world.ledger.engine.begin() as connection:
        lock_businesses(connection, error_reports.businesses_of_report(connection, errors))
        error_reports.apply_error_report(connection, event_id, errors, NOON)


def told(world: Customers, minutes: int, *, arrives: bool = True) -> int:
    """A record whose minutes Stripe took, and counts or not."""
    record_id = world.paying(minutes)
    other(world, record_id, minutes, arrives=arrives, state="sent", first_sent_at="now", last_sent_at="now")
    world.ledger.run("update usage_records set pushed_minutes = %s where id = %s", minutes, record_id)
    return record_id


def test_42_every_push_of_a_reports_window_is_verified_and_the_sums_decide(world):
    counted, lost = told(world, 5), told(world, 7, arrives=False)
    later, earlier = told(world, 9), told(world, 8)
    world.ledger.run("update meter_pushes set created_at = %s where minutes = 9", NOON + timedelta(minutes=10))
    world.ledger.run("update meter_pushes set created_at = %s where minutes = 8", NOON - timedelta(hours=2))
    report(world, 2)
    assert [push.doubt for push in world.ledger.pushes()] == ["evt_1", "evt_1", None, None]
    assert world.ledger.drifts() == ["meter-errors"]
    assert verify(world) == {"sent": 1, "void": 1}
    assert [row.pushed_minutes for row in (world.ledger.row("usage_records", each) for each in (counted, lost))] == [
        5,
        0,
    ]
    assert [world.ledger.row("usage_records", each).pushed_minutes for each in (later, earlier)] == [9, 8]
    assert states(world) == [(5, "sent"), (7, "failed"), (9, "sent"), (8, "sent")]
    assert world.ledger.drifts() == ["push-refused"], "the report is dealt with"


def test_42_a_report_that_names_all_puts_none_in_doubt(world):
    told(world, 5)
    told(world, 7, arrives=False)
    report(world, 1, {"push-1": "no_meter: none"})
    assert [(push.state, push.doubt) for push in world.ledger.pushes()] == [("sent", None), ("failed", None)]


def test_42_two_in_doubt_in_one_minute_are_told_apart_by_their_sum(world):
    record_id = told(world, 5)
    other(world, record_id, 3, arrives=False, state="sent", first_sent_at="now", last_sent_at="now")
    report(world, 9)
    assert verify(world) == {"sent": 1, "void": 1}
    assert states(world) == [(5, "sent"), (3, "failed")]


def test_42_what_settles_late_stays_in_doubt(world):
    told(world, 5)
    report(world, 9)
    assert verify(world, SETTLING) == {}
    assert [push.doubt for push in world.ledger.pushes()] == ["evt_1"]
    assert world.ledger.drifts() == ["meter-errors"]


def test_42_a_push_that_is_sent_again_stays_in_doubt_until_it_is_verified(world):
    record_id = world.paying(5)
    world.fail("500")
    world.ledger.plan()
    world.send()
    world.ledger.run("update meter_pushes set created_at = %s", MINUTE_OF_NOON)
    report(world, 9)
    world.ledger.make_due()
    world.send()
    assert [(push.state, push.doubt) for push in world.ledger.pushes()] == [("sent", "evt_1")]
    assert verify(world) == {"sent": 1}
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 5
    assert world.ledger.drifts() == []


@pytest.mark.parametrize(
    ("rest", "minutes", "others", "verdict"),
    [
        (5, 5, [], "sent"),
        (0, 5, [], "void"),
        (4, 5, [], None),
        (5, 5, [5], None),
        (10, 5, [5], "sent"),
        (0, 5, [5], "void"),
        (3, 5, [3], "void"),
        (2, 5, [-3], "sent"),
        (5, 5, [1] * 13, None),
    ],
)
def test_a_sum_decides_where_it_fits_one_way_only(rest, minutes, others, verdict):
    assert unknown_pushes._verdict(Decimal(rest), minutes, others) == verdict
