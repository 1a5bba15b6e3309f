"""A request that is sent again: done once, answered the same, whoever dies or comes at once."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.worlds.breaking import breaks

KEY = {"Idempotency-Key": "till-2026-11-28-0001"}
BODY = {"email": "bob@example.com", "role": "member"}


@pytest.fixture
def ada(api, people):
    ada = people.user("Ada")
    return api.signed_in(ada), people.business("Bakery", owner=ada)


@breaks("api/idempotency.py", "            asked.keeper.keep(asked.connection, response)\n", "            pass\n")
def test_what_is_sent_again_is_done_once_and_answered_the_same(people, ada):
    client, bakery = ada
    first = client.post(f"/businesses/{bakery}/invitations", json=BODY, headers=KEY)
    again = client.post(f"/businesses/{bakery}/invitations", json=BODY, headers=KEY)
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert first.status_code == 201
    assert again.headers["idempotent-replayed"] == "true"
    assert people.one("select count(*) from account_links") == 1
    assert people.one("select count(*) from audit_entries") == 1
    other = client.post(f"/businesses/{bakery}/invitations", json=BODY, headers={"Idempotency-Key": "another"})
    assert other.json()["id"] != first.json()["id"]


def test_where_a_thing_is_is_told_again_too(people, api):
    client = api.signed_in(people.user("Zoe"))
    answers = [client.post("/businesses", json={"name": "B", "time_zone": "UTC"}, headers=KEY) for _ in range(3)]
    assert {each.headers["location"] for each in answers} == {"/v1/businesses/1"}
    assert {each.status_code for each in answers} == {201}


def test_another_body_is_refused_and_another_address_or_person_is_another_request(api, people, ada):
    client, bakery = ada
    bob = people.user("Bob")
    people.run("insert into business_members (business_id, user_id, role) values (%s, %s, 'admin')", bakery, bob)
    here = f"/businesses/{bakery}/invitations"
    assert client.post(here, json=BODY, headers=KEY).status_code == 201
    refused = client.post(here, json=BODY | {"role": "admin"}, headers=KEY)
    assert (refused.status_code, refused.json()["type"]) == (422, "urn:altiora:problem:key-used")
    assert (
        client.post(f"/businesses/{bakery}/ownership", json={"email": "z@example.com"}, headers=KEY).status_code == 202
    )
    assert api.signed_in(bob).post(here, json=BODY, headers=KEY).headers.get("idempotent-replayed") is None


def test_rights_are_looked_at_before_what_was_answered(people, ada):
    client, bakery = ada
    here = f"/businesses/{bakery}/invitations"
    assert client.post(here, json=BODY, headers=KEY).status_code == 201
    people.run("update businesses set owner_id = null")
    assert client.post(here, json=BODY, headers=KEY).status_code == 404


def test_what_failed_may_be_tried_again(people, ada, monkeypatch):
    client, bakery = ada
    here = f"/businesses/{bakery}/invitations"
    with monkeypatch.context() as patched:
        patched.setattr("api.routes.members._shown", lambda _: 1 / 0)
        assert client.post(here, json=BODY, headers=KEY).status_code == 500
    assert people.one("select count(*) from account_links") == 0
    assert client.post(here, json=BODY, headers=KEY).status_code == 201
    assert client.post(f"/businesses/{bakery}/leave", headers=KEY).status_code == 409
    assert client.post(f"/businesses/{bakery}/leave", headers=KEY).status_code == 409


def test_a_secret_is_kept_nowhere(people, ada):
    client, bakery = ada
    here, body = f"/businesses/{bakery}/api-keys", {"name": "till", "scopes": ["members:read"]}
    secret = client.post(here, json=body, headers=KEY).json()["secret"]
    again = client.post(here, json=body, headers=KEY)
    assert again.status_code == 409
    assert "secret" in again.json()["detail"]
    assert people.one("select count(*) from api_keys") == 1
    assert secret not in str(people.rows("select i::text from idempotency_keys i"))


@breaks("api/idempotency.py", "    if not connection.exec_driver_sql(_TAKE, about).scalar_one():\n", "    if False:\n")
def test_of_eight_at_once_one_is_done_and_the_others_wait_or_get_its_answer(people, ada, monkeypatch):
    from accounts import links

    client, bakery = ada
    made = links.request_link

    def slowly(*given, **more):
        time.sleep(0.3)
        return made(*given, **more)

    monkeypatch.setattr("accounts.links.request_link", slowly)

    def ask(_: int) -> int:
        return int(client.post(f"/businesses/{bakery}/invitations", json=BODY, headers=KEY).status_code)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert set(found) <= {201, 409}
    assert 409 in found, "in flight"
    assert people.one("select count(*) from audit_entries") == 1


def test_after_a_day_a_key_is_new(people, ada):
    client, bakery = ada
    here = f"/businesses/{bakery}/invitations"
    first = client.post(here, json=BODY, headers=KEY).json()["id"]
    people.run("update idempotency_keys set created_at = created_at - interval '25 hours'")
    assert client.post(here, json=BODY, headers=KEY).json()["id"] != first
    assert client.post(here, json=BODY, headers=KEY).headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
def test_a_key_that_is_none_is_told_so(ada, key):
    client, bakery = ada
    answer = client.post(f"/businesses/{bakery}/invitations", json=BODY, headers={"Idempotency-Key": key.encode()})
    assert answer.status_code == 422
    assert answer.json()["invalid_parameters"][0]["name"] == "Idempotency-Key"
