"""What becomes of the differences between final invoices and minutes, and what carried minutes are worth (65 to 74)."""

import random
from datetime import timedelta
from typing import Any

import pytest

from pipeline.closing import invoice_settlement, period_close
from pipeline.shared.business_locks import lock_businesses
from pipeline.usage import late_minutes
from pipeline.usage.late_minutes import Late
from tests.worlds.breaking import breaks
from tests.worlds.ledger import PERIOD_END, PERIOD_START, Ledger
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.superuser import run_as_superuser
from tests.worlds.works import Works
from tests.worlds.world import sid_of

FINALISES = PERIOD_END + timedelta(hours=1)
LATER = PERIOD_END + timedelta(hours=2)
STARTER = '[[500, "0", "0"], [null, "12", "0"]]'


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def priced(ledger):
    ledger.run("update usage_records set tiers = %s::jsonb, currency = 'usd'", STARTER)


def close(ledger, now):
    return dict(period_close.close_due(ledger.engine, now))


def told(ledger):
    """The open differences: kind, minutes, cents."""
    rows = ledger.rows("select kind, evidence from drifts where resolved_at is null order by kind, id")
    return [(row.kind, row.evidence["minutes"], row.evidence["amount"]) for row in rows]


def adjusted(ledger):
    return [tuple(row) for row in ledger.rows("select kind, minutes from usage_adjustments order by id")]


def settled(ledger, minutes, *, sent=None, invoiced=None, status="open", **columns):
    """A record of so many minutes that is settled; returns it and the next one."""
    record_id = ledger.paying(minutes, state="closing", **columns)
    following = ledger.following(record_id)
    priced(ledger)
    if sent if sent is not None else minutes:
        ledger.sent(record_id, minutes if sent is None else sent)
    ledger.invoice(record_id, status=status, minutes=minutes if invoiced is None else invoiced)
    assert close(ledger, LATER)["settled"] == 1
    return record_id, following


def late(ledger, record_id, minutes, call="CA1", now=LATER):
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [ledger.row("usage_records", record_id).business_id])
        late_minutes.carry_minutes(connection, Late(record_id, minutes, call), now)


def settle_next(ledger, record_id, own, invoiced=None):
    """The calls of the record come to so many minutes; it is pushed, invoiced and settled."""
    record = ledger.row("usage_records", record_id)
    ledger.run("update usage_records set minutes = minutes + %s, state = 'closing' where id = %s", own, record_id)
    total = max(0, own + record.adjustment_minutes)
    if total:
        ledger.sent(record_id, total, record.period_start.replace(second=0) + timedelta(minutes=1))
    ledger.following(record_id)
    priced(ledger)
    ledger.invoice(record_id, status="open", minutes=total if invoiced is None else invoiced)
    assert close(ledger, record.period_end + timedelta(hours=2))["settled"] == 1


# 69: is the difference explained?


@breaks(
    "pipeline/closing/invoice_settlement.py",
    "    elif not explained:",
    "    elif explained is None:",
)
@pytest.mark.parametrize(
    ("minutes", "sent", "invoiced", "kind", "money"),
    [(600, 600, 650, "over-billed", 600), (600, 600, 550, "under-billed", 600), (600, 590, 650, "over-billed", 600)],
)
def test_69_a_difference_that_our_pushes_do_not_explain_is_for_a_person(ledger, minutes, sent, invoiced, kind, money):
    record_id, following = settled(ledger, minutes, sent=sent, invoiced=invoiced)
    assert told(ledger) == [(kind, abs(minutes - invoiced), money)]
    assert adjusted(ledger) == [(kind, minutes - invoiced)]
    assert ledger.row("usage_records", following).minutes == 0, "nothing is given back or charged silently"
    assert ledger.row("usage_records", record_id).invoiced_minutes == invoiced


