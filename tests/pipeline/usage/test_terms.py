"""What a record was made with stays its own, whatever becomes of the plan (77)."""

from datetime import timedelta

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.stripe_objects import price, subscription
from tests.worlds.world import PERIOD_START, World, at


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def change_plan(world, **columns):
    with world.engine.begin() as connection:
        for name, value in columns.items():
            connection.exec_driver_sql(f"update subscription_plans set {name} = %s where code = 'starter'", (value,))


@breaks(
    "pipeline/usage/records.py",
    "subscription_id, increment_seconds, trial, currency,",
    "subscription_id, 60 as increment_seconds, trial, currency,",
)
def test_77_a_late_call_is_rounded_by_its_own_records_increment(world):
    world.callback("first", ended=at("4 Dec 10:00"), CallDuration=61)
    world.drain()
    change_plan(world, increment_seconds=600)
    world.now = at("5 Dec 10:30")
    world.callback("late", ended=at("5 Dec 10:23:44"), CallDuration=61)
    world.callback("new", ended=at("5 Dec 10:25"), CallDuration=61)
    world.drain()
    assert [(row.minutes, row.increment_seconds) for row in world.records(world.b)] == [(4, 60), (10, 600)]
    world.assert_sums()
    world.assert_rebuilt()


def test_77_what_is_done_with_late_minutes_is_the_records_own(world):
    world.callback("first", ended=at("4 Dec 10:00"), CallDuration=61)
    world.drain()
    change_plan(world, late_policy="write-off", late_limit_minutes=0)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update usage_records set state = 'closed', closed_at = now()")
    world.now = at("5 Dec 12:00")
    world.callback("late", ended=at("5 Dec 10:00"), CallDuration=61)
    world.drain()
    assert world.rows("select kind, minutes from usage_adjustments") == [("carried", 2)]
    world.assert_sums()


def test_77_a_call_that_a_renewal_moves_is_rounded_by_the_record_that_it_moves_to(world):
    """Told late, the period's end lies before calls that were counted in the old record."""
    with world.engine.begin() as connection:
        connection.exec_driver_sql("delete from subscriptions")
    world.stripe_event("evt_1", "customer.subscription.created", subscription(), at("20 Nov 10:00"))
    world.callback("first", ended=at("4 Dec 10:00"), CallDuration=61)
    world.drain()
    change_plan(world, increment_seconds=600)
    world.now = at("4 Dec 13:00")
    early = at("4 Dec 12:00")
    upgraded = subscription(
        prices=[price("price_pro", "professional")], start=early, end=early + timedelta(days=31),
        start_date=int(PERIOD_START.timestamp()),
    )  # fmt: skip
    world.callback("moved", ended=at("4 Dec 12:30"), CallDuration=61)
    world.drain()
    assert [row.minutes for row in world.records(world.b) if row.calls] == [4]
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscription_plans set increment_seconds = 180 where code = 'professional'")
    world.stripe_event("evt_2", "customer.subscription.updated", upgraded, at("4 Dec 12:00"))
    world.callback("after", ended=at("4 Dec 12:40"), CallDuration=61)
    world.drain()
    found = [(row.period_end, row.increment_seconds, row.minutes) for row in world.records(world.b) if row.calls]
    assert found == [(early, 60, 2), (early + timedelta(days=31), 180, 6)]
    world.assert_sums()
    world.assert_rebuilt()
