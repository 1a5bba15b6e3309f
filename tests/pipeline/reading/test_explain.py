"""`altiora explain`: every figure of a period, what it is made of, and that the parts add up."""

import os
import re
import sys
import time
from datetime import timedelta

import pytest
from sqlalchemy import event

from pipeline.closing import period_close
from pipeline.reading import explanation
from tests.worlds.ledger import NOON, PERIOD_END, PERIOD_START, Ledger
from tests.worlds.world import NUMBER_OF_B, NUMBER_OF_F, World, at, sid_of


@pytest.fixture(autouse=True)
def wide(altiora):
    """A terminal in which no line is broken."""
    os.environ["COLUMNS"] = "400"


@pytest.fixture
def world(engine, tmp_path, altiora):
    return World(engine, tmp_path / "clock")


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def change(world, sql, *parameters):
    with world.engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters)


def sums(told):
    return {each["figure"]: each for each in told["sums"]}


def test_in_80_columns_lines_are_broken_and_set_in(altiora, world):
    world.callback("first", ended=at("20 Nov 10:00"), CallDuration=61)
    world.drain()
    os.environ["COLUMNS"] = "80"
    said = altiora("explain", "B", "current").splitlines()
    assert max(map(len, said)) <= 80


def test_a_running_period_is_taken_apart(altiora, world):
    world.callback("ringing", CallStatus="ringing", SequenceNumber=1)
    world.callback("first", ended=at("20 Nov 10:00"), CallDuration=61)
    world.callback("second", ended=at("20 Nov 11:00"), CallDuration=60)
    world.callback("busy", CallStatus="busy", ended=at("20 Nov 11:10"))
    world.callback("child", ParentCallSid=sid_of("first"), ended=at("20 Nov 11:20"))
    world.callback("unknown", CallDuration=None, ended=at("20 Nov 11:30"))
    world.drain()
    told = altiora.json("explain", "B", "current")
    assert told["adds_up"]
    assert {each["why"]: (each["calls"], each["minutes"]) for each in told["calls"]["groups"]} == {
        "counted": (2, 3),
        "busy": (1, 0),
        "child-leg": (1, 0),
        "unknown-seconds": (1, 0),
    }
    assert [call["rounding"] for call in told["calls"]["counted"]] == [
        "61 s -> 2 minutes, in steps of 60 s",
        "60 s -> 1 minute, in steps of 60 s",
    ]
    assert sums(told)["minutes"]["parts"] == [{"amount": 3, "of": "of 2 calls"}, {"amount": 0, "of": "carried"}]
    said = altiora("explain", "B", "current")
    assert "minutes     adds up: 3 = 3 of 2 calls\n" in said
    assert re.search(r"CA\w+  ended 2026-11-20 10:00:00: 61 s -> 2 minutes, in steps of 60 s; counted", said)
    assert "not counted: busy" in said
    assert "not counted: a child leg, whose parent is billed" in said
    assert "not counted: completed, and its seconds are not known yet" in said


def test_a_child_leg_is_explained_by_the_setting_that_bills_it(altiora, world, monkeypatch):
    """One that was never counted is counted nowhere where the setting bills it: its events are to be applied again."""
    monkeypatch.setenv("ALTIORA_BILL_CHILD_LEGS", "true")
    world.callback("parent", ended=at("20 Nov 10:00"))
    world.callback("counted", ParentCallSid=sid_of("parent"), ended=at("20 Nov 10:00"))
    world.drain(bill_child_legs=True)
    world.callback("not counted", ParentCallSid=sid_of("parent"), ended=at("20 Nov 10:05"))
    world.drain(bill_child_legs=False)
    groups = altiora.json("explain", "B", "current", status=1)["calls"]["groups"]
    assert {each["why"]: each["calls"] for each in groups} == {"counted": 2, "nowhere": 1}


def test_the_events_behind_a_call_are_told(altiora, world):
    world.callback("call", CallStatus="ringing", SequenceNumber=1)
    key = world.callback("call", CallDuration=61)
    world.callback("call2", CallDuration=61)
    world.drain()
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set recovered = true where key = %s", (key,))
    calls = {call["sid"]: call for call in altiora.json("explain", "B", "current")["calls"]["counted"]}
    first, second = calls[sid_of("call")]["events"]
    assert (first["id"], first["decided"], first["recovered"]) == (1, False, False)
    assert (second["id"], second["key"], second["decided"], second["recovered"]) == (2, key, True, True)
    said = altiora("explain", "B", "current")
    assert re.search(r"event 2 :completed:3:\w+ received 2026-11-20 12:00:00, processed, recovered, decides", said)


# Bounds and plan


def test_bounds_of_a_subscription_come_from_its_item_or_its_invoice_or_its_anchor(altiora, world, ledger):
    world.callback()
    world.drain()
    record = altiora.json("explain", "B", "current")["record"]
    item = f"the current period of item si_{world.b} of subscription sub_{world.b}"
    assert (record["start"]["reason"], record["end"]["reason"]) == (item, item)
    assert record["plan"]["metered_price"] == "price_starter"
    later = (PERIOD_END, at("5 Jan 10:23:45"))
    change(world, "update subscriptions set period_start = %s, period_end = %s", *later)
    record = altiora.json("explain", "B", "current")["record"]
    assert record["start"]["reason"] == f"a month of the billing cycle anchor of subscription sub_{world.b}"
    ledger.invoice(record["id"])
    record = altiora.json("explain", "B", "current")["record"]
    assert record["start"]["reason"] == f"the period that invoice in_{record['id']} bills"


