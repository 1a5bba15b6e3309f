"""Changes of a subscription and the money: what Stripe bills is what was talked, whenever the change is made."""

import random
from datetime import datetime, timedelta

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works, billed, made

PERIOD_END = START.replace(month=12)
#: Each hour of a period's first and last day.
HOURS = [START + timedelta(hours=hour, minutes=17) for hour in range(24)]
HOURS += [PERIOD_END - timedelta(hours=24 - hour, minutes=-17) for hour in range(24)]
#: What the quick run looks at: the first and last of both.
SOME = {0, 23, 24, 47}


@pytest.fixture
def works(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        it = Works(engine, stripe, tmp_path / "our-clock")
        it.at(START)
        life = Life(stripe, it.business_id, random.Random(1))
        life.step("subscribe")
        it.follow(life)
        yield it, life


def call(life: Life, ended: datetime, seconds: int) -> None:
    life.calls.append(Call(f"CA{len(life.calls):032x}", ended, seconds))


def go_to(works: Works, life: Life, instant: datetime) -> None:
    life.stripe.run(life.stripe.timeline.advance(instant))
    works.follow(life)


hours = pytest.mark.parametrize(
    "at",
    [
        pytest.param(at, marks=() if index in SOME else pytest.mark.soak, id=f"{at:%d %b %H:%M}")
        for index, at in enumerate(HOURS)
    ],
)


@hours
@pytest.mark.parametrize("kind", ["cancel-now", "upgrade", "downgrade"])
def test_what_is_billed_is_what_was_talked(works, kind, at):
    works, life = works
    go_to(works, life, START + timedelta(minutes=5))
    if kind == "downgrade":
        works.change("upgrade", "professional")
        works.follow(life)
        begun = life.now
    else:
        begun = START
    for minutes, seconds in ((11, 61), (2, 600)):
        go_to(works, life, max(life.now, at - timedelta(minutes=minutes)))
        call(life, life.now, seconds)
        works.follow(life)
    go_to(works, life, at)
    call(life, at - timedelta(seconds=1), 90)  # its callback comes with the change
    works.follow(life)
    works.change(kind, {"upgrade": "professional", "downgrade": "starter"}.get(kind))
    works.follow(life)
    for later in (timedelta(minutes=30), timedelta(hours=3), timedelta(days=3), timedelta(days=33)):
        go_to(works, life, at + later)
        call(life, life.now - timedelta(minutes=1), 130)
        works.follow(life)
    go_to(works, life, life.now + timedelta(hours=2))

    works.assert_every_call_is_in_one_record(life.calls)
    if kind == "cancel-now":
        assert works.rows("select code from businesses b join subscription_plans p on p.id = b.plan_id") == [("free",)]
        assert billed(life) == made(life.calls, begun, at)
        assert sum(row[-1] for row in works.records()) == made(life.calls, begun, life.now)
    else:
        assert billed(life) == made(life.calls, START, life.now)
        plan = "professional" if kind == "upgrade" else "starter"
        assert works.rows("select code from businesses b join subscription_plans p on p.id = b.plan_id") == [(plan,)]
    assert works.drifts() == []
    assert works.rows("select distinct state from subscription_changes") == [("done",)]
    assert works.rows("select distinct state from meter_pushes") == [("sent",)]


def test_a_price_that_is_swapped_without_proration_gives_a_drift_that_names_what_was_lost(works):
    works, life = works
    go_to(works, life, START + timedelta(days=3))
    call(life, life.now - timedelta(seconds=10), 45 * 60)
    works.follow(life)
    life.step("swap-for-nothing")
    works.follow(life)
    call(life, life.now + timedelta(minutes=1), 300)
    go_to(works, life, life.now + timedelta(hours=1))
    assert [row[:2] for row in works.records()] == [
        (START, START + timedelta(days=3)),
        (START + timedelta(days=3), PERIOD_END),
    ]
    go_to(works, life, PERIOD_END + timedelta(hours=2))
    assert works.drifts() == ["lost-usage"]
    assert works.rows("select expected from drifts") == [
        (f"45 minutes (0.00 USD) billed for {START.isoformat()} to {(START + timedelta(days=3)).isoformat()}",)
    ]
    assert works.rows("select kind, minutes from usage_adjustments") == [("unbillable", 45)]
    assert billed(life) == 5


def test_a_price_that_is_swapped_with_proration_loses_nothing(works):
    works, life = works
    go_to(works, life, START + timedelta(days=3))
    call(life, life.now - timedelta(seconds=10), 45 * 60)
    works.follow(life)
    life.step("swap")
    works.follow(life)
    call(life, life.now - timedelta(seconds=5), 7 * 60)  # too late for what Stripe has counted: carried
    go_to(works, life, life.now + timedelta(hours=1))
    go_to(works, life, PERIOD_END + timedelta(hours=2))
    go_to(works, life, PERIOD_END + timedelta(days=2))
    assert works.drifts() == []
    assert works.rows("select kind, minutes from usage_adjustments") == [("carried", 7)]
    assert billed(life) == 52


@breaks(
    "pipeline/stripe_mirror/subscriptions.py",
    "        records.record_for(connection, business_id, stored.counts_since, now)",
    "        pass",
)
def test_70_a_call_of_before_the_swap_has_the_price_of_then_although_nobody_had_talked(works):
    works, life = works
    go_to(works, life, START + timedelta(days=3))
    ((before,),) = works.rows("select metered_price_id from subscriptions")
    assert works.records() == []
    life.step("swap")
    works.follow(life)
    call(life, life.now + timedelta(minutes=1), 300)
    go_to(works, life, life.now + timedelta(minutes=30))
    call(life, START + timedelta(days=2), 420)  # told only now
    works.follow(life)
    ((after,),) = works.rows("select metered_price_id from subscriptions")
    assert before != after
    assert works.rows("select period_end, price_id from usage_records order by period_start") == [
        (START + timedelta(days=3), before),
        (PERIOD_END, after),
    ]
    assert works.rows(
        "select a.minutes, r.price_id from usage_adjustments a join usage_records r on r.id = a.origin_record_id"
    ) == [(7, before)]


def test_a_trials_minutes_are_not_billed_later(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        prices = [{"price": price} for price in life.prices["starter"].values()]
        stripe.client.v1.subscriptions.create({"customer": life.customer, "items": prices, "trial_period_days": 14})
        works.follow(life)
        go_to(works, life, START + timedelta(days=7))
        call(life, life.now, 20 * 60)
        works.follow(life)
        go_to(works, life, START + timedelta(days=14, hours=2))
        go_to(works, life, START + timedelta(days=20))
        call(life, life.now, 3 * 60)
        works.follow(life)
        assert works.rows("select kind, minutes from usage_adjustments") == [("written-off", 20)]
        assert billed(life) == 3
        assert works.drifts() == []
