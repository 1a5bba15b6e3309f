"""Paid plans that nothing bills: told at once, on Free's rules in the end, and settled by a last line (64)."""

import random
from datetime import timedelta

import pytest

from pipeline.businesses import registration
from pipeline.closing import period_close
from pipeline.usage import unbilled_plans
from tests.worlds.breaking import breaks
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works
from tests.worlds.world import World, at, sid_of


@pytest.fixture
def world(engine, tmp_path):
    """B is on Starter, and was never linked to a customer."""
    made = World(engine, tmp_path / "clock")
    with engine.begin() as connection:
        connection.exec_driver_sql("delete from subscriptions")
        connection.exec_driver_sql("update businesses set stripe_customer_id = null")
    yield made
    made.assert_sums()


def look(world):
    return dict(unbilled_plans.check_all_billing(world.engine, world.now))


def told(world):
    return world.rows(
        "select kind, subject, actual from drifts where resolved_at is null and kind = 'paid-plan-unbilled'"
    )


@breaks(
    "pipeline/usage/unbilled_plans.py",
    "(p.bills_overage or d.id is not null) and b.ended_at",
    "d.id is not null and b.ended_at",
)
def test_64_a_plan_that_nothing_bills_is_told_at_once_and_then_on_frees_rules(world):
    world.callback(CallDuration=600 * 60)
    world.drain()
    assert look(world) == {"unbilled": 1}
    ((_, subject, actual),) = told(world)
    assert subject == f"business:{world.b}"
    assert "600 minutes of the open period are billed to nobody; Free's rules hold from 2026-11-27T12:00" in actual
    assert world.rows("select plan_id, limited_until from businesses where id = %s", world.b) == [(2, None)]

    world.now = at("27 Nov 11:59")
    assert look(world) == {"unbilled": 1}, "it keeps plan and service for the plan's days of grace"
    world.now = at("27 Nov 12:00")
    assert look(world) == {"unbilled": 1, "limited": 1}
    assert world.rows("select plan_id, limited_until from businesses where id = %s", world.b) == [(1, at("1 Dec"))]
    assert world.record(world.b).included_minutes == 50
    assert world.rows("select rule, cause from service_transitions") == [("free-limit", "nothing bills its plan")]
    ((_, _, actual),) = told(world)
    assert actual.endswith("Free's rules hold"), "it stays in sight until somebody acts"
    assert look(world) == {"unbilled": 1}


def test_64_not_before_stripe_has_been_asked(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update businesses set stripe_customer_id = 'cus_B' where id = %s", (world.b,))
    look(world)
    assert world.wanted() == {"cus_B": "unbilled"}
    world.now = at("10 Dec 12:00")
    assert look(world) == {"unbilled": 1}
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update refreshes set fetched_mark = mark")
    assert look(world) == {"unbilled": 1, "limited": 1}


def test_64_a_subscription_ends_it(world):
    look(world)
    world.subscribe(world.b, "starter", at("5 Nov 10:00"), at("5 Dec 10:00"))
    look(world)
    assert told(world) == []


def test_64_who_is_invoiced_by_hand_keeps_plan_and_service_and_is_told_by_the_month(world):
    look(world)
    with world.engine.begin() as connection:
        registration.bill_elsewhere(connection, world.b, at("1 Mar"), "invoiced by Ann, 120 EUR", world.now)
        unbilled_plans.check_billing(connection, [world.b], world.now)
    assert told(world) == []
    world.callback(CallDuration=600 * 60)
    world.drain()
    world.now = at("4 Dec 12:00")
    look(world)
    period_close.close_due(world.engine, world.now)
    ((_, subject, actual),) = told(world)
    assert (subject, actual) == ("record:1", "to be invoiced by hand: invoiced by Ann, 120 EUR")
    assert world.rows("select evidence->'minutes', repair from drifts where subject = 'record:1'") == [
        (600, "write its invoice by hand, and resolve this")
    ]
    world.now = at("2 Mar 12:00")
    look(world)
    assert {subject for _, subject, _ in told(world)} == {"record:1", f"business:{world.b}"}


@pytest.mark.parametrize(("reason", "words"), [(" ", "write down why"), ("x" * 501, "write down why")])
def test_64_why_has_to_be_said(world, reason, words):
    with pytest.raises(registration.BusinessError, match=words), world.engine.begin() as connection:
        registration.bill_elsewhere(connection, world.b, at("1 Mar"), reason, world.now)


# With Stripe


@pytest.fixture
def works(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        made = Works(engine, stripe, tmp_path / "our-clock")
        made.at(START)
        life = Life(stripe, made.business_id, random.Random(1))
        life.step("subscribe")
        made.follow(life)
        yield made, life


def go(works, life, minutes=0, **time):
    """Let time pass; a call of so many minutes ends just then."""
    life.stripe.run(life.stripe.timeline.advance(life.now + timedelta(**time)))
    if minutes:
        life.calls.append(Call(sid_of(f"call {len(life.calls)}"), life.now - timedelta(seconds=1), minutes * 60))
    works.follow(life)


@pytest.mark.parametrize("how", ["always_invoice", "create_prorations", "none"])
def test_64_a_minutes_item_that_is_removed_cuts_its_record_and_its_last_line_settles_it(works, how):
    works, life = works
    go(works, life, 600, days=3)
    removed = life.now
    (metered,) = [each for each in life.subscription["items"]["data"] if each["price"]["recurring"]["meter"]]
    life._update(life.subscription, items=[{"id": metered["id"], "deleted": True}], proration_behavior=how)
    works.follow(life)
    assert works.drifts() == ["paid-plan-unbilled"]
    go(works, life, 5, hours=2)
    rows = works.rows(
        "select minutes, period_start, period_end, cut, subscription_id is not null, plan_id"
        " from usage_records order by 2"
    )
    assert rows[0][:2] == (600, START)
    assert rows[0][2] == removed
    assert rows[0][3:] == (True, True, 2)
    assert (rows[1][0], *rows[1][3:]) == (5, False, False, 2), "within the days of grace the plan goes on"
    go(works, life, days=29)
    go(works, life, hours=3)
    settled = works.rows("select invoiced_minutes from usage_records where cut")
    assert settled == [(0 if how == "none" else 600,)]
    assert ("lost-usage" in works.drifts()) == (how == "none")


def test_64_a_subscription_with_the_fee_only_has_no_minutes_on_any_invoice(works):
    works, life = works
    life.step("wait")
    works.follow(life)
    life.step("cancel-now")
    works.follow(life)
    flat = life.prices["starter"]["flat"]
    life.stripe.control("/stripe/subscriptions", customer=life.customer, prices=[flat])
    go(works, life, 40, hours=5)
    assert works.drifts() == ["paid-plan-unbilled"]
    for _ in range(8):
        go(works, life, days=1)
        unbilled_plans.check_all_billing(works.engine, life.now)
    assert works.rows("select code from subscription_plans p join businesses b on b.plan_id = p.id") == [("free",)]
