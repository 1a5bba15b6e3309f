"""The Twilio stand-in against Twilio's own client: calls, lists and callbacks have the shapes of facts about Twilio."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from starlette.applications import Starlette
from twilio.base.exceptions import (  # type: ignore[import-untyped]  # twilio publishes no types
    TwilioException,
    TwilioRestException,
)
from twilio.rest import Client  # type: ignore[import-untyped]  # twilio publishes no types

from sandbox.control import Control
from sandbox.delivery import Delivery
from sandbox.faults import Faults
from sandbox.timeline import Timeline
from sandbox.traffic import Business, populate
from sandbox.twilio.stand_in import TwilioSandbox
from tests.worlds.asgi_server import serving_in_thread

SID = "AC" + "0" * 32
TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC = "https://billing.example.com"
START = datetime(2026, 11, 5, 10, 0, tzinfo=UTC)
OURS = "+15550000001"
MINUTE = timedelta(minutes=1)


class Callbacks(Delivery):
    """A delivery that sends nothing and keeps the callbacks; ``answered`` is what becomes of them."""

    def __init__(self) -> None:
        super().__init__(Faults(), "whsec_test", TOKEN, PUBLIC)
        self.sent: list[tuple[str, dict[str, str]]] = []
        self.answered = True

    async def twilio(self, url, params, settled):
        self.sent.append((url, params))
        settled(self.answered)


class World:
    """A stand-in, its clock and its callbacks, with nothing served."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.timeline = Timeline(START, folder / "clock")
        self.delivery = Callbacks()
        self.faults = Faults(random=Random(1))
        self.twilio = TwilioSandbox(self.timeline, self.delivery, self.faults, SID, TOKEN, **settings)

    def pass_time(self, **span: float) -> None:
        asyncio.run(self.timeline.advance(self.timeline.now + timedelta(**span)))

    @contextlib.contextmanager
    def client(self, token: str = TOKEN) -> Iterator[Client]:
        with serving_in_thread(self.twilio.app) as address:
            client = Client(SID, token)
            client.api.base_url = address
            yield client
            client.http_client.session.close()


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


# The API


def test_a_call_as_the_client_sees_it_while_it_goes_on_after_it_and_when_its_price_is_known(world):
    call = world.twilio.place_call(OURS, START + MINUTE, 61, other="+447700900123")
    with world.client() as client:
        with pytest.raises(TwilioRestException) as missing:
            client.calls(call.sid).fetch()
        assert (missing.value.status, missing.value.code) == (404, 20404)

        world.pass_time(seconds=57)
        ringing = client.calls(call.sid).fetch()
        assert (ringing.status, ringing.start_time) == ("ringing", None)

        world.pass_time(seconds=10)
        going_on = client.calls(call.sid).fetch()
        assert (going_on.status, going_on.duration, going_on.end_time) == ("in-progress", None, None)
        assert going_on.start_time == START + MINUTE

        world.pass_time(seconds=54)
        over = client.calls(call.sid).fetch()
        assert (over.status, over.duration, over.price) == ("completed", "61", None)
        assert (over.from_formatted, over.to, over.direction) == ("+447700900123", OURS, "inbound")
        assert over._from == "+447700900123"
        assert over.end_time == START + MINUTE + timedelta(seconds=61)
        assert over.phone_number_sid.startswith("PN")

        world.pass_time(hours=1)
        priced = client.calls(call.sid).fetch()
        assert (Decimal(priced.price), priced.price_unit) == (Decimal("-0.017"), "USD")


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
def test_a_call_that_never_was_has_no_duration_no_end_and_no_price(world, status):
    call = world.twilio.place_call(OURS, START, 20, status)
    world.pass_time(hours=2)
    with world.client() as client:
        seen = client.calls(call.sid).fetch()
    assert (seen.status, seen.duration, seen.end_time, seen.price) == (status, "", None, None)


