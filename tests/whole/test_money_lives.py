"""In any life of a customer every minute has its period and its fate, and every cent is billed or told."""

import random
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest

import pytest

from tests.worlds.lives import NUMBER, Call
from tests.worlds.money_lives import PASSING, MoneyLife, story
from tests.worlds.oracle import Fate, Span, spans_of
from tests.worlds.stripe_stand_in import StandIn
from tests.worlds.superuser import run_as_superuser
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


@dataclass
class Lived:
    """Lives that are over, all told to the same books, and what each of them should have cost."""

    works: Works
    lives: list[MoneyLife]
    spans: list[list[Span]]


@dataclass
class _Everybody:
    """What is heard of several lives at once."""

    stripe: StandIn
    calls: list[Call]

    @property
    def now(self) -> datetime:
        return self.stripe.timeline.now


def live(engine, host, folder, seed: int) -> Lived:
    """Random lives, mostly one alone, our side following them by hours or by weeks, until all is final."""
    chance = random.Random(seed)
    run_as_superuser(
        engine,
        "truncate businesses, webhook_events, refreshes, stripe_customers, stripe_prices, drifts, phone_numbers"
        " restart identity cascade",
    )
    with host.fresh(folder) as stripe:
        works = Works(engine, stripe, folder / "clock")
        works.at(stripe.timeline.now)
        works.order = chance.choice([None, random.Random(seed)])
        everybody = _Everybody(stripe, [])
        lives = [MoneyLife(stripe, works.business_id, chance, NUMBER, everybody.calls)]
        others = chance.choice([[], [], [], [f"{NUMBER}1"], [f"{NUMBER}1", f"{NUMBER}2"]])
        lives += [MoneyLife(stripe, works.open_business(each), chance, each, everybody.calls) for each in others]
        for life in lives:
            life.subscribe()
        for steps in zip_longest(*(story(chance) for _ in lives)):
            for life, step in zip(lives, steps, strict=True):
                if step is None:
                    continue
                life.pass_time(timedelta(seconds=chance.randrange(61, 600)))
                life.step(step)
                # What begins and is dropped between two looks stands on no object of Stripe's.
                it = life.living()
                dropping = "swap" in step or (it is not None and it["billing_mode"]["type"] == "classic")
                if dropping or chance.random() < 0.8:
                    works.follow(everybody)
                    if step in PASSING:
                        decide(works, life, chance)
        works.follow(everybody)
        for life in lives:
            life.end()
        for hours in (0.2, 0.9, 2, 80, 80):
            works.follow(everybody)
            lives[0].pass_time(timedelta(hours=hours))
        for life in lives:
            life.finalise()
        for hours in (2, 80):
            works.follow(everybody)
            lives[0].pass_time(timedelta(hours=hours))
        works.follow(everybody)
        return Lived(works, lives, [_spans(life) for life in lives])


def _spans(life: MoneyLife) -> list[Span]:
    events = [event for event in life.stripe.events if "object" in event.get("data", {})]
    return spans_of(
        [event for event in events if event["data"]["object"].get("customer") in life.customers],
        life.stripe.sandbox.invoices(),
        life.stripe.sandbox.state.tiers,
        life.meter,
        lambda start, end: sum(call.minutes for call in life.final_calls() if start <= call.ended.timestamp() < end),
    )


def decide(works: Works, life: MoneyLife, chance: random.Random) -> None:
    """A person decides one of the differences of a business, or somebody refunds its invoice, or nobody does."""
    open_ = works.rows(
        """
        select id, kind, evidence ->> 'invoice' from drifts
        where resolved_at is null and business_id = %s
          and (kind in ('lost-usage', 'late-minutes') or kind = 'under-billed' and subject not like '%%:carried'
               or (kind in ('credit-due', 'over-billed')
                   or kind = 'unbillable' and (evidence ->> 'minutes')::int < 0)
                  and abs((evidence ->> 'amount')::bigint) > coalesce((evidence ->> 'given_back')::bigint, 0))
        order by id""",
        life.business_id,
    )
    if not open_:
        return
    drift_id, kind, invoice = chance.choice(open_)
    match chance.randrange(4):
        case 0 | 1 if kind in {"lost-usage", "late-minutes", "under-billed"}:
            works.carry(drift_id)
        case 0 | 1:
            works.credit(kind, drift_id=drift_id)
        case 2 if invoice is not None:
            life.refund(invoice)


def compare(works: Works, life: MoneyLife, spans: list[Span]) -> None:
    """Period by period, and in all. A record may begin before its span, where nobody talked in between."""
    records = {
        int(end.timestamp()): (int(start.timestamp()), own, invoiced)
        for start, end, own, invoiced in works.rows(
            """
            select r.period_start, r.period_end, r.minutes - r.adjustment_minutes
                   + coalesce((select sum(minutes) from usage_adjustments a
                               where a.origin_record_id = r.id and a.call_sid is not null), 0)::int,
                   r.invoiced_minutes
            from usage_records r where r.subscription_id is not null and r.business_id = %s""",
            life.business_id,
        )
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
    for kind, evidence in works.rows(
        "select kind, evidence from drifts where resolved_at is null and business_id = %s", life.business_id
    ):
        if kind in _SIGNS and evidence.get("amount"):
            signed = kind in {"unbillable", "no-invoice", "unusable-invoice"}  # their minutes may be a credit
            amount = evidence["amount"] if signed else abs(evidence["amount"])
            told[kind] += _SIGNS[kind] * amount
    # What was decided, in whole: also what others had given back of it by then was billed too much. A difference that
    # opens again is told in whole, but for what waits: of that it is only what has come since.
    decided = works.rows(
        """
        select evidence from drifts
        where resolved_at is not null and (note = 'a test' or starts_with(note, 'given back by '))
          and (kind = 'unbillable'
               or (kind, subject) not in (select kind, subject from drifts where resolved_at is null))
          and business_id = %s""",
        life.business_id,
    )
    invoices = life.stripe.sandbox.state.invoices
    for (evidence,) in decided:
        of = invoices.get(evidence.get("invoice"))
        if of is None or of["status"] != "void":  # a credit note goes with its invoice
            told["given-back"] += abs(evidence["amount"])
    billed = sum(span.charged for span in spans)
    true = sum(span.worth for span in spans)
    assert billed - true == sum(told.values()), f"billed {billed}, true {true}, told {dict(told)}, spans {spans}"


def check(engine, host, tmp_path_factory, seed):
    lived = live(engine, host, tmp_path_factory.mktemp("life"), seed)
    for life, spans in zip(lived.lives, lived.spans, strict=True):
        compare(lived.works, life, spans)


# Some 12 lives; and one in which a price comes back inside a period, after another one.
@pytest.mark.parametrize("seed", [*range(8), 1060])
def test_every_minute_has_its_period_and_every_cent_is_billed_or_told(engine, host, tmp_path_factory, seed):
    check(engine, host, tmp_path_factory, seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 2300, 100))  # 2,000 lives
def test_many_lives(engine, host, tmp_path_factory, first):
    for seed in range(first, first + 100):
        check(engine, host, tmp_path_factory, seed)
