"""Asking Twilio: the listing that brings in lost callbacks and late prices, and fetches of single calls."""

import asyncio
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.businesses import free_numbers
from pipeline.calls import call_listing
from pipeline.calls.call_fetching import CallFetcher
from pipeline.events import fetch_requests
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.reading.numbers import free_numbers_like
from pipeline.shared.clock import Clock
from pipeline.shared.settings import TwilioSettings
from sandbox.delivery import Delivery
from sandbox.faults import Faults
from sandbox.timeline import Timeline
from sandbox.twilio.calls import TwilioCall
from sandbox.twilio.stand_in import TwilioSandbox
from tests.worlds.asgi_server import serving_in_thread
from tests.worlds.world import ACCOUNT, NUMBER_OF_B, World, at

TOKEN = "0123456789abcdef0123456789abcdef"


class Silent(Delivery):
    """Every callback is lost."""

    async def twilio(self, url, params, settled):
        settled(False)


class Line(World):
    """The small world of single events, with a Twilio account that keeps the calls and loses every callback."""

    def connect(self, **settings: Any) -> AbstractContextManager[str]:
        self.timeline = Timeline(self.now, self.clock_file)
        self.faults = Faults(random=Random(1))
        self.twilio = TwilioSandbox(
            self.timeline,
            Silent(Faults(), "whsec", TOKEN, "http://127.0.0.1:1"),
            self.faults,
            ACCOUNT,
            TOKEN,
            **settings,
        )
        return serving_in_thread(self.twilio.app)

    def reach(self, address: str) -> None:
        self.api = TwilioApi(
            TwilioSettings(twilio_account_sid=ACCOUNT, twilio_auth_token=(SecretStr(TOKEN),), twilio_api_base=address)
        )
        self.clock = Clock(self.clock_file)

    def pass_time(self, **span: float) -> None:
        asyncio.run(self.timeline.advance(self.timeline.now + timedelta(**span)))

    def place(self, seconds: int, start: datetime | None = None, **fields: Any) -> TwilioCall:
        return self.twilio.place_call(NUMBER_OF_B, start or self.now, seconds, **fields)

    def list(self) -> int:
        """List if it is time to, and drain; returns how many events that led to."""
        stored = call_listing.list_due(self.engine, self.api, self.clock)
        self.drain()
        return stored

    def fetch(self, sid: str) -> tuple[dict[str, int], set[str]]:
        with self.engine.begin() as connection:
            fetch_requests.request_fetch(connection, "call", sid, "test")
        fetcher = CallFetcher(self.engine, self.api, self.clock)
        counts = fetcher.run()
        self.drain()
        return counts, fetcher.follow_ups

    def stored(self, sid: str) -> Any:
        return next(iter(self.rows("select * from calls where sid = %s", sid)), None)


@pytest.fixture
def line(request, engine, tmp_path):
    made = Line(engine, tmp_path / "clock")
    with made.connect(filters_by_day=getattr(request, "param", False)) as address:
        made.reach(address)
        yield made
    made.assert_sums()


def test_the_numbers_of_the_account_are_read_and_those_that_nobody_holds_can_be_had(line):
    line.twilio.add_number("+15550000042")
    for _ in range(2):
        free_numbers.note_account(line.engine, line.api.list_numbers())
    with line.engine.connect() as connection:
        free = free_numbers_like(connection, "", line.now, 10)
    assert [each.number for each in free] == ["+15550000042"]
    line.faults.script("GET /2010-04-01/Accounts/*/IncomingPhoneNumbers.json", ["500"])
    with pytest.raises(TwilioApiError):
        free_numbers.note_account(line.engine, line.api.list_numbers())
    with line.engine.connect() as connection:
        assert free_numbers_like(connection, "", line.now, 10) == free


def test_a_call_without_a_callback_is_listed_and_counted(line):
    call = line.place(61)
    line.pass_time(minutes=10)
    assert line.list() == 1
    assert line.figures(line.b) == [(1, 61, 2)]
    ((recovered, type_, key),) = line.rows("select recovered, type, key from webhook_events")
    assert (recovered, type_) == (True, "call.completed")
    assert key.startswith(f"{call.sid}:api:")