def test_the_list_is_paged_newest_first_and_holds_no_call_of_the_future(world):
    placed = [world.twilio.place_call(OURS, START + n * MINUTE, 30) for n in range(7)]
    world.pass_time(minutes=4, seconds=30)
    with world.client() as client:
        listed = [call.sid for call in client.calls.list(page_size=2)]
        assert listed == [call.sid for call in reversed(placed[:5])]
        first = client.calls.page(page_size=2)
        assert first._payload["page_size"] == 2
        assert first._payload["previous_page_uri"] is None
        assert first.next_page()._payload["page"] == 1
        assert len(client.calls.list(page_size=2, limit=3)) == 3
        assert client.calls.page(page_size=5)._payload["next_page_uri"] is None


def test_a_list_of_nothing_is_one_empty_page(world):
    with world.client() as client:
        assert client.calls.list() == []


def test_a_page_may_repeat_the_last_call_of_the_one_before(world):
    placed = [world.twilio.place_call(OURS, START + n * MINUTE, 30) for n in range(5)]
    world.faults.duplicate = 1.0
    world.pass_time(hours=1)
    with world.client() as client:
        listed = [call.sid for call in client.calls.list(page_size=2)]
    assert set(listed) == {call.sid for call in placed}
    assert len(listed) > len(set(listed))


def test_filters_by_number_parent_and_status(world):
    twilio = world.twilio
    parent = twilio.place_call(OURS, START, 300, other="+447700900001")
    child = twilio.place_call(OURS, START + MINUTE, 60, child_of=parent.sid, other="+447700900002")
    outgoing = twilio.place_call(OURS, START, 20, "busy", "outbound-api", other="+447700900001")
    world.pass_time(hours=1)
    with world.client() as client:

        def found(**filters: str) -> set[str]:
            return {call.sid for call in client.calls.list(**filters)}

        assert found(to=OURS) == {parent.sid}
        assert found(from_=OURS) == {child.sid, outgoing.sid}
        assert found(parent_call_sid=parent.sid) == {child.sid}
        assert found(status="busy") == {outgoing.sid}
        assert found(to="+447700900001", status="completed") == set()


def test_filters_by_time_are_inclusive_at_both_ends(world):
    placed = [world.twilio.place_call(OURS, START + timedelta(hours=n), 600) for n in range(40)]
    busy = world.twilio.place_call(OURS, START + timedelta(hours=3), 600, "busy")
    world.pass_time(days=3)
    hour = timedelta(hours=1)
    with world.client() as client:

        def found(**filters: datetime) -> list[int]:
            sids = {call.sid for call in client.calls.list(**filters)}
            return [n for n, call in enumerate([*placed, busy]) if call.sid in sids]

        assert found(start_time_after=START + 2 * hour, start_time_before=START + 3 * hour) == [2, 3, 40]
        assert found(start_time=START + 3 * hour) == [3, 40]
        assert found(end_time_after=START + 3 * hour, end_time_before=START + 4.5 * hour) == [3, 4]
        page = client.http_client.request(
            "GET",
            f"{client.api.base_url}/2010-04-01/Accounts/{SID}/Calls.json",
            params={"StartTime": "2026-11-06"},
            auth=(SID, TOKEN),
        )
        assert len(json.loads(page.text)["calls"]) == 24


def test_filters_by_day_read_only_the_date(tmp_path):
    world = World(tmp_path, filters_by_day=True)
    placed = [world.twilio.place_call(OURS, START + timedelta(hours=n), 60) for n in range(40)]
    world.pass_time(days=3)
    with world.client() as client:
        listed = client.calls.list(start_time_after=START + timedelta(hours=20), page_size=1000)
        assert len(listed) == 26, "from midnight of that day"
        before = client.calls.list(start_time_before=START + timedelta(hours=20))
    assert {call.sid for call in before} == {call.sid for call in placed[:15]}, "up to midnight of that day"


@pytest.mark.parametrize("query", ["StartTime=yesterday", "PageSize=many", "PageSize=0", "Page=-1", "PageToken=PACA0"])
def test_nonsense_in_a_query_is_refused(world, query):
    with serving_in_thread(world.twilio.app) as address:
        answer = httpx.get(f"{address}/2010-04-01/Accounts/{SID}/Calls.json?{query}", auth=(SID, TOKEN))
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)


