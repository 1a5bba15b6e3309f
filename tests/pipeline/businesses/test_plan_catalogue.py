"""Plans as data: what changing, adding and retiring one does, and what stays as it was."""

import pytest

from db.seed import PLANS, seed_plans
from pipeline.businesses import plan_catalogue, registration
from pipeline.businesses.plan_catalogue import PlanError, PlanFigures
from pipeline.subscription_changes import planning
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.subscription_changes.target_prices import ChangeError
from tests.worlds.world import NUMBER_OF_F, World, at

GOLD = PlanFigures("Gold", 9_900, 1_000, 5, 3, 60, 7, "carry", 3_000)


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def change(world, code, **figures):
    with world.engine.begin() as connection:
        plan_catalogue.set_plan(connection, code, PlanFigures(**figures))


def test_figures_hold_from_the_next_period(world):
    world.callback("one", To=NUMBER_OF_F, ended=at("20 Nov 10:00"), CallDuration=60)
    world.callback("two", ended=at("20 Nov 10:00"), CallDuration=61)
    world.drain()
    change(world, "free", included_minutes=70, increment_seconds=6)
    change(world, "starter", increment_seconds=30)
    world.callback("three", To=NUMBER_OF_F, ended=at("20 Nov 11:00"), CallDuration=61)
    world.callback("four", ended=at("20 Nov 11:00"), CallDuration=61)
    world.drain()
    assert (world.record(world.f).included_minutes, world.record(world.f).minutes) == (50, 3)
    assert world.record(world.b).increment_seconds == 60
    world.now = at("2 Dec 12:00")
    world.callback("five", To=NUMBER_OF_F, ended=at("2 Dec 11:00"), CallDuration=60)
    world.drain()
    assert [row.included_minutes for row in world.records(world.f)] == [50, 70]
    assert world.records(world.f)[1].increment_seconds == 6


def test_a_month_that_is_cut_keeps_the_minutes_that_it_began_with(world):
    """A business on Free subscribes in the middle of a month, and cancels: what is left is of the old figure."""
    world.callback("one", To=NUMBER_OF_F, ended=at("3 Nov 10:00"), CallDuration=20 * 60)
    world.drain()
    change(world, "free", included_minutes=90)
    start = at("10 Nov")
    subscription = world.subscribe(world.f, "starter", start, at("10 Dec"))
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "update subscriptions set ended_at = %s, status = 'canceled' where id = %s", (at("12 Nov"), subscription)
        )
    world.callback("two", To=NUMBER_OF_F, ended=at("15 Nov 10:00"), CallDuration=60)
    world.drain()
    free = [row for row in world.records(world.f) if row.subscription_id is None]
    assert free[-1].included_minutes <= 50


def test_seeding_adds_what_is_missing_and_changes_nothing_that_is_there(world):
    change(world, "starter", price_cents=5_900, payment_grace_days=14)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("delete from subscription_plans where code = 'enterprise'")
    seed_plans(world.engine)
    rows = world.rows("select code, price_cents, payment_grace_days from subscription_plans order by id")
    assert [tuple(row) for row in rows] == [
        ("free", 0, 7),
        ("starter", 5_900, 14),
        ("professional", 14_900, 7),
        ("enterprise", 49_900, 7),
    ]


def test_the_seed_names_every_column_of_a_plan(world):
    rows = world.rows("select column_name from information_schema.columns where table_name = 'subscription_plans'")
    columns = {name for (name,) in rows}
    assert columns - {"retired_at"} == set(PLANS[0])


def test_a_plan_is_added_and_the_prices_that_name_it_are_asked_for(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into stripe_prices (id, usage_type, active, snapshot_at)"
            " values ('price_gold', 'metered', true, now())"
        )
        plan_catalogue.add_plan(connection, "gold", GOLD)
        registration.add_business(
            connection, name="Bakery", plan="gold", time_zone="UTC", stripe_customer=None, now=world.now
        )
    assert world.wanted() == {"price_gold": "plan-added"}
    assert world.rows("select id, bills_overage from subscription_plans where code = 'gold'") == [(5, True)]


def test_a_retired_plan_is_kept_and_not_sold(world):
    with world.engine.begin() as connection:
        plan_catalogue.retire_plan(connection, "professional", world.now)
    with world.engine.begin() as connection, pytest.raises(ChangeError, match="plan professional is retired"):
        planning.intend(connection, world.b, ChangeKind.UPGRADE, "professional")
    with world.engine.begin() as connection, pytest.raises(registration.BusinessError, match="there is no plan prof"):
        registration.add_business(
            connection, name="Bakery", plan="professional", time_zone="UTC", stripe_customer=None, now=world.now
        )


@pytest.mark.parametrize(
    ("code", "figures", "words"),
    [
        ("Gold", GOLD, "no code of a plan"),
        ("starter", GOLD, "there is a plan starter already"),
        ("gold", PlanFigures("Gold"), "a new plan needs price_cents, included_minutes"),
    ],
)
def test_what_is_no_new_plan(world, code, figures, words):
    with world.engine.begin() as connection, pytest.raises(PlanError, match=words):
        plan_catalogue.add_plan(connection, code, figures)


@pytest.mark.parametrize(
    ("code", "figures", "words"),
    [
        ("gold", {"agents": 1}, "there is no plan gold"),
        ("starter", {}, "say which figure"),
        ("starter", {"included_minutes": -1}, "included_minutes is a whole number from 0 on"),
        ("starter", {"increment_seconds": 0}, "increment_seconds is from 1 to 3,600"),
        ("starter", {"late_policy": "forget"}, "late_policy is carry or write-off"),
        ("starter", {"name": "two\nlines"}, "without line breaks"),
        ("free", {"price_cents": 100}, "it has no price"),
    ],
)
def test_what_is_no_figure(world, code, figures, words):
    with pytest.raises(PlanError, match=words):
        change(world, code, **figures)


def test_free_is_for_ever(world):
    with world.engine.begin() as connection, pytest.raises(PlanError, match="Free can't be retired"):
        plan_catalogue.retire_plan(connection, "free", world.now)
