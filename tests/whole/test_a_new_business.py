"""The life of a new business by HTTP alone, on a real receiver and worker, as docs/api.md tells it with curl."""

import time
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import pytest

from accounts.api_keys import make_key
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from ops.processes import recipes
from pipeline.businesses import free_numbers
from pipeline.shared import clock
from tests.worlds.api import serving_api
from tests.worlds.people import SECRET, People
from tests.worlds.webhooks import callback, from_twilio, send, start_receiver
from tests.worlds.world import at

NUMBER = "+14155550100"
MORNING = at("20 Nov 9:00")


def until(read: Callable[[], Any], wanted: Callable[[Any], bool]) -> Any:
    """What is read, as soon as it is what is wanted: a worker applies what the receiver stored."""
    ends = time.monotonic() + 30
    while not wanted(found := read()):
        assert time.monotonic() < ends, found
        time.sleep(0.1)
    return found


@pytest.fixture
def people(engine) -> People:
    return People(engine, SecretKeys([SECRET]))


@pytest.fixture
def clock_file(tmp_path, monkeypatch):
    file = tmp_path / "clock"
    clock.move(file, MORNING)
    monkeypatch.setenv("ALTIORA_CLOCK", str(file))
    return file


@pytest.fixture
def calls(processes, environment, clock_file) -> Callable[..., None]:
    """Has the phone ring: Twilio's signed callback about a call that ends at this instant."""
    settings = environment | {"ALTIORA_CLOCK": str(clock_file)}
    port = start_receiver(processes, settings)
    recipes.worker(1).start(processes, settings)

    def call(number: int, ends: datetime, seconds: int) -> None:
        clock.move(clock_file, ends)
        about = {"To": NUMBER, "CallDuration": str(seconds), "Timestamp": format_datetime(ends)}
        assert send(port, from_twilio(callback(number, **about))).status == 200

    return call


@pytest.fixture
def platform(people):
    """The phone platform's key."""
    root = people.user("Root", staff=Role.ADMINISTRATOR)
    with people.engine.begin() as connection:
        _, key = make_key(
            connection,
            business_id=None,
            user_id=root,
            name="phone platform",
            scopes=["runtime:read", "transcripts:write"],
            livemode=False,
            expires_at=None,
        )
    return key