def test_pages_end_at_a_thousand(world):
    for n in range(1005):
        world.twilio.place_call(OURS, START + timedelta(seconds=n), 1)
    world.pass_time(hours=1)
    with serving_in_thread(world.twilio.app) as address:
        answer = httpx.get(f"{address}/2010-04-01/Accounts/{SID}/Calls.json?PageSize=5000", auth=(SID, TOKEN)).json()
    assert len(answer["calls"]) == 1000
    assert "PageSize=1000&Page=1&PageToken=PACA" in answer["next_page_uri"]


def test_a_wrong_token_and_another_account_are_refused(world):
    with world.client(token="wrong") as client:
        with pytest.raises(TwilioRestException) as refused:
            client.calls("CA0").fetch()
        assert (refused.value.status, refused.value.code) == (401, 20003)
    with world.client() as client, pytest.raises(TwilioRestException) as unknown:
        client.api.accounts("AC" + "1" * 32).calls("CA0").fetch()
    assert unknown.value.status == 404


@pytest.mark.parametrize(("fault", "status", "code"), [("429", 429, 20429), ("500", 500, 20500)])
def test_faults_come_in_twilios_shape(world, fault, status, code):
    call = world.twilio.place_call(OURS, START, 30)
    world.faults.script("GET /2010-04-01/*", [fault, fault])
    with world.client() as client:
        with pytest.raises(TwilioRestException) as refused:
            client.calls(call.sid).fetch()
        assert (refused.value.status, refused.value.code) == (status, code)
        with pytest.raises(TwilioException, match="Unable to fetch page") as listed:
            client.calls.list()
        assert listed.value.args[1].status_code == status
        assert client.calls(call.sid).fetch().sid == call.sid


def test_the_numbers_with_their_status_callback(world):
    world.twilio.add_number(OURS)
    world.twilio.add_number("+15550000002", "https://elsewhere.example.com/voice")
    with world.client() as client:
        numbers = client.incoming_phone_numbers.list()
        assert [(number.phone_number, number.status_callback) for number in numbers] == [
            (OURS, f"{PUBLIC}/webhooks/twilio/voice"),
            ("+15550000002", "https://elsewhere.example.com/voice"),
        ]
        [one] = client.incoming_phone_numbers.list(phone_number=OURS)
        assert one.status_callback_method == "POST"


def test_a_correction_shows_in_the_api_and_is_told_by_no_callback(world):
    call = world.twilio.place_call(OURS, START, 300)
    with pytest.raises(ValueError, match="only a completed call"):
        world.twilio.correct_call(call.sid, 120)
    world.pass_time(hours=1)
    world.twilio.correct_call(call.sid, 120)
    world.pass_time(hours=1)
    assert len(world.delivery.sent) == 1
    with world.client() as client:
        corrected = client.calls(call.sid).fetch()
    assert (corrected.duration, corrected.end_time) == ("120", START + 2 * MINUTE)
    assert world.twilio.ledger()[0]["seconds"] == 120


# The callbacks


def test_the_final_callback_comes_at_the_end_with_seconds_and_minutes(world):
    call = world.twilio.place_call(OURS, START, 49, other="+447700900003")
    world.pass_time(seconds=48)
    assert world.delivery.sent == []
    world.pass_time(seconds=1)
    [(url, params)] = world.delivery.sent
    assert url == f"{PUBLIC}/webhooks/twilio/voice"
    assert {name: params[name] for name in ("CallSid", "CallStatus", "CallDuration", "Duration", "Timestamp")} == {
        "CallSid": call.sid,
        "CallStatus": "completed",
        "CallDuration": "49",
        "Duration": "1",
        "Timestamp": "Thu, 05 Nov 2026 10:00:49 +0000",
    }
    assert (params["From"], params["To"], params["AccountSid"]) == ("+447700900003", OURS, SID)
    assert (params["SequenceNumber"], params["CallbackSource"]) == ("0", "call-progress-events")
    assert params["FromCity"] == "São Paulo"
    assert "ParentCallSid" not in params