def test_listing_waits_for_its_time_by_the_business_clock(line):
    assert line.list() == 0
    assert {row.source for row in line.rows("select * from listings")} == {"twilio-calls", "twilio-calls-daily"}
    line.place(61)
    line.pass_time(minutes=30)
    assert line.list() == 0
    line.pass_time(minutes=11)
    assert line.list() == 1
    line.pass_time(minutes=5)
    assert line.list() == 0


def test_a_call_that_is_not_over_or_only_just_is_left_for_the_next_time(line):
    line.place(3600)
    line.pass_time(minutes=59)
    line.place(30)
    line.pass_time(minutes=2)
    assert line.list() == 0
    line.pass_time(minutes=50)
    assert line.list() == 2
    assert line.figures(line.b) == [(2, 3630, 61)]


def test_what_is_listed_again_and_says_nothing_new_is_not_stored(line):
    line.place(61)
    line.place(20, status="busy")
    line.pass_time(hours=1)
    assert line.list() == 2
    line.pass_time(hours=1)
    line.list()  # the price has come
    for _ in range(3):
        line.pass_time(hours=1)
        assert line.list() == 0


def test_a_price_that_came_late_is_found_by_the_daily_listing(line):
    call = line.place(61)
    call.priced_at = call.end + timedelta(hours=20)
    line.pass_time(minutes=10)
    assert line.list() == 1
    assert line.stored(call.sid).price is None
    for _ in range(5):
        line.pass_time(hours=5)
        line.list()
    assert line.stored(call.sid).price == Decimal("0.017")
    assert line.rows("select count(*) from webhook_events") == [(2,)]


def test_a_correction_by_twilio_moves_the_minutes_by_the_difference(line):
    call = line.place(300)
    line.pass_time(minutes=20)
    line.list()
    assert line.figures(line.b) == [(1, 300, 5)]
    line.twilio.correct_call(call.sid, 61)
    line.pass_time(hours=1)
    line.list()
    assert line.figures(line.b) == [(1, 61, 2)]


def test_a_call_that_lasted_all_day_is_found_when_it_has_ended(line):
    line.list()
    line.pass_time(minutes=30)
    line.place(24 * 3600)
    for _ in range(25):
        line.pass_time(hours=1)
        line.list()
    assert line.figures(line.b) == [(1, 24 * 3600, 1440)]
    assert line.rows("select listed_until < %s from listings where source = 'twilio-calls-daily'", at("21 Nov 13:00"))


@pytest.mark.parametrize("state", ["open", "closing"])
def test_a_period_that_ended_and_waits_is_listed_for_within_minutes(line, state):
    line.list()
    line.place(61, line.now + timedelta(minutes=2))
    with line.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into usage_records (business_id, plan_id, period_start, period_end, state, included_minutes,"
            " opened_at) values (%s, 1, %s, %s, %s, 50, %s)",
            (line.f, at("1 Nov"), line.now + timedelta(minutes=5), state, at("1 Nov")),
        )
    line.pass_time(minutes=9)
    assert line.list() == 0, "no calls of its last minutes are sure to be there yet"
    line.pass_time(minutes=2)
    assert line.list() == 1
    line.place(30)
    line.pass_time(minutes=30)
    assert line.list() == 0, "nobody waits for it any more"


def test_a_known_call_is_not_recovered(line):
    call = line.place(61)
    call.priced_at = at("1 Dec")
    line.pass_time(minutes=10)
    line.callback(
        "x",
        CallSid=call.sid,
        CallDuration=61,
        From=call.from_,
        To=call.to,
        ended=call.end,
    )
    line.drain()
    assert line.list() == 0
    assert line.figures(line.b) == [(1, 61, 2)]


def test_a_call_of_nobodys_is_stored_once_and_dead(line):
    line.twilio.place_call("+15550009999", line.now, 61)
    line.pass_time(hours=1)
    for _ in range(4):
        line.list()
        line.pass_time(hours=1)
    dead = line.rows("select state, reason from webhook_events")
    assert dead[0] == ("dead", "unknown-number +15550009999")
    assert len(dead) <= 2  # once more when its price is known


