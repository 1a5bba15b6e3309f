"""In any life of a customer every minute has its period and its fate, and every cent is billed or told."""

import random
from collections import Counter
from datetime import timedelta

import pytest

from tests.worlds.money_lives import MONEY_STEPS, MoneyLife
from tests.worlds.oracle import Fate, Span, spans_of
from tests.worlds.works import Works

#: The sign of a difference's amount: what was billed less what should have been.
_SIGNS = {
    "credit-due": 1,
    "over-billed": 1,
    "under-billed": -1,
    "unbillable": -1,
    "lost-usage": -1,
    "unusable-invoice": -1,
    "no-invoice": -1,
    "late-minutes": -1,
}


def live(engine, host, folder, seed: int) -> tuple[Works, MoneyLife, list[Span]]:
    """A random life, our side following it by hours or by weeks, until all is final."""
    chance = random.Random(seed)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "truncate businesses, webhook_events, refreshes, stripe_customers, stripe_prices, drifts, phone_numbers"
            " restart identity cascade"
        )
    with host.fresh(folder) as stripe:
        works = Works(engine, stripe, folder / "clock")
        works.at(stripe.timeline.now)
        life = MoneyLife(stripe, works.business_id, chance)
        life.subscribe()
        steps = [chance.choice(MONEY_STEPS) for _ in range(chance.randrange(4, 16))]
        for step in steps:
            life.pass_time(timedelta(seconds=chance.randrange(61, 600)))
            life.step(step)
            # What begins and is dropped between two looks stands on no object of Stripe's.
            it = life.living()
            dropping = "swap" in step or (it is not None and it["billing_mode"]["type"] == "classic")
            if dropping or chance.random() < 0.8:
                works.follow(life)
        works.follow(life)
        life.end()
        for hours in (0.2, 0.9, 2, 80, 80):
            works.follow(life)
            life.pass_time(timedelta(hours=hours))
        life.finalise()
        for hours in (2, 80):
            works.follow(life)
            life.pass_time(timedelta(hours=hours))
        works.follow(life)
        spans = spans_of(
            [event for event in stripe.events if "object" in event.get("data", {})],
            stripe.sandbox.invoices(),
            stripe.sandbox.state.tiers,
            life.meter,
            lambda start, end: sum(
                call.minutes for call in life.final_calls() if start <= call.ended.timestamp() < end
            ),
        )
    return works, life, spans


def compare(works: Works, life: MoneyLife, spans: list[Span]) -> None:
    """Period by period, and in all. A record may begin before its span, where nobody talked in between."""
    records = {
        int(end.timestamp()): (int(start.timestamp()), own, invoiced)
        for start, end, own, invoiced in works.rows("""
            select r.period_start, r.period_end, r.minutes - r.adjustment_minutes
                   + coalesce((select sum(minutes) from usage_adjustments a
                               where a.origin_record_id = r.id and a.call_sid is not null), 0)::int,
                   r.invoiced_minutes
            from usage_records r where r.subscription_id is not null""")
    }
    for span in spans:
        if not span.minutes and not span.billed:
            continue
        start, own, invoiced = records.pop(span.end, (span.end, None, None))
        assert start <= span.start, f"{span}: no record that ends with it"
        assert own == span.minutes, f"{span}: the record's minutes"
        if span.fate is Fate.INVOICED:
            assert invoiced == span.billed, f"{span}: invoiced"
    assert [row for row in records.values() if row[1]] == [], "records that no span has"
    told: Counter[str] = Counter()
    for kind, evidence in works.rows("select kind, evidence from drifts where resolved_at is null"):
        if kind in _SIGNS and evidence.get("amount"):
            amount = evidence["amount"] if kind == "unbillable" else abs(evidence["amount"])
            told[kind] += _SIGNS[kind] * amount
    billed = sum(span.charged for span in spans)
    true = sum(span.worth for span in spans)
    assert billed - true == sum(told.values()), f"billed {billed}, true {true}, told {dict(told)}, spans {spans}"


def check(engine, host, tmp_path_factory, seed):
    works, life, spans = live(engine, host, tmp_path_factory.mktemp("life"), seed)
    compare(works, life, spans)


@pytest.mark.parametrize("seed", range(50))
def test_every_minute_has_its_period_and_every_cent_is_billed_or_told(engine, host, tmp_path_factory, seed):
    check(engine, host, tmp_path_factory, seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_many_lives(engine, host, tmp_path_factory, first):
    for seed in range(first, first + 100):
        check(engine, host, tmp_path_factory, seed)
