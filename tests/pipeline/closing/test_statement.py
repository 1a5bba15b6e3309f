"""`altiora statement`: what was frozen, as text, JSON and a page, and whether its calls still are that."""

import re
import subprocess
import sys
from datetime import timedelta

import pytest

from pipeline.closing import period_close
from pipeline.reading import statement_page
from pipeline.reading.period_money import InvoiceCharge, PeriodInvoice, PeriodMoney
from pipeline.reading.statement_check import NumbersCalls
from pipeline.reading.statement_page import Breakdown
from tests.worlds.world import NUMBER_OF_F, World, at


@pytest.fixture
def world(engine, tmp_path, altiora):
    return World(engine, tmp_path / "clock")


@pytest.fixture
def closed(world):
    """F's November in New York, with two calls, closed on the 4th of December."""
    world.callback("first", To=NUMBER_OF_F, ended=at("20 Nov 03:30"), CallDuration=61)
    world.callback("second", To=NUMBER_OF_F, ended=at("20 Nov 11:00"), CallDuration=3000)
    world.drain()
    world.now = at("4 Dec 06:00")
    assert period_close.close_due(world.engine, world.now)["closed"] == 1
    return world


def change(world, sql, *parameters):
    with world.engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters)


def test_an_open_period_has_no_statement_yet(altiora, world):
    world.callback()
    world.drain()
    said = altiora("statement", "B", "current", status=1)
    assert "this period is open: its statement is frozen when it closes; `altiora explain`" in said


def test_the_statement_is_told_and_given_as_json(altiora, closed):
    frozen = altiora.json("statement", "F", "2026-11")
    assert (frozen["minutes"], frozen["unbilled"], frozen["sources"]) == (52, 2, "incomplete")
    said = altiora("statement", "F", "last")
    assert re.search(r"minutes +52\n +included +50\n +overage +0\n +unbilled +2", said)
    assert frozen["calls_sha256"] in said


# Periods by name


@pytest.mark.parametrize(
    "period", ["2026-11", "2026-11-20", "2026-11-30", "2026-11-20T15:00", "2026-11-01T04:00:00+00:00", "last"]
)
def test_a_period_is_named_by_its_month_a_day_or_a_time_inside_it(altiora, closed, period):
    assert altiora.json("statement", "F", period)["minutes"] == 52


def test_a_period_that_is_not_there_says_which_are(altiora, closed):
    said = altiora("statement", "F", "2026-10", status=1)
    assert "F has no period 2026-10; there are: 2026-11-01 04:00:00 to 2026-12-01 05:00:00 UTC (closed)" in said
    assert "there are: 2026-11-01" in altiora("statement", "F", "current", status=1)
    assert "B has no billing period yet" in altiora("statement", "B", "current", status=1)
    assert "November is no time: write 2026-11" in " ".join(altiora("statement", "F", "November", status=2).split())


def test_a_month_is_that_in_which_the_period_begins_and_a_day_may_be_in_two(altiora, world):
    change(world, "update subscriptions set period_start = '2026-10-05 10:00', period_end = '2026-11-05 10:00',"
                  " billing_cycle_anchor = '2026-10-05 10:00', started_at = '2026-10-05 10:00'")  # fmt: skip
    for ended in ("1 Nov 12:00", "20 Nov 12:00"):
        world.callback(ended, ended=at(ended))
    world.drain()
    assert "this period is open" in altiora("statement", "B", "2026-11", status=1)
    said = altiora("statement", "B", "2026-11-05", status=1)
    assert "2026-11-05 is in 2 periods; name a time inside one: 2026-10-05 10:00:00 to 2026-11-05 10:00:00" in said
    assert "this period is" in altiora("statement", "B", "2026-11-05T11:00", status=1)


# Verification


def test_the_hash_of_an_untouched_statement_holds(altiora, closed):
    verified = altiora.json("statement", "F", "2026-11", "--verify")
    assert verified["intact"]
    assert verified["frozen"] == verified["counted"] == verified["present"]
    assert verified["since"] == []
    assert "The statement still is that of its calls." in altiora("statement", "F", "2026-11", "--verify")


def test_late_corrections_and_late_calls_are_named_and_leave_it_intact(altiora, closed):
    closed.api_answer("first", to=NUMBER_OF_F, duration="200", end_time="Fri, 20 Nov 2026 03:30:00 +0000")
    closed.callback("late", To=NUMBER_OF_F, ended=at("21 Nov 10:00"), CallDuration=60)
    closed.drain()
    verified = altiora.json("statement", "F", "2026-11", "--verify")
    assert verified["frozen"] == verified["counted"] != verified["present"]
    assert [(each["counted_minutes"], each["minutes"], each["carried"]) for each in verified["since"]] == [
        (2, 4, 2),
        (0, 1, 1),
    ]
    said = altiora("statement", "F", "2026-11", "--verify")
    assert "at the close 61 s, 2 min; now 200 s, 4 min; carried +2" in said
    assert "at the close not there; now 60 s, 1 min; carried +1" in said
    assert "2 calls became known later, and are carried." in said