def test_the_way_of_a_new_business(people, calls, platform):
    free_numbers.note_account(people.engine, [{"phone_number": NUMBER, "sid": "PN1"}])  # Twilio's list, once an hour
    with serving_api(people) as api:
        # Ada signs up, and has a business on the plan Free.
        ada = api.browser()
        ada.post("/sign-ups", email="ada@example.com")
        ada.post("/links/accept", secret=api.mail(), name="Ada", password="seven lanterns under quartz")
        ada.sign_in("ada@example.com", "seven lanterns under quartz")
        here = f"/businesses/{ada.post('/businesses', name='Corner Bakery', time_zone='Europe/London')['id']}"
        (free,) = [each for each in ada.get("/plans")["data"] if each["code"] == "free"]
        assert (free["included_minutes"], free["numbers"], free["agents"]) == (50, 1, 1)

        # An agent, what it knows, and what it says.
        agent = ada.post(f"{here}/agents", name="Reception", greeting="Corner Bakery, good morning.")["id"]
        ada.post(f"{here}/agents/{agent}/knowledge", question="Do you have rye?", answer="On Fridays.")
        flow = {"steps": [{"id": "what", "say": "What shall it be?"}]}
        ada.post(f"{here}/agents/{agent}/scripts", name="ordering", flow=flow)

        # A number of those that can be had; the agent answers it, and the phone platform knows how.
        assert [each["number"] for each in ada.get(f"{here}/available-numbers")["data"]] == [NUMBER]
        ada.post(f"{here}/numbers", number=NUMBER, agent_id=agent, label="Shop")
        telephone = api.client(platform)
        answers = telephone.get(f"/runtime/numbers/{NUMBER}").json()
        assert (answers["service_status"], answers["agent"]["greeting"]) == ("active", "Corner Bakery, good morning.")
        assert answers["agent"]["knowledge"] == [{"question": "Do you have rye?", "answer": "On Fridays."}]

        # The phone rings: 61 seconds are two minutes.
        calls(1, at("20 Nov 10:00"), 61)
        (call,) = until(lambda: ada.get(f"{here}/calls")["data"], lambda found: found and found[0]["counted"])
        assert (call["seconds"], call["counted_minutes"], call["agent_id"]) == (61, 2, agent)
        said = [
            {"position": 0, "speaker": "agent", "content": "Corner Bakery, good morning."},
            {"position": 1, "speaker": "caller", "content": "Do you have rye?"},
        ]
        for appended in (2, 0):  # sent again, nothing is there twice
            sent = telephone.post(f"/runtime/calls/{call['sid']}/messages", json={"messages": said})
            assert sent.json() == {"appended": appended}
        transcript = ada.get(f"{here}/calls/{call['sid']}/transcript")["data"]
        assert [each["content"] for each in transcript] == [each["content"] for each in said]

        # What was used, by day, agent and number.
        (period,) = ada.get(f"{here}/usage-records")["data"]
        assert (period["minutes"], period["included"], period["unbilled"]) == (2, 50, 0)
        november = "from=2026-11-01T00:00:00Z&to=2026-12-01T00:00:00Z"
        for by, part in (("day", "2026-11-20"), ("agent", "Reception"), ("number", NUMBER)):
            (used,) = ada.get(f"{here}/usage?by={by}&{november}")["data"]
            assert (used["part"], used["calls"], used["minutes"]) == (part, 1, 2)

        # Fifty minutes are the limit: the call that reaches them is counted, and the business takes no more.
        calls(2, at("20 Nov 11:00"), 48 * 60)
        limited = until(lambda: ada.get(here), lambda found: found["service_status"] == "limited")
        assert limited["plan"] == "free"
        assert telephone.get(f"/runtime/numbers/{NUMBER}").json()["service_status"] == "limited"
        (since,) = ada.get(f"{here}/service-transitions")["data"]
        assert (since["from_status"], since["to_status"]) == ("active", "limited")
        assert since["until"] == "2026-12-01T00:00:00Z"

        # Any figure down to the event: the period, its sums, its calls, and what Twilio sent.
        told = ada.get(f"{here}/usage-records/{period['id']}/explanation")
        assert told["adds_up"]
        (minutes,) = [each for each in told["sums"] if each["figure"] == "minutes"]
        assert (minutes["stated"], [part["amount"] for part in minutes["parts"]]) == (50, [50, 0])
        first, second = told["calls"]["counted"]
        assert (first["sid"], first["rounding"]) == (call["sid"], "61 s -> 2 minutes, in steps of 60 s")
        (event,) = first["events"]
        assert (event["state"], event["decided"]) == ("processed", True)
        (alert,) = [each for each in told["alerts"] if each["kind"] == "minutes-100"]
        assert alert["crossed_by"]["sid"] == second["sid"]
        alone = ada.get(f"{here}/calls/{second['sid']}/explanation")
        assert (alone["period"]["before"], alone["included"], alone["above"], alone["amount"]) == (2, 48, 0, None)

        # Everything for a spreadsheet; nobody else sees any of it, and Altiora's own see what was sent.
        lines = ada.http.get(f"{here}/calls.csv?usage_record_id={period['id']}").text.splitlines()
        assert len(lines) == 3
        stranger = api.signed_in(people.user("Eve"))
        assert stranger.get(f"{here}/usage-records").status_code == 404
        support = people.user("Sam", staff=Role.SUPPORT)
        people.enrol(support)
        staff = api.signed_in(support, staff=True, second_factor=True)
        assert staff.get(f"/webhook-events/{event['id']}").json()["said"]["CallDuration"] == "61"
        seen = ada.get(f"{here}/audit-entries")["data"]
        assert (seen[0]["what"], seen[0]["who"]) == ("calls read", f"user:{support}")
