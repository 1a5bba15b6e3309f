"""What a business used, by HTTP: who sees which part of it, and CSV that is whole or seen to be broken."""

import csv
import io

import httpx
import pytest

from api.routes import calls
from pipeline.reading.calls import list_calls
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast

OCTOBER = {"from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}


@pytest.fixture
def cast(api, people) -> Cast:
    return Cast(api, people)


@breaks("api/routes/usage.py", 'asked.may("billing:read")', "True")
def test_the_invoice_of_a_period_is_for_who_may_see_invoices(people, cast):
    place = cast.place(1)
    here = f"/businesses/{place['business_id']}"
    # As the invoice of a record is found: by its subscription, and the time of its lines.
    with people.engine.begin() as connection:
        connection.exec_driver_sql(
            "with s as (insert into subscriptions (business_id, stripe_id, status, started_at, period_start,"
            " period_end, currency, billing_cycle_anchor, snapshot_at, stripe_customer_id)"
            " values (%(business_id)s, 'sub_1', 'active', '2026-10-01Z', '2026-11-01Z', '2026-12-01Z', 'usd',"
            " '2026-10-01Z', now(), 'cus_1') returning id)"
            " update usage_records set subscription_id = s.id from s where usage_records.id = %(record_id)s",
            place,
        )
        connection.exec_driver_sql(
            "insert into stripe_invoice_lines (price_id, invoice_id, stripe_subscription_id, period_start, period_end,"
            " minutes, amount_cents)"
            " values ('price_1', %(invoice_id)s, 'sub_1', '2026-10-01Z', '2026-11-01Z', 2, 4900)",
            place,
        )
    for actor, sees in (("billing", True), ("member", False)):
        client = cast.clients[actor]
        assert (client.get(f"{here}/invoices/{place['invoice_id']}").status_code == 200) == sees
        told = client.get(f"{here}/usage-records/{place['record_id']}/explanation").json()
        assert (told["invoice"] is not None, told["money"]["invoice"] is not None) == (sees, sees)


def test_a_key_for_usage_alone_sees_no_calls(cast):
    place = cast.place(1)
    _, secret = cast._key(place["business_id"], "owner", "usage:read")
    key, here = cast.api.client(secret), f"/businesses/{place['business_id']}"
    assert key.get(f"{here}/usage-records").status_code == 200
    for path in ("calls", f"calls/{place['sid']}/explanation", f"usage-records/{place['record_id']}/explanation"):
        answer = key.get(f"{here}/{path}")
        assert (answer.status_code, answer.json()["right"]) == (403, "calls:read")


@breaks("api/routes/statements.py", "    if not asked.by_altiora:", "    if False:")
def test_what_twilio_charged_is_altioras_to_know(cast):
    place = cast.place(1)
    path = f"/businesses/{place['business_id']}/statements/{place['record_id']}"
    own = {"cost", "dead_of_nobody"}
    assert own <= cast.clients["support"].get(path).json()["statement"].keys()
    assert not own & cast.clients["owner"].get(path).json()["statement"].keys()


def test_a_cursor_of_another_list_is_none_of_this(people, cast):
    place = cast.place(1)
    here = f"/businesses/{place['business_id']}"
    people.run(
        "insert into usage_records (business_id, plan_id, period_start, period_end, included_minutes, opened_at)"
        " values (%s, 1, '2026-09-01Z', '2026-10-01Z', 50, now())",
        place["business_id"],
    )
    owner = cast.clients["owner"]
    first = owner.get(f"{here}/usage-records", params={"limit": 1}).json()
    second = owner.get(f"{here}/usage-records", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert first["data"][0]["id"] != second["data"][0]["id"]
    for path in ("statements", "service-transitions", "subscription-changes", "calls", "invoices"):
        assert owner.get(f"{here}/{path}", params={"cursor": first["next_cursor"]}).status_code == 422, path


def test_what_is_spelled_wrongly_is_refused_and_does_not_find_everything(cast):
    place = cast.place(1)
    here = f"/businesses/{place['business_id']}"
    for path in (f"{here}/calls?since=2030-01-01T00:00:00Z", f"{here}/calls.csv?form=x", "/plans?q=x", f"{here}?x="):
        answer = cast.clients["owner"].get(path)
        assert answer.status_code == 422, path
        assert answer.json()["invalid_parameters"][0]["reason"].startswith("this address knows")
    assert cast.clients["nobody"].get(f"{here}/calls?x=1").status_code == 401


# CSV


@pytest.fixture
def crowd(people, cast):
    """A business with eleven calls that began at the same instant; gives its CSV's address."""
    place = cast.place(1)
    people.run("delete from call_transcripts")
    people.run("delete from calls where business_id = %s", place["business_id"])
    people.run(
        "insert into calls (sid, business_id, status, rank, started_at, from_number)"
        " select 'CA' || lpad(n::text, 32, '0'), %s, 'completed', 1, '2026-11-01T12:00Z', '=1+' || n"
        " from generate_series(1, 11) n",
        place["business_id"],
    )
    return f"/businesses/{place['business_id']}/calls.csv"


def test_a_csv_has_each_call_once_and_no_formula(cast, crowd, monkeypatch):
    monkeypatch.setattr(calls, "_BATCH", 3)
    answer = cast.clients["owner"].get(crowd)
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="calls.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert sorted(row["sid"] for row in rows) == [f"CA{n:032}" for n in range(1, 12)]
    assert all(row["from_number"].startswith("'=1+") for row in rows)
    assert len(list(csv.DictReader(io.StringIO(cast.clients["owner"].get(f"{crowd}?status=busy").text)))) == 0


def test_a_csv_that_breaks_is_seen_to_be_broken(cast, crowd, monkeypatch):
    asked: list[object] = []

    def breaking(*about):
        asked.append(about)
        if len(asked) == 2:
            raise RuntimeError("the database went away")
        return list_calls(*about)

    monkeypatch.setattr(calls, "_BATCH", 3)
    monkeypatch.setattr(calls, "list_calls", breaking)
    with pytest.raises(httpx.RemoteProtocolError):
        cast.clients["owner"].get(crowd)


@breaks("pipeline/reading/usage_breakdown.py", " and c.ended_at >= %(since)s and c.ended_at < %(until)s", "")
def test_usage_is_summed_by_day_agent_and_number(people, cast):
    place, _ = cast.place(1), cast.place(2)
    people.run("update calls set agent_id = %s where sid = %s", place["agent_id"], place["sid"])
    here, owner = f"/businesses/{place['business_id']}", cast.clients["owner"]
    parts = {"day": "2026-10-05", "agent": "Reception", "number": place["number"]}
    for by, part in parts.items():
        agent_id = place["agent_id"] if by == "agent" else None
        (used,) = owner.get(f"{here}/usage", params={"by": by, **OCTOBER}).json()["data"]
        assert used == {"part": part, "agent_id": agent_id, "calls": 1, "seconds": 61, "minutes": 2}
        lines = owner.get(f"{here}/usage.csv", params={"by": by, **OCTOBER}).text.splitlines()
        head = [by, *(["agent_id"] if by == "agent" else []), "calls", "seconds", "minutes"]
        assert lines[0].split(",") == head
        assert len(lines) == 2
    for since, until in (("2026-10-06", "2026-11-01"), ("2026-10-01", "2026-10-05")):
        asked = {"from": f"{since}T00:00:00Z", "to": f"{until}T00:00:00Z"}
        assert owner.get(f"{here}/usage", params=asked).json()["data"] == []
    backwards = {"from": OCTOBER["to"], "to": OCTOBER["from"]}
    assert owner.get(f"{here}/usage", params=backwards).status_code == 422
