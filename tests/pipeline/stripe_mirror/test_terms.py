"""What else a subscription may have: thresholds, pauses that give minutes away, a start to come (52, 63, 79)."""

import random
from datetime import timedelta
from typing import Any

import pytest

from pipeline.closing import period_close
from tests.worlds.breaking import breaks
from tests.worlds.ledger import PERIOD_END, PERIOD_START, Ledger
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_objects import subscription
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works
from tests.worlds.world import World, at, sid_of


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def told(world, **fields):
    """The open differences, once Stripe has told of a subscription like this."""
    number = len(world.rows("select 1 from webhook_events"))
    it = subscription("sub_1", customer="cus_B", **fields)
    created = at("20 Nov 10:00") + timedelta(minutes=number)
    world.stripe_event(f"evt_{number}", "customer.subscription.updated", it, created)
    world.drain()
    rows = world.rows("select kind, actual from drifts where resolved_at is null order by id")
    return {row.kind: row.actual for row in rows}


@breaks("pipeline/stripe_mirror/effects.py", "if living and subscription.thresholds:", "if living is None:")
def test_52_thresholds_are_said_not_to_be_supported(world):
    assert "billing-thresholds" in told(world, billing_thresholds={"amount_gte": 5000})
    assert "billing-thresholds" not in told(world)


def test_52_what_a_threshold_billed_counts_and_nothing_is_carried_without_a_person(engine):
    ledger = Ledger(engine)
    record_id = ledger.paying(600, state="closing")
    following = ledger.following(record_id)
    ledger.sent(record_id, 600)
    ledger.invoice(record_id, id="in_t", status="paid", minutes=400, billing_reason="subscription_threshold")
    ledger.run("update stripe_invoice_lines set period_end = %s", PERIOD_START + timedelta(days=9))
    ledger.invoice(record_id, status="open", minutes=200)
    period_close.close_due(engine, PERIOD_END + timedelta(hours=2))
    assert ledger.row("usage_records", record_id).invoiced_minutes == 600
    assert ledger.drifts() == []

    ledger.run("delete from stripe_invoices")
    ledger.run("update usage_records set settled_at = null, invoiced_minutes = null where id = %s", record_id)
    ledger.invoice(record_id, id="in_t", status="paid", minutes=400, billing_reason="subscription_threshold")
    ledger.invoice(record_id, status="open", minutes=150)
    period_close.close_due(engine, PERIOD_END + timedelta(hours=2))
    assert ledger.drifts() == ["under-billed"]
    assert ledger.row("usage_records", following).minutes == 0


@pytest.mark.parametrize("behavior", ["void", "mark_uncollectible"])
@breaks("pipeline/stripe_mirror/effects.py", "if living and behavior in GIVING_AWAY:", "if living is None:")
def test_63_collection_that_is_paused_so_that_it_is_given_away_is_one_difference(world, behavior):
    for _ in range(2):
        found = told(world, pause_collection={"behavior": behavior, "resumes_at": None})
        assert f"paused with {behavior}" in found.get("collection-given-away", "none")
    assert world.rows("select count(*) from drifts where kind = 'collection-given-away'") == [(1,)]
    assert "collection-given-away" not in told(world, pause_collection={"behavior": "keep_as_draft"})
    assert "collection-given-away" not in told(world)


def test_63_what_is_resumed_with_its_anchor_unchanged_loses_no_minute_that_stripe_bills(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        items: Any = [{"price": price} for price in life.prices["starter"].values()]
        it = stripe.client.v1.subscriptions.create({"customer": life.customer, "items": items})
        works.follow(life)

        def talk(minutes, **time):
            stripe.run(stripe.timeline.advance(life.now + timedelta(**time)))
            if minutes:
                name = sid_of(f"call {len(life.calls)}")
                life.calls.append(Call(name, life.now - timedelta(seconds=1), minutes * 60))
            works.follow(life)

        talk(600, days=2)
        stripe.client.v1.subscriptions.pause(it.id, {"type": "subscription"})
        works.follow(life)
        talk(0, days=2)
        unchanged: Any = {"billing_cycle_anchor": {"type": "unchanged"}}
        stripe.client.v1.subscriptions.resume(it.id, unchanged)
        works.follow(life)
        talk(7, days=2)
        for days in (25, 0.1):
            talk(0, days=days)
        assert "lost-usage" not in works.drifts()
        billed = sum(row[0] or 0 for row in works.rows("select invoiced_minutes from usage_records"))
        assert billed == 607


@breaks("pipeline/stripe_mirror/effects.py", "  and s.started_at <= %(now)s\n", "")
def test_79_until_a_subscription_begins_the_business_is_on_free(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update businesses set plan_id = 1 where id = %s", (world.f,))
    later = subscription("sub_later", customer="cus_F", metadata={"business_id": str(world.f)}, start=at("1 Dec"))
    world.stripe_event("evt_later", "customer.subscription.created", later, at("20 Nov 10:00"))
    world.drain()
    assert world.rows("select plan_id from businesses where id = %s", world.f) == [(1,)]
    assert world.wanted()["sub_later"] == "begins-later", "it is looked at when it begins: no event may tell of that"
    world.now = at("1 Dec 00:01")
    world.stripe_event("evt_begun", "customer.subscription.updated", later, at("1 Dec"))
    world.drain()
    assert world.rows("select plan_id from businesses where id = %s", world.f) == [(2,)]
