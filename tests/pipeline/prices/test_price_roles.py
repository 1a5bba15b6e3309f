"""Whose item is it: minutes, a plan's fee, or an add-on, in any order and in several subscriptions (45 to 47, 51)."""

import json
import random
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from pipeline.closing import period_close
from pipeline.drain import Drain, DrainSettings
from pipeline.events import queue
from pipeline.shared.clock import Clock
from pipeline.stripe_mirror import missed_events
from pipeline.stripe_mirror.fetching import StripeFetcher
from pipeline.usage import records
from tests.worlds.breaking import breaks
from tests.worlds.ledger import Ledger
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_customers import Customers
from tests.worlds.stripe_objects import invoice, line, lines, price, subscription
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works
from tests.worlds.world import ACCOUNT, PERIOD_END, PERIOD_START, PLAN_IDS, World, at, sid_of

FEE = price("price_fee", usage_type="licensed")
SMS = price("price_sms", plan=None, meter="mtr_sms")
NUMBER = price("price_number", plan=None, usage_type="licensed")


@pytest.fixture
def world(engine, tmp_path):
    it = World(engine, tmp_path / "clock")
    with engine.begin() as connection:  # only those of each test live
        connection.exec_driver_sql("delete from subscriptions")
    return it


def tell(world, *objects, when="20 Nov 11:00", type_=None):
    for n, object_ in enumerate(objects):
        kind = type_ or f"{object_['object'].replace('subscription', 'customer.subscription')}.created"
        world.stripe_event(f"evt_{object_['id']}_{when}_{n}_{kind}", kind, object_, at(when))
    world.drain()


def roles(world):
    return dict(world.rows("select price_id, role from subscription_items"))


def open_drifts(world):
    return dict(world.rows("select kind, evidence from drifts where resolved_at is null"))


@pytest.mark.parametrize("prices", list(permutations([price(), FEE, SMS, NUMBER])))
def test_45_the_minutes_item_is_told_from_the_others_in_any_order(world, prices):
    its = subscription(prices=list(prices))
    for item in its["items"]["data"]:
        if item["price"] is not prices[0]:
            continue
        item["current_period_end"] += 86400 * 365  # whichever comes first is not asked, unless it counts minutes
    tell(world, its)
    expected = {"price_starter": "minutes", "price_fee": "fee", "price_sms": "add-on", "price_number": "add-on"}
    assert roles(world) == expected
    (row,) = world.rows("select * from subscriptions")
    assert (row.metered_price_id, row.plan_id) == ("price_starter", PLAN_IDS["starter"])
    assert (row.period_end == PERIOD_END) == (prices[0]["id"] != "price_starter")
    assert open_drifts(world) == {}
    assert world.wanted().keys() <= {"sub_new", "price_sms", "price_number"}  # first seen; which plan claims it


@breaks(
    "pipeline/prices/price_roles.py",
    "m.sums_by_our_keys and m.event_name = %(event_name)s then",
    "m.sums_by_our_keys then",
)
@pytest.mark.parametrize("order", [1, -1])
def test_45_an_invoice_bills_the_minutes_only_by_the_lines_of_our_meter(world, order):
    tell(world, subscription(prices=[price(), FEE, SMS]))
    rows = [line("price_starter", 600), line("price_sms", 250), line("price_fee", 1, PERIOD_END, PERIOD_END)]
    tell(world, invoice(lines=lines(*rows[::order])), when="5 Dec 10:24")
    assert world.rows("select price_id, minutes from stripe_invoice_lines") == [("price_starter", 600)]


def test_45_a_meter_that_is_not_known_yet_is_fetched_before_anything_is_decided(world):
    tell(world, subscription(prices=[price(meter="mtr_new"), FEE]))
    assert world.rows("select from subscriptions") == []
    assert world.wanted()["sub_new"] == "unknown-price"


def test_45_items_that_are_shown_in_part_are_fetched_before_anything_is_decided(world):
    its = subscription(prices=[NUMBER, FEE])
    its["items"]["has_more"] = True
    tell(world, its)
    assert world.rows("select from subscriptions") == []
    assert world.wanted()["sub_new"] == "more-items"


