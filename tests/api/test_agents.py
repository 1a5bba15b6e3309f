"""Agents by HTTP: made, changed by who has read what they change, ended; knowledge and scripts with them."""

import pytest

from tests.worlds.cast import Cast

FLOW = {"steps": [{"id": "greeting", "say": "Good morning."}]}


@pytest.fixture
def here(api, people):
    """The owner's client, and the address of the agents of a business."""
    cast = Cast(api, people)
    place = cast.place(1)
    client = cast.clients["owner"]
    del client.headers["If-Match"]
    return client, f"/businesses/{place['business_id']}/agents", place["agent_id"]


def test_who_changes_an_agent_has_read_it(here):
    client, agents, agent_id = here
    read = client.get(f"{agents}/{agent_id}")
    tag = {"If-Match": read.headers["etag"]}
    assert client.patch(f"{agents}/{agent_id}", json={"voice": "alto"}).status_code == 428
    changed = client.patch(f"{agents}/{agent_id}", json={"voice": "alto"}, headers=tag)
    assert changed.json() == read.json() | {"voice": "alto"}
    assert client.patch(f"{agents}/{agent_id}", json={"voice": "bass"}, headers=tag).status_code == 412
    assert client.get(f"{agents}/{agent_id}").headers["etag"] == changed.headers["etag"]
    again = {"If-Match": f'"other", {changed.headers["etag"]}'}
    assert client.patch(f"{agents}/{agent_id}", json={"settings": {"speed": 1}}, headers=again).status_code == 200


def test_a_script_changes_by_versions(here):
    client, agents, agent_id = here
    scripts = f"{agents}/{agent_id}/scripts"
    first = client.get(f"{scripts}/ordering")
    other = {"steps": [{"id": "greeting", "say": "Good evening."}]}
    assert client.put(f"{scripts}/ordering", json={"flow": other}).status_code == 428
    saved = client.put(f"{scripts}/ordering", json={"flow": other}, headers={"If-Match": first.headers["etag"]})
    assert (saved.json()["version"], saved.json()["flow"]) == (2, other)
    late = client.put(f"{scripts}/ordering", json={"flow": FLOW}, headers={"If-Match": first.headers["etag"]})
    assert late.status_code == 412
    versions = client.get(f"{scripts}/ordering/versions").json()["data"]
    assert [each["version"] for each in versions] == [2, 1]
    wrong = client.post(scripts, json={"name": "second", "flow": {"steps": [{"id": "a", "next": "b"}]}})
    assert (wrong.status_code, wrong.json()["detail"]) == (422, "step a leads to b, which is not there")
    assert client.delete(f"{scripts}/ordering").status_code == 204
    assert client.get(f"{scripts}/ordering").status_code == 404
    assert len(client.get(f"{scripts}/ordering/versions").json()["data"]) == 2


def test_knowledge_is_found_and_forgotten(here):
    client, agents, agent_id = here
    knowledge = f"{agents}/{agent_id}/knowledge"
    for number in range(5):
        client.post(knowledge, json={"question": f"Question {number}?", "answer": "Rolls." if number == 3 else "No."})
    assert [each["question"] for each in client.get(knowledge, params={"q": "rolls"}).json()["data"]] == ["Question 3?"]
    page = client.get(knowledge, params={"limit": 4}).json()
    rest = client.get(knowledge, params={"limit": 4, "cursor": page["next_cursor"]}).json()
    assert len(page["data"]) + len(rest["data"]) == 6
    entry = page["data"][0]["id"]
    assert client.delete(f"{knowledge}/{entry}").status_code == 204
    assert client.get(f"{knowledge}/{entry}").status_code == 404


def test_what_is_of_another_agent_is_not_there(here):
    client, agents, agent_id = here
    other = client.post(agents, json={"name": "Night"}).json()["id"]
    entry = client.get(f"{agents}/{agent_id}/knowledge").json()["data"][0]["id"]
    assert client.get(f"{agents}/{other}/knowledge/{entry}").status_code == 404
    assert client.delete(f"{agents}/{other}/knowledge/{entry}").status_code == 404
    assert client.get(f"{agents}/{other}/scripts/ordering").status_code == 404


def test_the_plan_says_how_many(here, people):
    client, agents, agent_id = here
    people.run("update businesses set plan_id = (select id from subscription_plans where code = 'free')")
    refused = client.post(agents, json={"name": "Night"})
    assert (refused.status_code, refused.json()["detail"]) == (
        409,
        "the plan Free has room for no other agent: end one, or take a larger plan",
    )
    assert client.delete(f"{agents}/{agent_id}").json()["ended_at"]
    assert client.post(agents, json={"name": "Night"}).status_code == 201
    assert [each["name"] for each in client.get(agents).json()["data"]] == ["Night"]
    assert len(client.get(agents, params={"ended": True}).json()["data"]) == 2
