"""The README's table of what can be done with each table of the seed: every cell of it, tried."""

import json
import re
from pathlib import Path

import pytest

from api.description import FILE
from tests.worlds.cast import Cast

README = (Path(__file__).parents[2] / "README.md").read_text()
OPERATIONS = {
    f"{method.upper()} {path}"
    for path, operations in json.loads(FILE.read_text())["paths"].items()
    for method in operations
}
METHODS = {"create": "POST", "update": "PATCH", "delete": "DELETE"}

_B = "/businesses/{business_id}"
_AGENT = f"{_B}/agents/{{agent_id}}"
#: All of a table's rows, and one of them.
PLACES = {
    "users": ("/users", "/users/{user_id}"),
    "businesses": ("/businesses", _B),
    "business_members": (f"{_B}/members", f"{_B}/members/{{user_id}}"),
    "phone_numbers": (f"{_B}/numbers", f"{_B}/numbers/{{number}}"),
    "ai_agents": (f"{_B}/agents", _AGENT),
    "agent_knowledge": (f"{_AGENT}/knowledge", f"{_AGENT}/knowledge/{{entry_id}}"),
    "agent_scripts": (f"{_AGENT}/scripts", f"{_AGENT}/scripts/{{script_name}}"),
    "calls": (f"{_B}/calls", f"{_B}/calls/{{sid}}"),
    "call_transcripts": (f"{_B}/calls/{{sid}}/transcript", f"{_B}/calls/{{sid}}/transcript"),
    "subscriptions": (f"{_B}/subscriptions", f"{_B}/subscriptions"),
    "subscription_plans": ("/plans", "/plans"),
    "usage_records": (f"{_B}/usage-records", f"{_B}/usage-records/{{record_id}}"),
    "webhook_events": ("/webhook-events", "/webhook-events/{event_id}"),
    "api_keys": (f"{_B}/api-keys", f"{_B}/api-keys/{{key_id}}"),
}


def cells() -> dict[tuple[str, str], str]:
    """By table and verb, what the README says."""
    _, _, rest = README.partition("## What can be done with each table\n")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in rest.partition("\n## ")[0].splitlines()
        if line.startswith("|")
    ]
    head, _, *tables = rows
    return {(table, verb): cell for table, *of in tables for verb, cell in zip(head[1:], of, strict=True)}


CELLS = cells()


def test_every_table_of_the_seed_has_each_verb():
    assert {table for table, _ in CELLS} == set(PLACES)
    assert {verb for _, verb in CELLS} == {"create", "read", "update", "delete"}
    assert all(CELLS.values())


@pytest.mark.parametrize(("table", "verb"), CELLS, ids=lambda part: part)
def test_what_it_names_is_there(table, verb):
    """Each of these is in the matrix of who gets what (tests/api/test_tenancy.py)."""
    named = [
        each.replace("…", "/v1/businesses/{business_id}")
        for each in re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) [^`]+)`", CELLS[table, verb])
    ]
    assert set(named) <= OPERATIONS
    assert named or CELLS[table, verb].startswith("405: ")


REFUSED = [key for key, cell in CELLS.items() if cell.startswith("405: ")]


def test_whatever_is_refused_names_the_door_that_does_it(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    assert len(REFUSED) == 13
    for table, verb in REFUSED:
        path = PLACES[table][0 if verb == "create" else 1].format(**place)
        for actor in ("owner", "administrator", "nobody"):
            answer = cast.clients[actor].request(METHODS[verb], path, json={})
            assert answer.status_code == 405, (table, verb, answer.text)
            assert METHODS[verb] not in answer.headers["allow"]
            words = CELLS[table, verb].removeprefix("405: ")
            told = CELLS[table, "create"].removeprefix("405: ") if words == "the same" else words
            door = (re.findall(r"`([^`]+)`", told) or [told])[0]
            assert door in answer.json()["detail"]


def test_what_is_not_refused_is_not_by_its_own_address(api, people):
    """Where the README names another address for a verb, the table's own says so, too."""
    cast = Cast(api, people)
    place = cast.place(1)
    for table, (all_of_it, one) in PLACES.items():
        for verb, method in METHODS.items():
            path = (all_of_it if verb == "create" else one).format(**place)
            answer = cast.clients["nobody"].request(method, path, json={})
            own = f"{method} /v1{all_of_it if verb == 'create' else one}" in OPERATIONS
            assert (answer.status_code == 405) == (not own), (table, verb)
            if not own:
                assert ";" in answer.json()["detail"], (table, verb, "no other door is named")
