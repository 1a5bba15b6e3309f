"""Twilio's totals of each GMT day beside the calls that we hold."""

from datetime import timedelta
from decimal import Decimal

import pytest

from pipeline.calls import daily_totals
from pipeline.providers.twilio_api import TwilioApiError
from pipeline.reading.period_money import MonthRow, month_rows
from tests.pipeline.calls.test_listing import Line
from tests.worlds.world import at, sid_of


@pytest.fixture
def line(engine, tmp_path):
    made = Line(engine, tmp_path / "clock")
    with made.connect() as address:
        made.reach(address)
        daily_totals.compare_due_days(made.engine, made.api, made.now)  # from tomorrow on, days are ours
        made.pass_time(hours=12)
        yield made
    made.assert_sums()


def compare(line: Line) -> dict[str, int]:
    counts = dict(daily_totals.compare_due_days(line.engine, line.api, line.now))
    line.drain()
    return counts


def two_days_later(line: Line) -> None:
    for _ in range(5):
        line.pass_time(hours=10)
        line.list()


def drifts(line: Line) -> list[tuple[str, str]]:
    return [tuple(row) for row in line.rows("select kind, subject from drifts where resolved_at is null order by id")]


def test_a_day_agrees_when_all_its_calls_are_here(line):
    line.place(61)
    line.place(300, direction="outbound-api")
    line.place(20, status="busy")
    line.place(7200, at("21 Nov 23:00"))
    line.pass_time(hours=25)
    line.list()
    assert compare(line) == {}, "its longest call may still be going on"
    line.pass_time(hours=25)
    assert compare(line) == {}, "nothing has been listed since"
    line.list()
    assert compare(line) == {"agree": 1}
    assert drifts(line) == []
    assert compare(line) == {}, "once"


def test_a_call_that_is_not_here_comes_in_and_the_day_agrees_then(line):
    two_days_later(line)
    call = line.place(61, at("21 Nov 12:00"))  # what no listing has shown
    assert compare(line) == {"differ": 1, "stored": 1}
    ((expected, actual, evidence),) = line.rows("select expected, actual, evidence from drifts")
    assert expected == "calls-inbound: 1 calls, 2 minutes"
    assert actual == "calls-inbound: 0 calls, 0 minutes"
    assert evidence["not_ours"] == [call.sid]
    assert line.figures(line.b) == [(1, 61, 2)]
    assert line.rows("select recovered from webhook_events") == [(True,)]
    assert compare(line) == {"agree": 1}
    assert drifts(line) == []


def test_a_duration_that_differs_is_corrected(line):
    call = line.place(61)
    two_days_later(line)
    line.twilio.correct_call(call.sid, 600)
    assert compare(line) == {"differ": 1, "stored": 1}
    assert line.figures(line.b) == [(1, 600, 10)]
    assert compare(line) == {"agree": 1}


def test_a_call_that_twilio_does_not_know_is_a_drift_until_it_does(line):
    line.place(61)
    line.callback("forged", CallDuration=600, ended=at("21 Nov 12:00"))
    line.drain()
    two_days_later(line)
    assert compare(line) == {"differ": 1}
    assert drifts(line) == [("twilio-day", "day:2026-11-21"), ("unknown-at-twilio", f"call:{sid_of('forged')}")]
    ((business_id, actual),) = line.rows("select business_id, actual from drifts where kind = 'unknown-at-twilio'")
    assert (business_id, actual) == (line.b, "404, and 10 minutes are counted for it")
    known = line.place(600, at("21 Nov 11:50"))
    line.twilio._calls[sid_of("forged")] = known
    known.sid = sid_of("forged")
    assert compare(line) == {"agree": 1}
    assert drifts(line) == []


def test_a_day_on_a_number_of_nobodys_differs(line):
    line.twilio.place_call("+15550009999", line.now, 61)
    two_days_later(line)
    assert compare(line) == {"differ": 1}
    assert drifts(line) == [("twilio-day", "day:2026-11-21")]


@pytest.mark.parametrize("fault", ["429", "500", "down"])
def test_a_day_that_could_not_be_compared_is_due_again(line, fault):
    two_days_later(line)
    line.faults.script("GET /2010-04-01/Accounts/*/Usage/Records/Daily.json", [fault])
    with pytest.raises(TwilioApiError):
        compare(line)
    assert compare(line) == {"agree": 1}


# What it costs


def test_the_cost_of_a_record_stands_beside_what_its_plan_brings_in(line):
    line.place(61)
    two_days_later(line)
    late = line.place(3600)
    late.priced_at = at("1 Dec")
    line.pass_time(hours=2)
    line.list()
    line.list()

    def read(currency: str | None) -> list[MonthRow]:
        with line.engine.begin() as connection:
            connection.exec_driver_sql(
                'update usage_records set currency = %s, tiers = \'[[1, "0", "0"], [null, "7.5", "0"]]\'', (currency,)
            )
            return month_rows(connection, line.now - timedelta(days=40), line.now, line.b)

    def told(currency: str | None) -> list[tuple[str, int, Decimal, Decimal]]:
        return [(row.currency, row.minutes_amount, row.cost, row.margin) for row in read(currency)]

    cost = Decimal("0.017")
    assert {(row.plan, row.minutes, row.unpriced_calls) for row in read("usd")} == {("starter", 62, 1)}
    assert told("usd") == [("usd", 458, cost, Decimal("4.58") - cost)]
    yen = Decimal(458)
    assert told("jpy") == [("jpy", 458, Decimal(0), yen), ("usd", 0, cost, -cost)], "never one sum of two currencies"
