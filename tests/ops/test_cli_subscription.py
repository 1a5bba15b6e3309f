"""`altiora subscription`: what it shows, what it plans, and what it only rehearses."""

import os
import random
from datetime import timedelta

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works


@pytest.fixture
def shop(engine, host, tmp_path, monkeypatch, environment):
    """A business on Starter that has used 510 minutes of its 500, two days into its period."""
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        life.step("subscribe")
        works.follow(life)
        stripe.run(stripe.timeline.advance(START + timedelta(days=2)))
        life.calls += [Call(f"CA{number:032x}", START + timedelta(days=1), 85 * 60) for number in range(6)]
        works.follow(life)
        use_environment(monkeypatch, environment)
        os.environ |= {
            "ALTIORA_STRIPE_API_BASE": stripe.url,
            "ALTIORA_STRIPE_API_KEY": "sk_test_cli",
            "ALTIORA_CLOCK": str(works.clock_file),
        }
        yield Altiora(), works, life


def test_an_upgrade_is_rehearsed_then_planned_then_shown(shop):
    altiora, works, life = shop
    said = altiora("subscription", "upgrade", "1", "professional", "--dry-run")
    assert said.startswith(f"upgrade of {life.subscription['id']}, nothing is sent:\n  POST /v1/subscriptions/sub_")
    assert '"billing_cycle_anchor": {"type": "now"}' in said
    assert "after Stripe has confirmed the last minutes of the present period" in said
    assert "The invoice that follows at once:" in said
    assert "10 x starter minutes (tier 2)" in said
    assert "1.20 USD" in said
    assert works.rows("select count(*) from subscription_changes where kind = 'upgrade'") == [(0,)]
    assert life.subscription["items"]["data"][0]["price"]["metadata"]["altiora_plan"] == "starter"

    said = altiora("subscription", "upgrade", "1", "professional")
    assert "A worker tells Stripe within seconds" in said
    works.follow(life)
    told = altiora.json("subscription", "show", "1")
    assert [(row["kind"], row["state"]) for row in told["changes"] if row["kind"] == "upgrade"] == [("upgrade", "done")]
    assert told["subscriptions"][0]["plan"] == "professional"
    assert "professional" in altiora("subscription", "show", "1")
    assert "in effect already" not in said


def test_48_an_upgrade_tells_what_it_renews_before_its_time(shop):
    altiora, works, life = shop
    yearly = life.stripe.price("Support", nickname="Support", unit_amount=120_000, recurring={"interval": "year"})
    monthly = life.stripe.price("Number", unit_amount=200)
    wanted = {"items": [{"price": yearly}, {"price": monthly}], "proration_behavior": "none"}
    life.stripe.client.v1.subscriptions.update(life.subscription["id"], wanted)
    works.follow(life)
    said = altiora("subscription", "upgrade", "1", "professional", "--dry-run")
    (told,) = [line for line in said.splitlines() if "before its time" in line]
    assert told == (
        "It also renews an add-on before its time: Support, 1,200.00 USD,"
        " less 1,193.42 USD for what is left of its period."
    )
    altiora("subscription", "upgrade", "1", "professional")
    works.follow(life)
    assert {item["price"]["id"] for item in life.subscription["items"]["data"]} > {yearly, monthly}
    assert works.drifts() == []


def test_57_an_end_inside_a_period_of_minutes_is_warned_of_and_bills_them(shop):
    altiora, works, life = shop
    weekly = life.stripe.price("Number", unit_amount=100, recurring={"interval": "week"})
    client = life.stripe.client.v1
    client.subscriptions.update(life.subscription["id"], {"items": [{"price": weekly}]})
    client.subscriptions.update(life.subscription["id"], {"cancel_at": "min_period_end"})
    works.follow(life)
    said = " ".join(altiora("subscription", "show", "1").split())
    assert "without a last invoice they are lost" in said.replace("│", "")
    life.stripe.advance(2026, 11, 20, 12, 0)
    works.follow(life)
    assert [row["quantity"] for row in life.stripe.sandbox.summary(life.customer)["periods"]] == [510]
    assert works.drifts() == []


