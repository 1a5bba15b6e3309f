"""What Altiora's staff may do with a business's own, and what the business is told of it."""

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast


@pytest.fixture
def cast(api, people) -> Cast:
    return Cast(api, people)


def event(people, body: str, state: str = "dead", **about: str) -> int:
    with people.engine.begin() as connection:
        stored = connection.exec_driver_sql(
            "insert into webhook_events (provider, key, type, received_at, content_type, body, state, reason)"
            " values (%s, 'one', 'x', now(), %s, %s, %s, 'a test') returning id",
            (
                about.get("provider", "twilio"),
                about.get("content_type", "application/x-www-form-urlencoded"),
                body.encode(),
                state,
            ),
        )
        return int(stored.scalar_one())


@breaks("api/routes/webhook_events.py", "    asked.see_others(*businesses)\n", "")
@breaks("api/routes/webhook_events.py", "    asked.see_others(*{whose for _, whose in about})\n", "")
@breaks("api/routes/drifts.py", "    asked.see_others(drift.business_id)\n", "")
def test_nobody_decides_about_a_business_that_they_work_in(people, cast):
    place = cast.place(1)
    people.run(
        "insert into business_members (business_id, user_id, role) values (%s, %s, 'member')",
        place["business_id"],
        cast.users["operator"],
    )
    operator, other = cast.clients["operator"], cast.clients["administrator"]
    for client, status in ((operator, 403), (other, 200)):
        for path, body in (
            (f"/webhook-events/{place['event_id']}/dismissals", {"reason": "a test"}),
            ("/webhook-events/replays", {"ids": [place["event_id"]]}),
            (f"/drifts/{place['drift_id']}/resolutions", {"note": "a test"}),
        ):
            assert client.post(path, json=body).status_code == status, path


@pytest.mark.parametrize("written", ["From=%2B14155559999&To=%2B", '{"to": "+', "To=+"])
def test_whoever_reads_an_event_of_a_call_that_is_not_stored_yet_leaves_an_entry(people, cast, written):
    place = cast.place(1)
    number = event(people, f"{written}{place['number'].removeprefix('+')}")
    assert cast.clients["support"].get(f"/webhook-events/{number}").status_code == 200
    assert people.rows("select what, business_id from audit_entries") == [("calls read", place["business_id"])]


@breaks("pipeline/events/queue.py", "'dismissed ' || reason", "'dismissed'")
def test_a_dismissal_is_told_to_the_business_without_altioras_words_and_a_replay_undoes_it(people, cast):
    place = cast.place(1)
    number, operator = place["event_id"], cast.clients["operator"]
    people.run("update webhook_events set reason = 'kills-its-worker' where id = %s", number)
    assert operator.post(f"/webhook-events/{number}/dismissals", json={"reason": "the florist's"}).status_code == 200
    told = cast.clients["owner"].get(f"/businesses/{place['business_id']}/calls/{place['sid']}/explanation")
    assert told.json()["call"]["events"][0]["reason"] == "dismissed kills-its-worker"
    entries = people.rows("select business_id, reason from audit_entries where what = 'events dismiss' order by id")
    assert entries == [(None, "the florist's"), (place["business_id"], None)]
    assert operator.post(f"/webhook-events/{number}/dismissals", json={"reason": "again"}).status_code == 409
    assert operator.post("/webhook-events/replays", json={"ids": [number]}).json() == {"replayed": 1, "left": 0}
    # What killed its workers is tried alone.
    assert people.rows("select state, batch_limit from webhook_events where id = %s", number) == [("pending", 1)]
    assert people.one("select business_id from audit_entries where what = 'events replay'") == place["business_id"]


@breaks("api/routes/drifts.py", "drift.kind in drift_decisions.MONEY_WAITS", "False")
@pytest.mark.parametrize(
    "kind", ["late-minutes", "no-invoice", "credit-due", "over-billed", "under-billed", "lost-usage", "unbillable"]
)
def test_what_minutes_or_money_wait_for_is_not_resolved_by_a_note(people, cast, kind):
    place = cast.place(1)
    people.run("update drifts set kind = %s, repair = 'decide it' where id = %s", kind, place["drift_id"])
    answer = cast.clients["operator"].post(f"/drifts/{place['drift_id']}/resolutions", json={"note": "no"})
    assert answer.status_code == 409
    assert answer.json()["detail"].endswith("decide it")


@pytest.mark.parametrize(
    "body",
    [f'{{"a": {2**70}}}', "[" * 300 + "]" * 300, '{"a": "\\ud800"}'],
    ids=["beyond 64 bits", "deep", "half a character"],
)
def test_what_no_json_of_ours_can_hold_is_shown_as_it_came(people, cast, body):
    number = event(people, body, provider="stripe", content_type="application/json")
    assert cast.clients["support"].get(f"/webhook-events/{number}").json()["said"] == body


def test_what_is_fetched_again_is_named_as_its_owner_names_it(people, cast):
    operator = cast.clients["operator"]
    for kind, object_id, status in (
        ("call", "CA" + "0" * 32, 202),
        ("customer", "cus_1", 202),
        ("call", "cus_1", 422),
        ("call", "CAxx", 422),
        ("customer", "sub_1", 422),
    ):
        answer = operator.post("/webhook-events", json={"kind": kind, "object_id": object_id, "reason": "a test"})
        assert answer.status_code == status, answer.text
    wanted = people.rows("select kind, object_id from refreshes order by 1")
    assert wanted == [("call", "CA" + "0" * 32), ("customer", "cus_1")]


@pytest.mark.parametrize("path", ["/drifts", "/meter-pushes", "/audit-entries", "/businesses/{business_id}/invoices"])
def test_lists_are_of_a_time(people, cast, path):
    place = cast.place(1)
    people.run(
        "insert into meter_pushes (business_id, usage_record_id, identifier, stripe_customer_id, minutes, timestamp,"
        " event_name, created_at)"
        " values (%s, %s, 'p1', 'cus_1', 1, date_trunc('minute', now()), 'call_minutes', now())",
        place["business_id"],
        place["record_id"],
    )
    cast.clients["owner"].patch(f"/businesses/{place['business_id']}", json={"name": "Bakery"})
    path, client = path.format(**place), cast.clients["administrator"]
    for asked, there in (
        ({}, True),
        ({"from": "2000-01-01T00:00:00Z", "to": "2200-01-01T00:00:00Z"}, True),
        ({"from": "2199-01-01T00:00:00Z"}, False),
        ({"to": "2001-01-01T00:00:00Z"}, False),
    ):
        assert bool(client.get(path, params=asked).json()["data"]) == there, asked