def test_a_cut_says_what_cut_it(altiora, world):
    world.callback()
    world.drain()
    change(world, "update usage_records set period_end = '2026-11-20 15:00'")
    change(world, "update subscriptions set ended_at = '2026-11-20 15:00'")
    record = altiora.json("explain", "B", "current")["record"]
    assert record["end"]["reason"] == f"subscription sub_{world.b} ended"
    change(world, "update subscriptions set ended_at = null, billing_cycle_anchor = '2026-11-07'")
    assert altiora.json("explain", "B", "current")["record"]["end"]["reason"].startswith("what Stripe said")


def test_without_a_subscription_the_month_is_the_businesss_own(altiora, world):
    world.callback(To=NUMBER_OF_F)
    world.drain()
    said = altiora("explain", "F", "current")
    assert "from  2026-11-01 04:00:00 UTC (2026-11-01 00:00:00 America/New_York): the calendar month in" in said
    assert "50 minutes included, more is unbilled, and limits the business; steps of 60 s" in said
    assert "invoice: none that is known" in said


# Figures


def test_overage_and_alerts_name_the_call_that_crossed(altiora, world):
    for name, minutes in (("a", 39), ("b", 2), ("c", 11)):
        world.callback(name, To=NUMBER_OF_F, CallDuration=minutes * 60)
        world.drain()
    told = altiora.json("explain", "F", "current", "--figure", "alert")
    assert told.keys() == {"business", "record", "alerts", "sums", "adds_up"}
    crossed = {each["kind"]: (each["threshold"], each["crossed_by"]["sid"]) for each in told["alerts"]}
    assert crossed == {"minutes-80": (40, sid_of("b")), "minutes-100": (50, sid_of("c"))}
    said = altiora("explain", "F", "current")
    assert f"{sid_of('b')} crossed 40: from 39 to 41 minutes" in said
    assert "unbilled    adds up: 2 = 52 used - 50 of 50 included" in said
    world.api_answer("b", to=NUMBER_OF_F, duration="0")
    world.api_answer("c", to=NUMBER_OF_F, duration="0", fetch=2)
    world.drain()
    assert "its calls don't reach 40 any more" in altiora("explain", "F", "current", "--figure", "alert")
    assert "overage" in altiora("explain", "F", "current", "--figure", "gold", status=2)


def test_pushes_and_the_invoice_are_told_and_add_up(altiora, ledger):
    record_id = ledger.paying(12)
    for _ in range(4):
        ledger.call(record_id, 3)
    ledger.run("update usage_records set calls = 4, seconds = 720")
    ledger.sent(record_id, 5)
    ledger.push(record_id, 4, NOON.replace(second=0), state="unknown", attempts=2, answer="500: try later")
    ledger.invoice(record_id)
    told = altiora.json("explain", "B", "2026-11", "--figure", "push")
    assert sums(told)["for Stripe"]["parts"] == [
        {"amount": 5, "of": "pushed"},
        {"amount": 4, "of": "without an answer"},
        {"amount": 3, "of": "is not planned yet"},
    ]
    said = altiora("explain", "B", "2026-11")
    assert "+4 for 2026-11-20 12:00:00, unknown, 2 tries; Stripe: 500: try later" in said
    assert f"invoice in_{record_id}: draft, finalises 2026-12-05 11:23:45; 5 minutes, 49.00 USD" in said


def test_a_settled_period_is_its_invoice_and_what_was_carried_on(altiora, ledger):
    record_id = ledger.paying(9, state="closing", calls=1, seconds=540)
    ledger.call(record_id, 9)
    ledger.following(record_id)
    ledger.sent(record_id, 5)
    ledger.invoice(record_id, status="open", minutes=5)
    period_close.close_due(ledger.engine, PERIOD_END + timedelta(hours=2))
    said = altiora("explain", "B", "2026-11")
    assert "for Stripe  adds up: 9 = 5 on the final invoice + 4 carried on, as the invoice lacks them" in said
    assert re.search(r"2026-12-05 12:23:45  settled, by its final invoice, with 5 minutes", said)
    assert re.search(r"\+4 carried out of this period, into record 2: the difference to the final invoice", said)
    said = altiora("explain", "B", "2026-12")
    assert "minutes     adds up: 4 = 4 carried\n" in said
    assert "+4 carried in, of the period 2026-11-05 10:23:45 to 2026-12-05 10:23:45: the difference" in said
    ledger.run("update usage_adjustments set minutes = 3")
    assert altiora("explain", "B", "2026-11", status=1).startswith("altiora: does not add up: for Stripe;")