def test_69_a_push_that_may_have_arrived_explains_it_and_so_does_what_is_learnt_later(ledger):
    record_id = ledger.paying(600, state="closing")
    following = ledger.following(record_id)
    priced(ledger)
    ledger.sent(record_id, 560)
    push = ledger.push(record_id, 40, PERIOD_START + timedelta(minutes=7, seconds=15), state="sent")
    ledger.run("update usage_records set pushed_minutes = 600 where id = %s", record_id)
    ledger.invoice(record_id, status="open", minutes=560)
    close(ledger, LATER)
    assert told(ledger) == [("under-billed", 40, 480)]
    # Stripe reports now that it could not use that one.
    ledger.run("update meter_pushes set state = 'failed' where id = %s", push)
    ledger.run("update usage_records set pushed_minutes = 560 where id = %s", record_id)
    close(ledger, LATER)
    assert told(ledger) == []
    assert adjusted(ledger) == [("carried", 40)]
    assert ledger.row("usage_records", following).minutes == 40


# 70: what carried minutes are worth


@breaks(
    "pipeline/closing/carried_worth.py",
    "    if paid == fair:",
    "    fair = paid\n    if paid == fair:",
)
@pytest.mark.parametrize(
    ("first", "correction", "second", "kind", "cents"),
    [
        (300, 60, 500, "credit-due", 720),
        (600, 60, 300, "under-billed", -720),
        (600, -600, 1200, "under-billed", -6000),
        (600, 60, 600, None, 0),
        (300, 60, 100, None, 0),
    ],
)
def test_70_the_worth_of_carried_minutes_is_compared_with_what_they_cost(
    ledger, first, correction, second, kind, cents
):
    record_id, following = settled(ledger, first)
    late(ledger, record_id, correction)
    settle_next(ledger, following, second)
    assert told(ledger) == ([(kind, correction, cents)] if kind else [])


def test_70_a_credit_that_is_used_in_parts_is_compared_part_by_part(ledger):
    record_id, following = settled(ledger, 1200)
    late(ledger, record_id, -1200)
    settle_next(ledger, following, 300)  # 300 of 1,200: they had cost 36 dollars, and would have cost nothing here
    assert told(ledger) == [("credit-due", -300, 3600)]
    assert adjusted(ledger) == [("carried", -1200), ("carried", -900)]
    (handed,) = ledger.rows("select * from usage_adjustments where settlement_record_id = %s", following)
    assert handed.origin_record_id == record_id, "the credit stays that of its own period"
    settle_next(ledger, handed.usage_record_id, 2000)
    assert told(ledger) == [("credit-due", -300, 3600), ("under-billed", -900, -6000)]


def test_70_in_any_history_what_is_told_is_what_was_billed_unfairly(ledger):
    """All differences that are told, signed, are the money that was billed less the price of the true minutes."""

    def price(minutes):
        return max(0, minutes - 500) * 12

    for seed in range(12):
        chance = random.Random(seed)
        run_as_superuser(ledger.engine, "truncate businesses cascade")
        record_id, following = settled(ledger, chance.choice([0, 300, 500, 700, 1500]))
        ids, true = [record_id], {record_id: ledger.row("usage_records", record_id).minutes}
        for turn in range(6):
            for number in range(chance.randrange(4)):
                origin = chance.choice(ids)
                by = chance.choice([-400, -90, -30, 20, 60, 300])
                if true[origin] + by >= 0:
                    true[origin] += by
                    late(ledger, origin, by, f"CA{turn}-{number}", ledger.row("usage_records", following).period_start)
            own = chance.choice([0, 200, 480, 520, 900])
            settle_next(ledger, following, own)
            ids.append(following)
            true[following] = own
            following = ledger.one("select id from usage_records where state = 'open'")
        for _ in range(4):  # what is left is used up
            settle_next(ledger, following, 2000)
            ids.append(following)
            true[following] = 2000
            following = ledger.one("select id from usage_records where state = 'open'")
        assert ledger.row("usage_records", following).minutes == 0
        billed = sum(price(ledger.row("usage_records", each).invoiced_minutes) for each in ids)
        assert sum(ledger.row("usage_records", each).invoiced_minutes for each in ids) == sum(true.values())
        assert sum(amount for _, _, amount in told(ledger)) == billed - sum(map(price, true.values())), f"seed {seed}"


# 66: an invoice that is voided after its record was settled, and 65