def test_it_has_every_field_of_a_real_one(world, payloads):
    for name in ("22_inbound_completed_us_2023.json", "08_inbound_completed_parent_2020.json"):
        real = json.loads((payloads / "twilio" / name).read_text())
        params = world.twilio.place_call(OURS, START, 49).callback_params("completed", START, 0)
        assert real.keys() - params.keys() <= {"CallerName"}, "only for numbers with caller ID lookup"


def test_a_busy_line_has_zero_seconds_and_zero_minutes(world):
    world.twilio.place_call(OURS, START, 12, "busy", "outbound-api")
    world.pass_time(minutes=1)
    [(_, params)] = world.delivery.sent
    assert (params["CallStatus"], params["CallDuration"], params["Duration"]) == ("busy", "0", "0")
    assert (params["SequenceNumber"], params["SipResponseCode"]) == ("2", "486")


def test_a_call_canceled_in_the_queue_is_told_to_nobody(world):
    world.twilio.place_call(OURS, START, 0, "canceled", "outbound-api")
    world.pass_time(minutes=1)
    assert world.delivery.sent == []
    assert world.twilio.ledger()[0]["callback"] == "none"


def test_all_events_of_an_outgoing_call_in_order(world):
    events = ("initiated", "ringing", "answered", "completed")
    world.twilio.place_call(OURS, START + MINUTE, 120, direction="outbound-api", events=events)
    world.pass_time(hours=1)
    seen = [(params["CallStatus"], params["SequenceNumber"]) for _, params in world.delivery.sent]
    assert seen == [("initiated", "0"), ("ringing", "1"), ("in-progress", "2"), ("completed", "3")]
    assert [params.get("CallDuration") for _, params in world.delivery.sent] == [None, None, None, "120"]


def test_a_dialled_leg_names_its_parent_and_counts_what_was_sent(world):
    parent = world.twilio.place_call(OURS, START, 300)
    child = world.twilio.place_call(
        OURS, START + MINUTE, 60, child_of=parent.sid, events=("answered", "completed"), other="+447700900009"
    )
    world.pass_time(hours=1)
    legs = [params for _, params in world.delivery.sent if params["CallSid"] == child.sid]
    assert [(leg["CallStatus"], leg["SequenceNumber"]) for leg in legs] == [("in-progress", "0"), ("completed", "1")]
    assert all(leg["ParentCallSid"] == parent.sid and leg["Direction"] == "outbound-dial" for leg in legs)
    assert (legs[0]["From"], legs[0]["To"]) == (OURS, "+447700900009")


def test_times_are_utc_and_whole_seconds_wherever_they_were_planned(world):
    tokyo = datetime(2026, 11, 5, 19, 0, 0, 400_000, tzinfo=ZoneInfo("Asia/Tokyo"))
    call = world.twilio.place_call(OURS, tokyo, 60)
    world.pass_time(minutes=2)
    assert world.delivery.sent[0][1]["Timestamp"] == "Thu, 05 Nov 2026 10:01:00 +0000"
    assert call.resource(world.timeline.now, None)["start_time"] == "Thu, 05 Nov 2026 10:00:00 +0000"
    assert world.twilio.ledger()[0]["start"] == "2026-11-05T10:00:00+00:00"


def test_a_callback_can_lack_what_the_documentation_promises(world):
    world.twilio.place_call(OURS, START, 60, without=["Timestamp", "CallDuration"])
    world.pass_time(hours=1)
    [(_, params)] = world.delivery.sent
    assert params.keys().isdisjoint({"Timestamp", "CallDuration"})


def test_a_number_without_a_status_callback_sends_none(world):
    world.twilio.add_number(OURS, "")
    world.twilio.place_call(OURS, START, 60)
    world.pass_time(hours=1)
    assert world.delivery.sent == []
    assert world.twilio.ledger()[0]["callback"] == "none"