def test_what_a_closed_period_learned_since_is_carried(altiora, world):
    world.callback("early", To=NUMBER_OF_F, ended=at("20 Nov 10:00"), CallDuration=60)
    world.drain()
    world.now = at("4 Dec 06:00")
    period_close.close_due(world.engine, world.now)
    world.callback("late", To=NUMBER_OF_F, ended=at("20 Nov 10:10"), CallDuration=120)
    world.api_answer("early", to=NUMBER_OF_F, duration="200", end_time="Fri, 20 Nov 2026 10:00:00 +0000")
    world.drain()
    said = altiora("explain", "F", "2026-11")
    assert "known since adds up: 5 = 5 carried out of it or written off" in said
    assert "60 s -> 1 minute, in steps of 60 s; corrected since to 200 s, 4 minutes" in said
    assert "not counted here: known only after the period was closed" in said
    change(world, "delete from usage_adjustments where call_sid = %s", sid_of("late"))
    assert "does not add up: known since" in altiora("explain", "F", "2026-11", status=1)


@pytest.mark.parametrize(
    ("planted", "figure"),
    [
        ("update usage_records set minutes = minutes + 1", "minutes"),
        ("update usage_records set calls = calls + 1", "calls"),
        ("update usage_records set seconds = seconds + 1", "seconds"),
        ("update usage_records set adjustment_minutes = 1", "carried"),
        ("update usage_records set pushed_minutes = 1", "pushed"),
        ("update calls set counted_minutes = 3, minutes = 3 where counted_minutes = 2", "minutes, rounding"),
        (
            "update calls set counted = false, counted_minutes = 0, counted_seconds = 0, usage_record_id = null",
            "minutes, calls, seconds, counted nowhere",
        ),
    ],
)
def test_what_does_not_add_up_is_said_and_ends_with_1(altiora, world, planted, figure):
    world.callback("one", CallDuration=61)
    world.callback("two", CallDuration=60)
    world.drain()
    assert altiora.json("explain", "B", "current")["adds_up"]
    change(world, planted)
    run = altiora.run("explain", "B", "current")
    assert run.exit_code == 1
    assert "DOES NOT ADD UP" in run.stdout
    assert f"does not add up: {figure};" in run.stderr
    assert not altiora.json("explain", "B", "current", status=1)["adds_up"]


# Many calls


def test_ten_thousand_calls_are_told_by_as_many_statements_and_lines_as_a_hundred(altiora, ledger, capsys):
    small, large = ledger.paying(0), ledger.paying(0)
    for record_id, count in ((small, 100), (large, 10_000)):
        ledger.run(
            "insert into calls (sid, business_id, number, status, rank, started_at, ended_at, seconds, minutes,"
            " counted, counted_minutes, counted_seconds, usage_record_id, event_id)"
            " select 'CA' || r.id || lpad(n::text, 30, '0'), r.business_id, %s, 'completed', 1, r.period_start,"
            " r.period_start + n * interval '1 minute', 61, 2, true, 2, 61, r.id, n"
            " from usage_records r, generate_series(1, %s) n where r.id = %s",
            NUMBER_OF_B, count, record_id,
        )  # fmt: skip
        ledger.run(
            "update usage_records set calls = %s, seconds = %s, minutes = %s where id = %s",
            count, count * 61, count * 2, record_id,
        )  # fmt: skip
    for kind, value in (("minutes-80", 400), ("minutes-100", 500)):
        ledger.run(
            'insert into usage_alerts (business_id, kind, usage_record_id, plan_id, value, "limit", raised_at)'
            " select business_id, %s, id, plan_id, %s, 500, %s from usage_records where id = %s",
            kind, value, PERIOD_START, large,
        )  # fmt: skip
    ledger.run("analyze calls")
    few, many, summed = (_cost(ledger, each) for each in (small, large, None))
    assert many[0] <= few[0] + 2, "one more for each alert, none for any call"
    assert [len(each[2].calls.counted) for each in (few, many)] == [20, 20]
    assert many[2].calls.counted_more == 9_980
    assert all(each[2].adds_up for each in (few, many))
    ratios = f"{many[1] / few[1]:.1f} x one of 100 calls, {many[1] / summed[1]:.1f} x the mere sum of its calls"
    with capsys.disabled():
        sys.stdout.write(f"\nexplaining 10,000 calls took {ratios}\n")
    assert "and 9,980 more counted calls; --limit lists more" in altiora("explain", "2", "2026-11")
    assert len(altiora.json("explain", "2", "2026-11", "--limit", "30")["calls"]["counted"]) == 30


def _cost(ledger, record_id):
    """Statements, seconds and the answer of explaining a record; of the mere sum of all calls for None."""
    statements = []
    listener = lambda *arguments: statements.append(arguments[2])  # noqa: E731 - named, to be taken away again
    event.listen(ledger.engine, "before_cursor_execute", listener)
    begun = time.perf_counter()
    with ledger.engine.connect() as connection:
        if record_id is None:
            told = connection.exec_driver_sql("select count(*), sum(minutes) from calls").one()
        else:
            told = explanation.explain(connection, record_id, limit=20, bill_child_legs=False)
    took = time.perf_counter() - begun
    event.remove(ledger.engine, "before_cursor_execute", listener)
    return len(statements), took, told