@pytest.mark.parametrize(
    "change",
    [
        {"status": "inactive"},
        {"event_name": "sms_sent"},
        {"default_aggregation": {"formula": "count"}},
        {"event_time_window": "hour"},
        {"customer_mapping": {"event_payload_key": "customer"}},
        {"value_settings": {"event_payload_key": "minutes"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_45_our_meter_is_active_has_our_name_and_sums_by_our_keys(world, change):
    tell(world, subscription(prices=[price(), FEE]))
    assert roles(world)["price_starter"] == "minutes"
    meter = {
        "id": "mtr_minutes",
        "object": "billing.meter",
        "event_name": "call_minutes",
        "status": "active",
        "default_aggregation": {"formula": "sum"},
        "event_time_window": None,
        "customer_mapping": {"event_payload_key": "stripe_customer_id"},
        "value_settings": {"event_payload_key": "value"},
    }
    tell(world, meter, type_="billing.meter.updated")
    before = world.wanted()
    tell(world, meter | change, when="20 Nov 11:01", type_="billing.meter.updated")
    assert (before.get("sub_new"), world.wanted()["sub_new"]) == ("first-seen", "meter-changed")
    tell(world, subscription(prices=[price(), FEE]), when="20 Nov 11:02")
    assert roles(world)["price_starter"] == "add-on"


def test_46_a_second_subscription_with_sms_only_is_no_second_one(world):
    tell(world, subscription("sub_1", prices=[price(), FEE]), subscription("sub_2", prices=[SMS]))
    assert open_drifts(world) == {}
    assert world.rows("select plan_id from businesses where id = %s", world.b) == [(PLAN_IDS["starter"],)]
    bounds = [(row.period_start, row.period_end) for row in world.records(world.b)]
    of_sms = line("price_sms", 250, PERIOD_START + timedelta(days=3), PERIOD_START + timedelta(days=10))
    tell(world, invoice("in_sms", "sub_2", lines=lines(of_sms), status="paid"), when="5 Dec 10:24")
    assert world.rows("select from stripe_invoice_lines") == []
    assert [(row.period_start, row.period_end) for row in world.records(world.b)] == bounds


def test_46_a_second_subscription_with_a_plans_fee_is_a_second_plan(world):
    tell(world, subscription("sub_1", prices=[price(), FEE]))
    second = price("price_fee_pro", "professional", usage_type="licensed")
    tell(world, subscription("sub_2", prices=[second]))
    evidence = open_drifts(world)
    assert evidence.keys() == {"second-plan"}
    assert evidence["second-plan"]["subscriptions"] == ["sub_1", "sub_2"]
    ended = subscription("sub_2", prices=[second], status="canceled", ended_at=int(at("20 Nov 11:30").timestamp()))
    tell(world, ended, when="20 Nov 11:30", type_="customer.subscription.deleted")
    assert open_drifts(world) == {}


@breaks(
    "pipeline/stripe_mirror/effects.py",
    'minutes = [item for item in items if item["role"] == PriceRole.MINUTES]',
    "minutes = list(items)",
)
def test_46_minutes_and_fee_in_two_subscriptions_are_one_plan(world):
    tell(world, subscription("sub_1", prices=[price()]), subscription("sub_2", prices=[FEE]))
    assert open_drifts(world) == {}


@breaks(
    "pipeline/stripe_mirror/effects.py",
    "minutes if len(minutes) > len(subscriptions) else []",
    "[]",
)
@pytest.mark.parametrize("order", [1, -1])
def test_47_two_items_on_our_meter_block_pushing_and_are_named(world, order):
    added = price("price_pro", "professional")
    its = subscription(prices=[price(), added][::order])
    for item in its["items"]["data"]:
        item["created"] = int((at("20 Nov") if item["price"] is added else PERIOD_START).timestamp())
    tell(world, its)
    assert "second-minutes-item" in open_drifts(world)
    evidence = open_drifts(world)["second-minutes-item"]
    assert [item["item"] for item in evidence["items"]] == ["si_price_pro", "si_price_starter"]
    (row,) = world.rows("select * from subscriptions")
    assert row.metered_price_id == "price_starter"  # as before: it was there first
    world.callback("call", ended=at("20 Nov 11:30"), CallDuration=600)
    world.drain()
    ledger = Ledger(world.engine)
    ledger.run("update refreshes set fetched_mark = mark")  # what was first seen has been fetched
    assert ledger.plan(at("20 Nov 12:00")) == 0
    tell(world, subscription(prices=[price()]), when="20 Nov 11:05")
    assert open_drifts(world) == {}
    ledger.run("update refreshes set fetched_mark = mark")
    assert ledger.plan(at("20 Nov 12:00")) == 1


@breaks(
    "pipeline/stripe_mirror/invoices.py",
    "if price is not None and price.role is PriceRole.MINUTES and line.start < line.end:",
    "if price is not None and line.start < line.end:",
)
def test_51_an_invoice_without_a_line_of_minutes_moves_no_bounds_and_settles_nothing(world):
    tell(world, subscription(prices=[price(), FEE]))
    world.callback("call", ended=at("20 Nov 11:30"), CallDuration=600)
    world.drain()
    before = [(row.period_start, row.period_end, row.state) for row in world.records(world.b)]
    week: dict[str, Any] = {
        "period_start": int(PERIOD_START.timestamp()),
        "period_end": int(at("12 Nov 10:23:45").timestamp()),
    }
    world.now = at("5 Dec 11:00")
    for n, end in enumerate((at("12 Nov 10:23:45"), PERIOD_END)):
        of_fee = line("price_fee", 1, end, end + timedelta(days=7))
        tell(world, invoice(f"in_{n}", lines=lines(of_fee), status="paid", **week), when="5 Dec 10:24")
    assert world.rows("select from stripe_invoice_lines") == []
    assert [(row.period_start, row.period_end, row.state) for row in world.records(world.b)] == before


# With the stand-in


@pytest.fixture
def customers(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


def test_45_minutes_beside_sms_are_invoiced_as_talked_and_nothing_is_carried(customers, tmp_path):
    it, ledger = customers.it, customers.ledger
    clock = Clock(tmp_path / "clock")
    sms = it.control("/stripe/meters", event_name="sms_sent")
    of_sms = it.price("SMS", unit_amount=2, recurring={"interval": "month", "usage_type": "metered", "meter": sms})
    customer = it.customer()
    prices = [of_sms, *customers.prices.values()]
    it.control("/stripe/subscriptions", customer=customer, prices=prices, start=START.isoformat())
    business_id = ledger.insert(
        "businesses", name="B", time_zone="UTC", plan_id=1, stripe_customer_id=customer, created_at=START
    )
    api = customers.api

    def work():
        with ledger.engine.begin() as connection:
            for event in it.events:
                queue.store_event(
                    connection,
                    provider="stripe",
                    key=event["id"],
                    type=event["type"],
                    content_type="application/json",
                    body=json.dumps(event).encode(),
                    now=clock.now(),
                )
        it.events.clear()
        for _ in range(3):
            Drain(ledger.engine, DrainSettings(ACCOUNT, livemode=False), clock).run()
            ledger.run("update refreshes set due_at = now() - interval '1 second'")
            StripeFetcher(ledger.engine, api, clock).run()
            ledger.run("update webhook_events set due_at = now() where state = 'pending'")
        period_close.close_due(ledger.engine, clock.now())
        ledger.plan(clock.now())
        ledger.make_due()
        customers.send(clock.now())

    work()
    _talk(ledger, business_id, 600, clock.now())
    it.client.v1.billing.meter_events.create(
        {"event_name": "sms_sent", "payload": {"stripe_customer_id": customer, "value": "250"}, "identifier": "sms"}
    )
    work()
    for moment in ((2026, 12, 5, 10, 24), (2026, 12, 5, 11, 23), (2026, 12, 5, 12, 0), (2026, 12, 5, 12, 1)):
        it.advance(*moment)
        work()
    record = ledger.rows("select * from usage_records order by period_start")[0]
    assert (record.minutes, record.invoiced_minutes, record.pushed_minutes) == (600, 600, 600)
    assert ledger.rows("select * from usage_adjustments") == []
    assert ledger.drifts() == []
    # What the nightly look finds of it is as it is mirrored.
    assert missed_events.sweep_subscriptions(ledger.engine, api) == 0


def _talk(ledger, business_id, minutes, now):
    with ledger.engine.begin() as connection:
        record = records.record_for(connection, business_id, now, now)
    ledger.call(record.id, minutes)
    ledger.run("update usage_records set minutes = minutes + %s, calls = calls + 1 where id = %s", minutes, record.id)


def test_45_a_subscription_with_many_items_is_fetched_whole(customers, tmp_path):
    it, ledger = customers.it, customers.ledger
    numbers = [it.price(f"Number {n}", unit_amount=200) for n in range(12)]
    customer = it.customer()
    it.control("/stripe/subscriptions", customer=customer, prices=[*numbers, *customers.prices.values()])
    ledger.insert("businesses", name="B", time_zone="UTC", plan_id=1, stripe_customer_id=customer, created_at=START)
    ledger.run(
        "insert into refreshes (kind, object_id, reason, due_at) values ('customer', %s, 'linked', now())", customer
    )
    StripeFetcher(ledger.engine, customers.api, Clock(tmp_path / "clock")).run()
    found = dict(ledger.rows("select role, count(*) from subscription_items group by 1"))
    assert found == {"minutes": 1, "fee": 1, "add-on": 12}
    assert ledger.rows("select event_name, active from stripe_meters") == [("call_minutes", True)]


def test_51_minutes_that_are_billed_by_the_week_make_records_of_a_week(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        (meter,) = stripe.client.v1.billing.meters.list().data
        weekly = {"interval": "week", "usage_type": "metered", "meter": meter.id}
        minutes = stripe.price("Minutes", unit_amount=10, recurring=weekly, metadata={"altiora_plan": "starter"})
        fees = [stripe.price("Fee", unit_amount=4900, recurring={"interval": each}) for each in ("month", "year")]
        stripe.subscribe(life.customer, {"minutes": minutes, "fee": fees[0], "support": fees[1]})
        works.follow(life)
        for week in range(5):
            stripe.run(stripe.timeline.advance(START + timedelta(days=7 * week + 2)))
            life.calls.append(Call(sid_of(f"call-{week}"), life.now, (week + 1) * 60))
            works.follow(life)
            stripe.run(stripe.timeline.advance(START + timedelta(days=7 * (week + 1), hours=6)))
            works.follow(life)
        records = works.rows(
            "select period_start, period_end, minutes, invoiced_minutes from usage_records"
            " where state = 'closed' and settled_at is not null order by period_start"
        )
        assert [row[:2] for row in records] == [
            (START + timedelta(days=7 * number), START + timedelta(days=7 * (number + 1))) for number in range(5)
        ]
        assert [row[2:] for row in records] == [(number + 1, number + 1) for number in range(5)]
        assert works.drifts() == []