def test_57_a_cancellation_in_the_portal_is_shown_and_undone(shop):
    altiora, works, life = shop
    life.step("cancel-in-portal")
    works.follow(life)
    told = altiora.json("subscription", "show", "1")["subscriptions"][0]
    assert (told["cancel_at_period_end"], told["cancel_at"]) == (False, told["period_end"])
    assert "ends 2026-12-" in altiora("subscription", "show", "1").replace("\n", " ")
    assert '"cancel_at": ""' in altiora("subscription", "resume", "1", "--dry-run")
    altiora("subscription", "resume", "1")
    works.follow(life)
    assert life.subscription["cancel_at"] is None
    assert altiora.json("subscription", "show", "1")["subscriptions"][0]["cancel_at"] is None


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["cancel", "1"], '{"cancel_at_period_end": true}'),
        (["cancel", "1", "--now"], "DELETE /v1/subscriptions/sub_"),
        (["pause", "1"], '{"pause_collection": {"behavior": "keep_as_draft"}}'),
    ],
)
def test_what_would_be_sent(shop, words, sent):
    altiora, works, _ = shop
    said = altiora("subscription", *words, "--dry-run")
    assert sent in said
    assert "to pay: " in said
    assert works.rows("select count(*) from subscription_changes where kind <> 'metadata'") == [(0,)]


def test_a_downgrade_is_a_schedule(shop):
    altiora, works, life = shop
    works.change("upgrade", "professional")
    works.follow(life)
    said = altiora("subscription", "downgrade", "1", "starter", "--dry-run")
    assert 'POST /v1/subscription_schedules {"from_subscription": "sub_' in said
    assert "POST /v1/subscription_schedules/the-new-schedule" in said
    altiora("subscription", "downgrade", "1", "starter")
    works.follow(life)
    assert life.subscription["schedule"]
    altiora("subscription", "resume", "1")
    works.follow(life)
    assert life.subscription["schedule"] is None
    assert "it is in effect already: no request" in altiora("subscription", "resume", "1", "--dry-run")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["upgrade", "1", "starter"], "the business is on starter already"),
        (["downgrade", "1", "professional"], "professional is dearer than its present plan: use the other command"),
        (["upgrade", "1", "gold"], "there is no plan gold"),
        (["downgrade", "1", "free"], "Free has no subscription: altiora subscription cancel"),
        (["upgrade", "1", "enterprise"], "no metered price of Stripe's stands for plan enterprise"),
        (["cancel", "99"], "there is no business 99"),
    ],
)
def test_what_can_not_be_is_told_in_a_sentence(shop, words, sentence):
    altiora, _, _ = shop
    assert sentence in altiora("subscription", *words, status=1)


@breaks(
    "pipeline/subscription_changes/change_requests.py",
    'return None if look.it.get("schedule") else details',
    "return details",
)
def test_59_a_cancellation_under_a_schedule_is_rehearsed_as_it_is_done(shop):
    altiora, works, life = shop
    altiora("subscription", "upgrade", "1", "professional")
    works.follow(life)
    altiora("subscription", "downgrade", "1", "starter")
    works.follow(life)
    schedule = life.subscription["schedule"]
    assert schedule is not None
    for command, then in (("cancel", '{"cancel_at_period_end": true}'), ("resume", '{"cancel_at_period_end": false}')):
        said = altiora("subscription", command, "1", "--dry-run")
        assert f"POST /v1/subscription_schedules/{schedule}/release {{}}" in said
        assert then in said
        assert "Stripe can't show beforehand what this comes to" in said
    altiora("subscription", "cancel", "1")
    works.follow(life)
    assert (life.subscription["schedule"], life.subscription["cancel_at_period_end"]) == (None, True)
    # Kept again, the next invoice has a fee; as it stands it has none.
    assert "starter monthly" not in altiora("subscription", "cancel", "1", "--dry-run")
    assert "professional monthly" in altiora("subscription", "resume", "1", "--dry-run")
