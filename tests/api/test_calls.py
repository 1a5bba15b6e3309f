"""Numbers and calls by HTTP: in pages, by what one asks for, and with a trace of whoever looks from Altiora."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from tests.worlds.cast import Cast

BEGAN = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def place(api, people):
    cast = Cast(api, people)
    it = cast.place(1)
    people.run("delete from call_transcripts")
    people.run("delete from calls")
    with people.engine.begin() as connection:
        for number in range(23):  # three of each second
            connection.exec_driver_sql(
                "insert into calls (sid, business_id, number, agent_id, status, rank, started_at, from_number, seconds)"
                " values (%s, %s, %s, %s, %s, 1, %s, %s, 60)",
                (
                    f"CA{number:032x}",
                    it["business_id"],
                    it["number"],
                    it["agent_id"] if number % 2 else None,
                    "completed" if number % 5 else "busy",
                    BEGAN + timedelta(seconds=number // 3),
                    f"+1555123{number:04}",
                ),
            )
    return cast, it


def listed(client, address: str, **params) -> list[str]:
    """All pages, in order."""
    found: list[str] = []
    cursor = None
    while True:
        answer = client.get(address, params=params | ({"cursor": cursor} if cursor else {}))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += [each["sid"] for each in page["data"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def test_calls_are_read_in_pages_whatever_began_in_the_same_second(place):
    cast, it = place
    client, address = cast.clients["member"], f"/businesses/{it['business_id']}/calls"
    everything = [f"CA{number:032x}" for number in reversed(range(23))]
    for limit in (1, 2, 5, 22, 23, 50):
        assert listed(client, address, limit=limit) == everything


@pytest.mark.parametrize(
    ("wanted", "which"),
    [
        ({"from": "2026-11-20T12:00:03Z"}, range(9, 23)),
        ({"to": "2026-11-20T12:00:01Z"}, range(3)),
        ({"from": "2026-11-20T13:00:01+01:00", "to": "2026-11-20T12:00:02Z"}, range(3, 6)),
        ({"status": "busy"}, range(0, 23, 5)),
        ({"q": "+15551230007"}, [7]),
        ({"q": f"CA{9:032x}"}, [9]),
        ({"q": "nobody"}, []),
        ({"number": "+19999999999"}, []),
    ],
)
def test_what_is_asked_for_is_what_is_listed(place, wanted, which):
    cast, it = place
    found = listed(cast.clients["owner"], f"/businesses/{it['business_id']}/calls", limit=4, **wanted)
    assert found == [f"CA{number:032x}" for number in sorted(which, reverse=True)]


def test_the_calls_of_an_agent_and_of_a_number(place):
    cast, it = place
    client, address = cast.clients["owner"], f"/businesses/{it['business_id']}/calls"
    assert len(listed(client, address, agent_id=it["agent_id"])) == 11
    assert len(listed(client, address, number=it["number"])) == 23
    shown = client.get(f"{address}/CA{7:032x}").json()
    assert (shown["agent_id"], shown["seconds"], shown["from_number"]) == (it["agent_id"], 60, "+15551230007")


@pytest.mark.parametrize(
    "position", [b"", b"x", b"12345678", b"12345678" * 30, b"\x7f" * 8 + b"CA", b"\0" * 8 + b"a\0", b"\0" * 8 + b"\xff"]
)
def test_a_cursor_that_is_none_is_told_so(place, position):
    cast, it = place
    client, address = cast.clients["owner"], f"/businesses/{it['business_id']}/calls"
    page = client.get(address, params={"limit": 1}).json()
    ours = base64.urlsafe_b64decode(page["next_cursor"] + "==")
    forged = base64.urlsafe_b64encode(ours[:8] + position).decode().rstrip("=")
    assert client.get(address, params={"cursor": forged}).status_code in {200, 422}
    assert client.get(address, params={"cursor": page["next_cursor"], "status": "busy"}).status_code == 422, (
        "another list"
    )


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-11-20", "now"])
def test_an_instant_that_is_none_of_our_time_is_told_so(place, at):
    cast, it = place
    for name in ("from", "to"):
        answer = cast.clients["owner"].get(f"/businesses/{it['business_id']}/calls", params={name: at, "limit": 1})
        assert answer.status_code == 422


def test_whoever_looks_from_altiora_is_seen_by_the_business(place):
    cast, it = place
    here = f"/businesses/{it['business_id']}"
    for path in ("/calls", f"/calls/CA{1:032x}"):
        assert cast.clients["support"].get(here + path).status_code == 200
        assert cast.clients["owner"].get(here + path).status_code == 200
    entries = cast.clients["owner"].get(f"{here}/audit-entries").json()["data"]
    looked = [each["who"] for each in entries if each["what"] == "calls read"]
    assert looked == [f"user:{cast.users['support']}"] * 2


def test_another_agent_answers_a_number_from_now_on(place):
    cast, it = place
    client, numbers = cast.clients["admin"], f"/businesses/{it['business_id']}/numbers"
    (shown,) = client.get(numbers).json()["data"]
    assert (shown["number"], shown["agent_id"]) == (it["number"], None)
    changed = client.patch(f"{numbers}/{it['number']}", json={"agent_id": it["agent_id"], "label": "Shop"}).json()
    assert (changed["agent"], changed["label"]) == ("Reception", "Shop")
    assert client.patch(f"{numbers}/{it['number']}", json={"label": "Door"}).json()["agent_id"] == it["agent_id"]
    assert client.patch(f"{numbers}/{it['number']}", json={"agent_id": None}).json()["agent_id"] is None
    assert client.patch(f"{numbers}/{it['number']}", json={"agent_id": 4711}).status_code == 409
    assert client.patch(f"{numbers}/{it['number']}", json={"agent_id": True}).status_code == 422
    assert client.get(numbers, params={"q": "door"}).json()["data"][0]["label"] == "Door"
    assert client.get(f"{numbers}/+19999999999").status_code == 404