@pytest.fixture
def works(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        made = Works(engine, stripe, tmp_path / "our-clock")
        made.at(START)
        life = Life(stripe, made.business_id, random.Random(1))
        life.step("subscribe")
        made.follow(life)
        yield made, life


def talk(works, life, minutes):
    """A call of so many minutes, just now."""
    life.calls.append(Call(sid_of(f"call {len(life.calls)}"), life.now, minutes * 60))
    works.follow(life)


def go(works, life, **time):
    life.stripe.run(life.stripe.timeline.advance(life.now + timedelta(**time)))
    works.follow(life)


def records(works):
    return works.rows("select minutes, invoiced_minutes, state from usage_records order by period_start")


@breaks(
    "pipeline/stripe_mirror/effects.py",
    "    if invoice.status == InvoiceStatus.VOID:",
    "    if invoice.status == InvoiceStatus.DRAFT:",
)
def test_66_a_record_whose_invoice_is_voided_waits_for_another_one_or_a_person(works):
    works, life = works
    life.step("fail-payment")
    go(works, life, hours=1)
    talk(works, life, 600)
    go(works, life, days=29, hours=23)
    go(works, life, hours=2)
    assert records(works) == [(600, 600, "closed")]
    (invoice,) = works.rows("select invoice_id from usage_records")
    life.stripe.client.v1.invoices.void_invoice(invoice[0])
    works.follow(life)
    assert records(works) == [(600, None, "closed")]
    assert works.rows("select kind, evidence->'amount' from drifts where resolved_at is null") == [
        ("unusable-invoice", 1200)
    ]


def test_66_what_was_carried_because_of_it_is_undone(ledger):
    record_id, following = settled(ledger, 600, sent=590, invoiced=590)
    assert ledger.row("usage_records", following).minutes == 10
    from pipeline.closing import invoice_settlement

    business_id = ledger.row("usage_records", record_id).business_id
    ledger.run("update stripe_invoices set status = 'void'")
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        invoice_settlement.unsettle(connection, business_id, f"in_{record_id}", LATER)
    assert ledger.row("usage_records", following).minutes == 0
    assert adjusted(ledger) == []
    close(ledger, LATER)
    assert told(ledger) == [("unusable-invoice", 600, 1200)]
    ledger.invoice(record_id, id="in_again", status="open", minutes=590, created_at=LATER)
    close(ledger, LATER)
    assert told(ledger) == []
    assert ledger.row("usage_records", following).minutes == 10


def test_66_what_was_carried_and_billed_by_then_stays_a_line_of_its_own(ledger):
    from pipeline.closing import invoice_settlement

    record_id, following = settled(ledger, 600, sent=590, invoiced=590)
    settle_next(ledger, following, 600)
    business_id = ledger.row("usage_records", record_id).business_id
    ledger.run("update stripe_invoices set status = 'void' where id = %s", f"in_{record_id}")
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        invoice_settlement.unsettle(connection, business_id, f"in_{record_id}", LATER)
    ledger.invoice(record_id, id="in_again", status="open", minutes=590, created_at=LATER)
    close(ledger, LATER)
    assert adjusted(ledger) == [("carried", 10)]
    assert ledger.row("usage_records", record_id).invoiced_minutes == 590


def void(ledger, record_id):
    ledger.run("update stripe_invoices set status = 'void' where id = %s", f"in_{record_id}")
    business_id = ledger.row("usage_records", record_id).business_id
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        invoice_settlement.unsettle(connection, business_id, f"in_{record_id}", LATER)


def test_66_late_calls_that_are_held_stay_in_sight_when_the_invoice_is_voided(ledger):
    record_id, _ = settled(ledger, 600)
    ledger.run("update usage_records set late_limit_minutes = 10")
    late(ledger, record_id, 30)
    assert ("late-minutes", 30, 360) in told(ledger)
    void(ledger, record_id)
    assert ("late-minutes", 30, 360) in told(ledger), "they are a call's, and no settlement's"


def test_56_what_was_carried_as_lost_is_taken_back_when_an_invoice_bills_it_after_all(ledger):
    record_id, following = settled(ledger, 600, sent=600, invoiced=600)
    ledger.run("update usage_records set invoiced_minutes = 0, invoice_id = null where id = %s", record_id)
    business_id = ledger.row("usage_records", record_id).business_id
    row = {"business_id": business_id, "origin_record_id": record_id, "settlement_record_id": record_id}
    ledger.insert("usage_adjustments", **row, kind="unbillable", minutes=600, created_at=LATER)
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        late_minutes.charge_given_up(connection, record_id, late_minutes.AdjustmentKind.UNBILLABLE, 1200, LATER)
    assert ledger.row("usage_records", following).minutes == 600
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        subscription = ledger.row("subscriptions", ledger.row("usage_records", record_id).subscription_id).stripe_id
        invoice_settlement.reconsider(connection, business_id, subscription, {PERIOD_END}, LATER)
    close(ledger, LATER)
    assert ledger.row("usage_records", record_id).invoiced_minutes == 600
    assert (ledger.row("usage_records", following).minutes, adjusted(ledger)) == (0, []), "nobody pays twice"


@breaks(
    "pipeline/closing/unbilled_periods.py",
    "invoice.status = 'draft' and b.suspended_at is null",
    "false",
)
@pytest.mark.parametrize("draft", [False, True])
def test_65_a_period_on_no_final_invoice_after_72_hours_is_told_with_its_money(ledger, draft):
    record_id = ledger.paying(600, state="closing")
    priced(ledger)
    if draft:
        ledger.invoice(record_id, automatically_finalizes_at=None)
    close(ledger, PERIOD_END + timedelta(hours=71))
    assert told(ledger) == []
    close(ledger, PERIOD_END + timedelta(hours=72))
    assert told(ledger) == [("no-invoice", 600, 1200)]
    ledger.sent(record_id, 600)
    ledger.invoice(record_id, status="open", minutes=600)
    ledger.run("update refreshes set fetched_mark = mark")
    close(ledger, PERIOD_END + timedelta(hours=80))
    assert told(ledger) == []


def test_65_minutes_that_another_invoice_bills_are_not_named(ledger):
    record_id = ledger.paying(600, state="closing")
    priced(ledger)
    ledger.invoice(record_id, status="open", minutes=550)
    ledger.run("update stripe_invoice_lines set period_end = period_end - interval '1 minute'")
    close(ledger, PERIOD_END + timedelta(hours=72))
    assert told(ledger) == [("no-invoice", 50, 600)]


# 67, 73, 74: trials and Free


@breaks(
    "pipeline/businesses/plan_limits.py",
    "(not r.trial and (r.tiers is not null or p.bills_overage))",
    "(r.tiers is not null or p.bills_overage)",
)
def test_67_a_trial_has_the_plans_minutes_and_then_no_more(works):
    works, life = works
    go(works, life, hours=1)
    life.step("cancel-now")
    works.follow(life)
    items: Any = [{"price": price} for price in life.prices["starter"].values()]
    life.stripe.client.v1.subscriptions.create({"customer": life.customer, "items": items, "trial_period_days": 14})
    go(works, life, hours=1)
    talk(works, life, 499)
    assert works.rows("select limited_until is not null from businesses") == [(False,)]
    talk(works, life, 1)
    assert works.rows("select limited_until is not null from businesses") == [(True,)]
    assert works.rows("select trial from usage_records order by period_start desc limit 1") == [(True,)]
    go(works, life, days=14)
    talk(works, life, 5)
    assert works.rows("select limited_until from businesses") == [(None,)]
    go(works, life, hours=2)
    assert works.rows("select kind, minutes from usage_adjustments") == [("written-off", 500)]


@breaks(
    "pipeline/usage/late_minutes.py",
    "r.subscription_id is not null and not r.trial as paid",
    "r.subscription_id is not null as paid",
)
def test_73_a_late_call_of_a_trial_is_written_off(ledger):
    record_id, following = settled(ledger, 300, trial=True, invoiced=0)
    late(ledger, record_id, 20)
    assert adjusted(ledger) == [("written-off", 300), ("written-off", 20)]
    assert ledger.row("usage_records", following).minutes == 0


@breaks(
    "pipeline/usage/records.py",
    "return self.subscription_id is not None and not self.trial",
    "return self.subscription_id is not None",
)
@pytest.mark.parametrize("minutes", [-40, 40])
def test_74_what_nothing_charges_at_present_waits_in_sight(ledger, minutes):
    record_id, following = settled(ledger, 600)
    ledger.run("update usage_records set trial = true where id = %s", following)
    late(ledger, record_id, minutes)
    assert told(ledger) == [("unbillable", minutes, minutes * 12)]
    assert adjusted(ledger) == [("waiting", minutes)]


def test_74_and_is_carried_when_a_record_charges_again(works):
    works, life = works
    go(works, life, hours=1)
    talk(works, life, 600)
    life.step("cancel-now")
    works.follow(life)
    go(works, life, hours=80)
    call = life.calls[0]
    works.tell(Call(call.sid, call.ended, 590 * 60))  # Twilio corrects it by its API; here a second report does
    with works.engine.begin() as connection:
        lock_businesses(connection, [works.business_id])
        record = connection.exec_driver_sql("select id from usage_records order by period_start limit 1").scalar_one()
        late_minutes.carry_minutes(connection, Late(record, -10, call.sid), life.now)
    assert works.drifts() == ["unbillable"]
    life.step("subscribe")
    works.follow(life)
    assert works.drifts() == []
    assert works.rows("select kind, minutes from usage_adjustments order by id desc limit 1") == [("carried", -10)]


# 72: corrections of what was given away


@breaks(
    "pipeline/usage/late_minutes.py",
    "if origin.paid and late.minutes < 0 and late.call_sid is not None:",
    "if origin.paid and late.minutes < 0 and late.call_sid == '':",
)
def test_72_a_correction_takes_back_first_what_was_written_off_of_that_call(ledger):
    record_id, _ = settled(ledger, 600)
    ledger.run("update usage_records set late_policy = 'write-off'")
    late(ledger, record_id, 30, "CAlate")
    late(ledger, record_id, -40, "CAlate")
    assert adjusted(ledger) == [("written-off", 30), ("written-off", -30), ("carried", -10)]
    late(ledger, record_id, -5, "CAother")
    assert adjusted(ledger)[-1] == ("carried", -5), "another call's was billed"


def test_72_and_what_was_lost_of_the_whole_period(ledger):
    record_id, following = settled(ledger, 600, invoiced=600)
    ledger.insert(
        "usage_adjustments",
        business_id=ledger.row("usage_records", record_id).business_id,
        kind="unbillable",
        origin_record_id=record_id,
        settlement_record_id=record_id,
        minutes=100,
        created_at=LATER,
    )
    late(ledger, record_id, -70, "CA1")
    late(ledger, record_id, -70, "CA2")
    assert adjusted(ledger)[1:] == [("unbillable", -70), ("unbillable", -30), ("carried", -40)]
    assert ledger.row("usage_records", following).minutes == -40


@breaks(
    "pipeline/closing/invoice_settlement.py",
    "        if row.call_sid is not None:  # a",
    "        if row.call_sid == '':  # a",
)
def test_72_a_correction_of_what_was_given_up_is_carried_when_an_invoice_bills_it_after_all(ledger):
    record_id = ledger.paying(600, state="closing")
    following = ledger.following(record_id)
    priced(ledger)
    ledger.sent(record_id, 600)
    close(ledger, PERIOD_END + timedelta(hours=72))
    assert told(ledger) == [("no-invoice", 600, 1200)]
    business_id = ledger.row("usage_records", record_id).business_id
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        invoice_settlement.give_up(connection, record_id, LATER)
    late(ledger, record_id, -70)
    assert adjusted(ledger) == [("written-off", 600), ("written-off", -70)]
    ledger.invoice(record_id, status="open", minutes=600)
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        subscription = ledger.row("subscriptions", ledger.row("usage_records", record_id).subscription_id).stripe_id
        invoice_settlement.reconsider(connection, business_id, subscription, {PERIOD_END}, LATER)
    assert adjusted(ledger) == [("carried", -70)]
    assert ledger.row("usage_records", following).minutes == -70
    close(ledger, PERIOD_END + timedelta(hours=80))
    assert ledger.row("usage_records", record_id).invoiced_minutes == 600
    assert adjusted(ledger) == [("carried", -70)]


# 29: credits


@breaks(
    "pipeline/closing/invoice_settlement.py",
    "  select false where invoice.id is null and r.minutes <= 0",
    "  select false where invoice.id is null and r.minutes > 0",
)
def test_29_a_credit_in_a_period_that_no_invoice_has_is_handed_on(ledger):
    first, second = settled(ledger, 600)
    late(ledger, first, -70)
    assert ledger.row("usage_records", second).minutes == -70
    ledger.run("update usage_records set state = 'closing' where id = %s", second)
    third = ledger.following(second)
    priced(ledger)
    ends = ledger.row("usage_records", second).period_end
    assert close(ledger, ends + timedelta(hours=71)).get("settled", 0) == 0
    ledger.run("update refreshes set fetched_mark = mark")
    close(ledger, ends + timedelta(hours=72))
    assert told(ledger) == []
    close(ledger, ends + timedelta(hours=73))
    assert ledger.row("usage_records", second).invoiced_minutes == 0
    assert ledger.row("usage_records", third).minutes == -70
    assert told(ledger) == []


# 70: each minute is told or charged at one price


@breaks(
    "pipeline/usage/minutes_worth.py",
    "  where a.origin_record_id = r.id) used",
    "  where a.origin_record_id = r.id and a.kind = 'carried') used",
)
def test_70_a_credit_that_was_handed_on_and_waits_is_worth_what_is_left_of_it(ledger):
    first, second = settled(ledger, 600)
    late(ledger, first, -70)
    third = ledger.following(second)
    ledger.run("update usage_records set trial = true where id = %s", third)
    ledger.run("update usage_records set minutes = minutes + 20, state = 'closing' where id = %s", second)
    priced(ledger)
    ledger.invoice(second, status="open", minutes=0)
    assert close(ledger, ledger.row("usage_records", second).period_end + timedelta(hours=2))["settled"] == 1
    assert adjusted(ledger) == [("carried", -70), ("waiting", -50)]
    assert told(ledger) == [("credit-due", -20, 240), ("unbillable", -50, -600)]


@breaks(
    "pipeline/closing/invoice_settlement.py",
    "    if missing or record.carries:\n",
    "    if missing:\n",
)
def test_70_what_waits_is_told_anew_when_other_minutes_of_its_period_are_billed(ledger):
    first, second = settled(ledger, 510)
    ledger.run("update usage_records set trial = true where id = %s", second)
    late(ledger, first, -15)
    assert told(ledger) == [("unbillable", -15, -120)], "10 of them had cost something"
    ledger.run("update usage_records set trial = false where id = %s", second)
    late(ledger, first, 200, "CA2")
    settle_next(ledger, second, 0)
    assert told(ledger) == [("unbillable", -15, -180), ("under-billed", 200, -2400)], "beside 710 all 15 cost"


@breaks("pipeline/closing/unbilled_periods.py", "retold=True", "retold=False")
def test_70_what_no_invoice_bills_is_told_beside_what_waits_of_the_same_period(ledger):
    first, second = settled(ledger, 510)
    ledger.run("update usage_records set trial = true where id = %s", second)
    late(ledger, first, -15)
    ledger.run("update usage_records set trial = false where id = %s", second)
    late(ledger, first, 200, "CA2")
    ledger.run("update usage_records set state = 'closing' where id = %s", second)
    ledger.following(second)
    priced(ledger)
    close(ledger, ledger.row("usage_records", second).period_end + timedelta(hours=80))
    assert told(ledger) == [("no-invoice", 200, 2340), ("unbillable", -15, -120)], "510, less 15, and 200"


@breaks(
    "pipeline/usage/late_minutes.py",
    "case when %(told)s::bigint is not null then",
    "case when false then",
)
def test_70_what_a_person_carries_of_lost_minutes_is_worth_what_was_told(ledger):
    first, second = settled(ledger, 600, sent=600, invoiced=600)
    ledger.run("update usage_records set invoiced_minutes = 0 where id = %s", first)
    business_id = ledger.row("usage_records", first).business_id
    row = {"business_id": business_id, "origin_record_id": first, "settlement_record_id": first}
    ledger.insert("usage_adjustments", **row, kind="unbillable", minutes=600, created_at=LATER)
    late(ledger, first, 10)
    settle_next(ledger, second, 0)
    assert told(ledger) == [("under-billed", 10, -120)], "beside the 600, which are told"
    third = ledger.rows("select max(id) as id from usage_records")[0].id
    then = ledger.row("usage_records", third).period_start + timedelta(hours=3)
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        late_minutes.charge_given_up(connection, first, late_minutes.AdjustmentKind.UNBILLABLE, 1200, then)
    assert ledger.row("usage_records", third).minutes == 600
    settle_next(ledger, third, 0)
    assert told(ledger) == [("under-billed", 10, -120)], "600 cost 12.00 there as well"
