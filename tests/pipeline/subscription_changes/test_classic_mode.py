"""Subscriptions in classic billing mode, where an immediate change of price gives its usage away (55, 56)."""

import os
import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works, billed
from tests.worlds.world import sid_of


@pytest.fixture
def classic(engine, host, tmp_path):
    """A business on Starter in classic mode that has used 600 minutes by its third day."""
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        items: Any = [{"price": price} for price in life.prices["starter"].values()]
        new: Any = {"customer": life.customer, "items": items, "billing_mode": {"type": "classic"}}
        stripe.client.v1.subscriptions.create(new)
        works.follow(life)
        go(works, life, 600, days=3)
        yield works, life


def go(works, life, minutes=0, **time):
    """Let time pass; a call of so many minutes ends just then."""
    life.stripe.run(life.stripe.timeline.advance(life.now + timedelta(**time)))
    if minutes:
        life.calls.append(Call(sid_of(f"call {len(life.calls)}"), life.now - timedelta(seconds=1), minutes * 60))
    works.follow(life)


def mode(life):
    return life.subscription["billing_mode"]["type"]


def plan(life):
    return life.subscription["items"]["data"][0]["price"]["metadata"]["altiora_plan"]


@breaks(
    "pipeline/subscription_changes/change_requests.py",
    "if billed < look.confirmed_minutes:",
    "if billed < 0:",
)
def test_55_an_upgrade_that_would_give_minutes_away_is_refused(classic):
    works, life = classic
    works.change("upgrade", "professional")
    works.follow(life)
    assert works.drifts() == ["change-refused"]
    ((actual,),) = works.rows("select actual from drifts where kind = 'change-refused'")
    assert "Stripe's preview bills 0 of 600 minutes: the subscription is in classic billing mode" in actual
    assert "--migrate" in actual
    assert (plan(life), mode(life)) == ("starter", "classic")


def test_55_with_migrate_its_mode_is_migrated_first_and_everything_is_billed(classic):
    works, life = classic
    works.change("upgrade", "professional", migrate=True)
    works.follow(life)
    assert (plan(life), mode(life)) == ("professional", "flexible")
    go(works, life, hours=3)
    assert billed(life) == 600
    assert works.rows("select invoiced_minutes from usage_records where cut or state = 'closed'") == [(600,)]
    assert works.drifts() == []


def test_55_an_upgrade_before_any_minute_goes_without(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        items: Any = [{"price": price} for price in life.prices["starter"].values()]
        new: Any = {"customer": life.customer, "items": items, "billing_mode": {"type": "classic"}}
        stripe.client.v1.subscriptions.create(new)
        works.follow(life)
        go(works, life, hours=1)
        works.change("upgrade", "professional")
        works.follow(life)
        assert (plan(life), mode(life), works.drifts()) == ("professional", "classic", [])


def test_55_a_downgrade_at_the_periods_end_bills_everything_in_classic_mode_too(classic):
    works, life = classic
    life.prices["enterprise"] = life.stripe.plan(100, "20", 1900, "enterprise")
    works.follow(life)
    works.change("downgrade", "enterprise")
    go(works, life, days=28)
    go(works, life, hours=3)
    assert works.rows("select invoiced_minutes from usage_records order by period_start limit 1") == [(600,)]
    assert works.drifts() == []


def swap_in_dashboard(works, life):
    life.step("swap")
    works.follow(life)
    go(works, life, 7, hours=1)


@breaks(
    "pipeline/closing/invoice_settlement.py",
    "s.billing_mode = 'classic'",
    "s.billing_mode = 'none'",
)
def test_56_a_swap_in_the_dashboard_is_lost_usage_at_once_with_its_money(classic):
    works, life = classic
    swap_in_dashboard(works, life)
    assert works.rows("select kind, evidence->'minutes', evidence->'amount' from drifts where resolved_at is null") == [
        ("lost-usage", 600, 1200)
    ]


@breaks(
    "pipeline/usage/late_minutes.py",
    "        report_lost(connection, late.origin_record_id, now)",
    "        return late",
)
def test_72_a_correction_of_lost_minutes_lowers_what_was_lost_and_what_a_person_carries(
    classic, monkeypatch, environment
):
    works, life = classic
    swap_in_dashboard(works, life)
    life.calls.append(replace(life.calls[0], seconds=550 * 60, correction=1))
    works.follow(life)
    assert works.rows("select kind, evidence->'minutes', evidence->'amount' from drifts where resolved_at is null") == [
        ("lost-usage", 550, 600)
    ]
    use_environment(monkeypatch, environment)
    os.environ["ALTIORA_CLOCK"] = str(works.clock_file)
    Altiora()("drifts", "resolve", str(Altiora().json("drifts", "list")[0]["id"]), "--note", "looked at", "--carry")
    assert works.rows("select sum(minutes) from usage_adjustments where kind = 'carried'") == [(550,)]
    assert works.rows("select minutes from usage_records where state = 'open'") == [(557,)]


@pytest.mark.parametrize("carry", [True, False])
def test_56_a_person_carries_what_was_lost_or_writes_it_off(classic, carry, monkeypatch, environment):
    works, life = classic
    swap_in_dashboard(works, life)
    use_environment(monkeypatch, environment)
    os.environ["ALTIORA_CLOCK"] = str(works.clock_file)
    drift = Altiora().json("drifts", "list")[0]["id"]
    Altiora()("drifts", "resolve", str(drift), "--note", "looked at", *(["--carry"] if carry else []))
    assert works.rows("select kind, minutes from usage_adjustments") == [("carried" if carry else "unbillable", 600)]
    assert works.rows("select minutes from usage_records where state = 'open'") == [(607 if carry else 7,)]
    go(works, life, days=28)
    go(works, life, hours=5)
    assert billed(life) == (607 if carry else 7)


def test_55_what_is_rehearsed_says_so(classic, monkeypatch, environment):
    works, life = classic
    use_environment(monkeypatch, environment)
    os.environ |= {
        "ALTIORA_STRIPE_API_BASE": life.stripe.url,
        "ALTIORA_STRIPE_API_KEY": "sk_test_cli",
        "ALTIORA_CLOCK": str(works.clock_file),
    }
    refused = Altiora()("subscription", "upgrade", "1", "professional", "--dry-run", status=1)
    assert "Stripe's preview bills 0 of 600 minutes" in refused
    said = Altiora()("subscription", "upgrade", "1", "professional", "--migrate", "--dry-run")
    assert '/migrate {"billing_mode": {"type": "flexible"}}' in said
    assert "its billing mode is migrated first" in said
    assert mode(life) == "classic"
    assert "classic billing" in " ".join(Altiora()("subscription", "show", "1").split())