def test_the_ledger_tells_lost_callbacks_from_delivered_ones(world):
    calls = [world.twilio.place_call(OURS, START + n * MINUTE, 10) for n in range(4)]
    world.pass_time(seconds=30)
    world.delivery.answered = False
    world.pass_time(minutes=2)
    assert [(entry["sid"], entry["callback"]) for entry in world.twilio.ledger()] == [
        (calls[0].sid, "delivered"),
        (calls[1].sid, "lost"),
        (calls[2].sid, "lost"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "answered"},
        {"seconds": -1},
        {"seconds": 24 * 60 * 60 + 1},
        {"direction": "sideways"},
        {"events": ["hung-up"]},
    ],
)
def test_a_call_that_cannot_be_is_refused(world, wrong):
    with pytest.raises(ValueError):
        world.twilio.place_call(**{"number": OURS, "at": START, "seconds": 1, **wrong})


# The traffic


END = START + timedelta(days=30)
BOUNDARY = datetime(2026, 11, 20, 15, 0, tzinfo=UTC)


def planned(folder: Path, *names: str, seed: int = 1) -> dict[str, list[tuple[Any, ...]]]:
    """The calls of some businesses, by number, as plain tuples."""
    world = World(folder)
    businesses = [
        Business(name, "America/New_York", (f"+1555000000{name}",), 400, (9, 17), (BOUNDARY,)) for name in names
    ]
    legs = populate(world.twilio, businesses, START, END, seed)
    world.pass_time(days=40)
    calls = world.twilio.calls()
    assert len(calls) == legs
    return {
        name: [
            (call.start, call.end, call.seconds, call.status, call.direction, call.parent_sid is not None)
            for call in calls
            if call.number == f"+1555000000{name}"
        ]
        for name in names
    }


def test_the_same_seed_gives_the_same_calls_whoever_else_there_is(tmp_path):
    alone = planned(tmp_path, "1")
    assert planned(tmp_path, "2", "1")["1"] == alone["1"]
    assert planned(tmp_path, "1", seed=2)["1"] != alone["1"]
    both = planned(tmp_path, "1", "2")
    assert both["1"] != both["2"]


def test_a_month_of_calls_looks_like_a_business(tmp_path):
    calls = planned(tmp_path, "1")["1"]
    zone = ZoneInfo("America/New_York")
    seconds = [call[2] for call in calls if call[3] == "completed"]
    assert 350 < sum(seconds) / 60 < 450
    assert 0 in seconds
    assert any(length and length % 60 == 0 for length in seconds)
    assert any(0 < length < 6 for length in seconds)
    assert {call[3] for call in calls} > {"completed", "busy"}
    assert {call[4] for call in calls} == {"inbound", "outbound-api", "outbound-dial"}
    busy = sum(9 <= call[0].astimezone(zone).hour < 17 for call in calls)
    assert 0.8 < busy / len(calls) < 0.95
    weekend = sum(call[0].astimezone(zone).weekday() >= 5 for call in calls)
    assert weekend / len(calls) < 0.2


def test_calls_end_on_both_sides_of_a_boundary_to_the_second(tmp_path):
    ends = {call[1] - BOUNDARY for call in planned(tmp_path, "1")["1"]}
    assert ends >= {timedelta(seconds=-1), timedelta(0), timedelta(seconds=1)}


def test_dialled_legs_lie_inside_their_parents(world):
    populate(world.twilio, [Business("1", "UTC", (OURS,), 20_000)], START, END, 1)
    world.pass_time(days=40)
    calls = {call.sid: call for call in world.twilio.calls()}
    children = [call for call in calls.values() if call.parent_sid]
    assert children
    for child in children:
        parent = calls[str(child.parent_sid)]
        assert parent.start < child.start < child.end <= parent.end


# Steering


@contextlib.contextmanager
def steered(world: World) -> Iterator[httpx.Client]:
    control = Control(world.timeline, world.delivery, world.twilio)
    app = Starlette(routes=[*control.routes, *world.twilio.app.routes])
    with serving_in_thread(app) as address, httpx.Client(base_url=address) as client:
        yield client