def test_pages_that_overlap_tell_of_a_call_once(line):
    line.faults.duplicate = 1.0
    for number in range(30):
        line.place(60, line.now + timedelta(seconds=number))
    line.pass_time(hours=1)
    calls = list(line.api.list_calls(line.now - timedelta(hours=2), line.now))
    assert len({call["sid"] for call in calls}) == 30
    assert line.list() == 30
    assert line.figures(line.b) == [(30, 1800, 30)]


@pytest.mark.parametrize("line", [False, True], ids=["filters by time", "filters by day"], indirect=True)
def test_the_window_is_exact_whatever_twilio_filters_by(line):
    inside = line.place(60, at("20 Nov 23:30"))
    line.place(60, at("21 Nov 0:30"))
    line.place(60, at("20 Nov 23:29:59"))
    line.pass_time(hours=24)
    found = {call["sid"] for call in line.api.list_calls(at("20 Nov 23:30"), at("21 Nov 0:30"))}
    assert found == {inside.sid}
    zone = at("20 Nov 23:30").astimezone().tzinfo
    shifted = line.api.list_calls(at("20 Nov 23:30").astimezone(zone), at("21 Nov 0:30").astimezone(zone))
    assert {call["sid"] for call in shifted} == {inside.sid}


@pytest.mark.parametrize("fault", ["429", "500", "down"])
def test_a_listing_that_failed_is_due_again(line, fault):
    line.place(61)
    line.pass_time(minutes=10)
    line.faults.script("GET /2010-04-01/Accounts/*/Calls.json", [fault])
    with pytest.raises(TwilioApiError):
        line.list()
    assert line.rows("select * from listings") == []
    assert line.list() == 1


# Single calls


def test_4_a_call_without_a_duration_is_fetched_and_counted(line):
    call = line.place(61)
    line.pass_time(minutes=1, seconds=2)
    line.callback("x", CallSid=call.sid, CallDuration=None, ended=call.end)
    line.drain()
    assert line.figures(line.b) == []
    assert line.wanted() == {call.sid: "no-duration"}
    counts, follow_ups = line.fetch(call.sid)
    assert (counts, follow_ups) == ({"fetched": 1}, {"events.drain"})
    assert line.figures(line.b) == [(1, 61, 2)]
    assert line.wanted() == {}
    assert line.rows("select recovered from webhook_events where key like %s", f"{call.sid}:api:%") == [(False,)]


def test_a_fetch_that_says_nothing_new_stores_nothing(line):
    call = line.place(61)
    call.priced_at = at("1 Dec")
    line.pass_time(minutes=2)
    line.callback("x", CallSid=call.sid, CallDuration=61, From=call.from_, To=call.to, ended=call.end)
    line.drain()
    assert line.fetch(call.sid) == ({"fetched": 1}, set())
    assert line.rows("select count(*) from webhook_events") == [(1,)]


def test_10a_an_event_that_waits_for_its_call_goes_on_when_that_was_fetched(line):
    call = line.place(61)
    line.pass_time(minutes=2)
    key = line.callback("x", CallSid=call.sid, CallDuration=61, To="", ended=call.end)
    line.drain()
    assert line.event(key) == ("pending", "awaiting-call")
    line.fetch(call.sid)
    line.drain()
    assert line.event(key) == ("processed", None)
    assert line.figures(line.b) == [(1, 61, 2)]


def test_10a_a_call_that_twilio_does_not_know_ends(line):
    key = line.callback("x", To="client:anna")
    line.drain()
    assert line.event(key) == ("pending", "awaiting-call")
    ((sid,),) = line.rows("select object_id from refreshes")
    assert line.fetch(sid)[0] == {"fetched": 1}
    assert line.event(key) == ("dead", "unknown-number")


@pytest.mark.parametrize(("fault", "attempts"), [("429", 0), ("401", 0), ("500", 1), ("down", 1)])
def test_trouble_at_twilio_is_waited_out(line, fault, attempts):
    call = line.place(61)
    line.pass_time(minutes=2)
    line.faults.script("GET /2010-04-01/Accounts/*/Calls/*", [fault])
    assert line.fetch(call.sid)[0] == {"failed": 1}
    assert line.rows("select attempts from refreshes") == [(attempts,)]
