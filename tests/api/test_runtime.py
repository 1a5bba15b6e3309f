"""What the phone platform asks and tells: who answers a number, and what was said, each message once."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast


@pytest.fixture
def place(api, people):
    cast = Cast(api, people)
    it = cast.place(1)
    people.run("delete from call_transcripts")
    return cast, it, cast.client("service", 0)


def said(*positions: int, content: str = "Good morning.") -> dict[str, object]:
    return {"messages": [{"position": each, "speaker": "agent", "content": content} for each in positions]}


def test_who_answers_a_number_and_when_that_is_as_it_was(place):
    cast, it, platform = place
    address = f"/runtime/numbers/{it['number']}"
    assert platform.get(address).json()["agent"] is None
    numbers = f"/businesses/{it['business_id']}/numbers/{it['number']}"
    cast.clients["owner"].patch(numbers, json={"agent_id": it["agent_id"]})
    answer = platform.get(address)
    shown = answer.json()
    assert (shown["business_id"], shown["service_status"]) == (it["business_id"], "active")
    assert shown["agent"]["greeting"] == "Hello."
    assert shown["agent"]["knowledge"] == [{"question": "Do you have rye?", "answer": "On Fridays."}]
    assert [(each["name"], each["version"]) for each in shown["agent"]["scripts"]] == [("ordering", 1)]
    tag = {"If-None-Match": answer.headers["etag"]}
    assert platform.get(address, headers=tag).status_code == 304
    agent = f"/businesses/{it['business_id']}/agents/{it['agent_id']}"
    cast.clients["owner"].patch(agent, json={"greeting": "Good evening."})
    assert platform.get(address, headers=tag).json()["agent"]["greeting"] == "Good evening."
    cast.clients["owner"].delete(agent)
    assert platform.get(address).json()["agent"] is None
    assert platform.get("/runtime/numbers/+19999999999").status_code == 404


def test_whether_a_call_may_be_taken(place, people):
    _, it, platform = place
    address = f"/runtime/numbers/{it['number']}"
    for change, status in (
        ("suspended_at = now()", "suspended"),
        ("suspended_at = null, limited_until = now() + interval '1 hour'", "limited"),
        ("limited_until = null, grace_until = now() + interval '1 hour'", "grace"),
        ("grace_until = null, ended_at = now()", "ended"),
    ):
        people.run(f"update businesses set {change} where id = %s", it["business_id"])
        assert platform.get(address).json()["service_status"] == status


@breaks(
    "pipeline/calls/transcripts.py",
    "on conflict (call_sid, position) do nothing\n",
    "on conflict (call_sid, position) do update set content = excluded.content\n",
)
def test_what_is_sent_again_is_there_once_and_what_is_another_is_refused(place):
    cast, it, platform = place
    address = f"/runtime/calls/{it['sid']}/messages"
    assert platform.post(address, json=said(0, 1)).json() == {"appended": 2}
    assert platform.post(address, json=said(1, 2)).json() == {"appended": 1}
    assert platform.post(address, json=said(0, 1, 2)).json() == {"appended": 0}
    refused = platform.post(address, json=said(2, 3, content="Something else."))
    assert (refused.status_code, refused.json()["detail"]) == (409, "message 2 of this call is another one already")
    assert platform.post(address, json=said(5, 5)).status_code == 409
    shown = cast.clients["member"].get(f"/businesses/{it['business_id']}/calls/{it['sid']}/transcript").json()["data"]
    assert [(each["position"], each["content"]) for each in shown] == [(each, "Good morning.") for each in range(3)]


def test_of_eight_that_send_the_same_at_once_each_message_is_there_once(place, people):
    _, it, platform = place
    address = f"/runtime/calls/{it['sid']}/messages"
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: platform.post(address, json=said(*range(40))), range(8)))
    assert {each.status_code for each in answers} == {200}
    assert sum(each.json()["appended"] for each in answers) == people.one("select count(*) from call_transcripts") == 40


def test_a_call_that_twilio_has_not_told_of_yet_is_asked_for_again(place):
    _, _, platform = place
    answer = platform.post(f"/runtime/calls/CA{9:032x}/messages", json=said(0))
    assert answer.status_code == 409
    assert answer.json()["type"] == "urn:altiora:problem:not-yet"


def test_what_was_said_is_redacted_and_erased_for_good(place, people):
    cast, it, platform = place
    address = f"/runtime/calls/{it['sid']}/messages"
    platform.post(address, json=said(0, 1, content="My card is 4242."))
    here = f"/businesses/{it['business_id']}/calls/{it['sid']}/transcript"
    owner = cast.clients["owner"]
    assert owner.delete(f"{here}/0").status_code == 204
    assert owner.delete(f"{here}/7").status_code == 404
    first, second = owner.get(here).json()["data"]
    assert (first["content"], bool(first["redacted_at"]), second["content"]) == ("", True, "My card is 4242.")
    assert platform.post(address, json=said(0, 1, content="My card is 4242.")).json() == {"appended": 0}
    assert people.one("select content from call_transcripts where position = 0") == "", "it does not come back"
    assert owner.delete(here).status_code == 204
    platform.post(address, json=said(0, 1, content="My card is 4242."))
    assert {each["content"] for each in owner.get(here).json()["data"]} == {""}
    assert "4242" not in str(people.rows("select t::text from call_transcripts t"))


@pytest.mark.parametrize("said_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_no_message_makes_a_transcript_unreadable(place, said_at):
    _, it, platform = place
    body = said(0)
    body["messages"][0]["said_at"] = said_at  # type: ignore[index]
    assert platform.post(f"/runtime/calls/{it['sid']}/messages", json=body).status_code == 422