def test_a_simulator_steers_time_calls_and_numbers_over_http(world):
    with steered(world) as http:
        number = http.post("/_sandbox/twilio/numbers", json={"number": OURS}).json()
        assert number["status_callback"] == f"{PUBLIC}/webhooks/twilio/voice"
        call = http.post("/_sandbox/twilio/calls", json={"number": OURS, "seconds": 90}).json()
        assert call["end"] == "2026-11-05T10:01:30+00:00"
        asked = {"number": OURS, "at": "2026-11-05T11:05:00+01:00", "seconds": 5, "status": "failed"}
        http.post("/_sandbox/twilio/calls", json=asked).raise_for_status()

        world.timeline.at(START + timedelta(hours=2), lambda: asyncio.sleep(0), stop=True)
        advanced = http.post("/_sandbox/advance", json={"to": "2026-11-05T11:00:00+00:00"}).json()
        assert advanced == {
            "now": "2026-11-05T11:00:00+00:00",
            "happened": 2,
            "next_stop": "2026-11-05T12:00:00+00:00",
        }
        assert http.get("/_sandbox/clock").json() == {key: advanced[key] for key in ("now", "next_stop")}

        http.post("/_sandbox/twilio/correct-call", json={"sid": call["sid"], "seconds": 30}).raise_for_status()
        ledger = http.get("/_sandbox/twilio/ledger").json()
        assert [(entry["status"], entry["seconds"]) for entry in ledger] == [("completed", 30), ("failed", 0)]
        assert http.post("/_sandbox/drain").json() == {"pending": 0}
        assert http.get("/_sandbox/deliveries").json()["pending"] == 0

        business = {"name": "1", "time_zone": "UTC", "numbers": [OURS], "minutes": 50, "boundaries": [END.isoformat()]}
        plan = {"businesses": [business], "start": START.isoformat(), "end": END.isoformat(), "seed": 3}
        assert http.post("/_sandbox/populate", json=plan).json()["legs"] > 5


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("advance", "{"),
        ("advance", "{}"),
        ("advance", '{"to": "2026-11-05T11:00:00"}'),
        ("twilio/calls", '{"number": "+15550000001", "seconds": 1, "colour": "red"}'),
        ("twilio/correct-call", '{"sid": "CA0", "seconds": 1}'),
        ("populate", '{"businesses": [{"name": "1"}]}'),
    ],
)
def test_what_cannot_be_done_is_answered_with_a_sentence(world, path, body):
    with steered(world) as http:
        answer = http.post(f"/_sandbox/{path}", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_time_that_follows_the_machine_cannot_be_moved(tmp_path):
    world = World(tmp_path)
    world.timeline = Timeline()
    with steered(world) as http:
        answer = http.post("/_sandbox/advance", json={"to": "2036-11-05T11:00:00+00:00"})
    assert answer.status_code == 400
    assert "clock file" in answer.json()["error"]


def test_the_clock_file_is_right_at_stops_and_at_the_end_and_never_ahead(tmp_path):
    timeline = Timeline(START, tmp_path / "clock")
    seen: list[tuple[datetime, datetime]] = []

    async def look() -> None:
        seen.append((timeline.now, datetime.fromisoformat((tmp_path / "clock").read_text())))

    for n in range(100):
        timeline.at(START + n * MINUTE, look, stop=n % 10 == 9)
    asyncio.run(timeline.advance(START + timedelta(hours=3)))
    assert all(written <= now for now, written in seen)
    assert all(written == now for now, written in seen[9::10])
    assert datetime.fromisoformat((tmp_path / "clock").read_text()) == START + timedelta(hours=3)


def test_the_sandbox_as_a_process(tmp_path):
    program = (
        "import sys; from datetime import datetime; from pathlib import Path; from sandbox.server import Config, run;"
        f"run(Config(0, 0, 'http://127.0.0.1:1', 'whsec_test', {SID!r}, {TOKEN!r}, faults='default',"
        f"start=datetime.fromisoformat({START.isoformat()!r}), clock_file=Path({str(tmp_path / 'clock')!r})))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            addresses = json.loads(process.stdout.readline())
            for name in ("stripe", "twilio"):
                clock = httpx.get(f"{addresses[name]}/_sandbox/clock").json()
                assert clock["now"] == START.isoformat()
            assert httpx.get(f"{addresses['twilio']}/_sandbox/twilio/ledger").json() == []
            assert httpx.get(f"{addresses['stripe']}/v1/customers").status_code == 401
            assert httpx.get(f"{addresses['stripe']}/_sandbox/twilio/ledger").status_code == 404
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