@pytest.mark.parametrize(
    "tampered",
    [
        "update calls set counted_seconds = 62, seconds = 62 where counted_minutes = 2",
        "update calls set ended_at = ended_at + interval '1 second' where counted_minutes = 2",
        "delete from calls where counted_minutes = 2",
        "update calls set minutes = 3 where counted_minutes = 2",
    ],
)
def test_what_was_changed_behind_the_drain_is_found(altiora, closed, tampered):
    change(closed, tampered)
    assert not altiora.json("statement", "F", "2026-11", "--verify", status=1)["intact"]
    assert "the calls are not what was frozen" in altiora("statement", "F", "2026-11", "--verify", status=1)


# The page


def test_the_page_stands_alone_and_shows_the_period_in_the_businesss_own_time(altiora, closed, tmp_path):
    altiora("statement", "F", "2026-11", "--html", tmp_path / "f.html")
    html = (tmp_path / "f.html").read_text()
    assert "1 November 2026 to 30 November 2026" in html
    assert "America/New_York" in html
    assert re.search(r"<td>Thu 19 Nov</td>.*?>1<.*?>0:01:01<.*?>2<", html), "by local days"
    assert re.search(rf"<td>\{NUMBER_OF_F}</td>.*?>2<.*?>0:51:01<.*?>52<", html)
    assert altiora.json("statement", "F", "2026-11")["calls_sha256"] in html
    assert re.findall(r"(?:src|href|@import|url\()", html) == []
    assert "@page { size: A4" in html


def test_the_page_escapes_whatever_it_is_given(altiora, closed, tmp_path):
    evil = "<script>alert(1)</script>"
    frozen = altiora.json("statement", "F", "2026-11")
    frozen["business"]["name"] = frozen["plan_name"] = frozen["calls_sha256"] = evil
    frozen["each_adjustment"] = [
        {"kind": "carried", "minutes": -3, "call": evil, "reason": "correction", "period": frozen["period"]}
    ]
    charges = [InvoiceCharge("add-on", evil, "1", 100)]
    invoice = PeriodInvoice("in_1", evil, "paid", "usd", charges, 0, 0, 100, 100, [])
    costs = PeriodMoney(1, "usd", 4900, [], 0, charged=True, invoice=invoice)
    html = statement_page.page(1, frozen, Breakdown([], [NumbersCalls(evil, calls=1, seconds=1, minutes=1)]), costs)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 10
    assert "Correction of a call" in html
    assert ">−3<" in html  # noqa: RUF001 - a minus sign


def test_the_page_goes_to_standard_output_or_where_the_caller_stands(closed, environment, tmp_path):
    """As in a container whose own folder is read-only: `altiora statement … --html - > page.html`."""
    here = tmp_path / "here"
    here.mkdir()

    def run(to: str) -> str:
        command = [sys.executable, "-P", "-m", "ops.cli", "statement", "F", "2026-11", "--html", to]
        settings = environment | {"PATH": "", "ALTIORA_CLOCK": str(tmp_path / "clock")}
        answer = subprocess.run(command, env=settings, cwd=here, capture_output=True, text=True, check=True, timeout=60)
        return answer.stdout

    page = run("-")
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert run("f.html") == "Wrote f.html; a browser prints it on A4, or as a PDF.\n"
    assert (here / "f.html").read_text() == page.removesuffix("\n")


def test_a_page_that_can_not_be_written_is_a_sentence(altiora, closed, tmp_path):
    said = altiora("statement", "F", "2026-11", "--html", tmp_path / "no" / "f.html", status=1)
    assert "can't be written (No such file or directory)" in said
    altiora("statement", "F", "2026-11", "--html", tmp_path / "f.html", "--json", status=2)


def test_a_period_without_a_call_is_a_page_too(altiora, world, tmp_path):
    world.callback("only", To=NUMBER_OF_F, CallDuration=60)
    world.drain()
    world.api_answer("only", to=NUMBER_OF_F, status="busy", duration="0")
    world.drain()
    world.now = at("4 Dec 06:00") + timedelta(days=1)
    period_close.close_due(world.engine, world.now)
    altiora("statement", "F", "2026-11", "--html", tmp_path / "f.html")
    assert "There was no call in this period." in (tmp_path / "f.html").read_text()
