"""The matrix once more with the first wall switched off: what our code forgets to ask, the database does not give."""

from typing import Any

import pytest
from fastapi.routing import APIRoute

from accounts.actors import Person
from accounts.api_keys import Program
from api import asking
from api.asking import Asked, AskedOfBusinesses
from api.routes import api_keys, members
from db.tenancy import WALLS
from tests.api.test_conventions import ROUTES, rights_of_route
from tests.api.test_tenancy import QUERIES, TABLE, about
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast

#: Routes about a business, or about Altiora's own; the others know only who asks, and no business.
OF_BUSINESSES = [
    (method, path)
    for route in ROUTES
    if isinstance(route.original_route, APIRoute)
    for method, path in [(next(iter(route.methods or ())), str(route.path_format).removeprefix("/v1"))]
    if "{business_id}" in path or path == "/businesses" or not rights_of_route(route) & {"anybody", "oneself"}
]


@pytest.fixture
def without_the_first_wall(monkeypatch):
    """Nobody asks whose a business or a row is, and what somebody may."""
    usual = asking._asked

    def asked(kind: type[Asked], *about: Any) -> Asked:
        given: Asked = usual(kind, *(*about[:-1], None) if kind is AskedOfBusinesses else about)
        return given

    for kind in (Person, Program):
        monkeypatch.setattr(kind, "sees", lambda *_: True)
        monkeypatch.setattr(kind, "require", lambda *_: None)
    monkeypatch.setattr(Asked, "own", lambda _, found, __: found)
    for statement in ("_BUSINESS", "_HELD"):
        monkeypatch.setattr(asking, statement, "select null as ended_at -- %s")
    monkeypatch.setattr(asking, "_as_now", lambda _, __, person, ___: person)
    monkeypatch.setattr(asking, "_asked", asked)
    monkeypatch.setattr(members, "may_give", lambda *_: True)
    monkeypatch.setattr(members, "_see_member", lambda *_: None)
    monkeypatch.setattr(api_keys, "_see_own", lambda *_: None)


def all_of(people, business_id: int) -> list[str]:
    """Every row of a business, and everybody who works there."""
    wanted = {name: "business_id" for name, wall in WALLS.items() if "business_id" in wall}
    statement = " union all ".join(
        [
            *(f"select t::text from {name} t where {column} = %(id)s" for name, column in wanted.items()),
            "select t::text from businesses t where id = %(id)s",
            "select t::text from users t where id in (select user_id from business_members where business_id = %(id)s)",
        ]
    )
    with people.engine.connect() as connection:
        return sorted(connection.exec_driver_sql(statement, {"id": business_id}).scalars())


@breaks("db/tenancy.py", '"businesses": f"id = {_BUSINESSES}"', '"businesses": "true"')
@breaks("api/asking.py", "with tenants.begin() as connection:", "with engine_of(request).begin() as connection:")
def test_another_tenant_reads_nothing(without_the_first_wall, api, people):
    cast = Cast(api, people)
    theirs = cast.place(1)
    for method, path in OF_BUSINESSES:
        if method == "GET":
            sees_and_changes_nothing(cast, theirs, method, path)


@breaks("api/asking.py", "with tenants.begin() as connection:", "with engine_of(request).begin() as connection:")
@pytest.mark.parametrize(
    ("method", "path"), [each for each in OF_BUSINESSES if each[0] != "GET"], ids=lambda part: part
)
def test_another_tenant_changes_nothing(without_the_first_wall, api, people, method, path):
    cast = Cast(api, people)
    sees_and_changes_nothing(cast, cast.place(1), method, path)


def sees_and_changes_nothing(cast: Cast, theirs: dict[str, Any], method: str, path: str) -> None:
    """Under their business's address, and their rows under one's own."""
    prefix = cast.people.one("select prefix from api_keys where id = %s", theirs["key_id"])
    before = all_of(cast.people, theirs["business_id"])
    body = about(theirs, TABLE[method, path][1])
    for business_id in (theirs["business_id"], cast.strangers):
        for actor in ("stranger", "foreign"):
            client, address = cast.client(actor, cast.strangers), path.format(**theirs | {"business_id": business_id})
            answer = client.request(method, address, json=body, params=QUERIES.get(path))
            words = ("Bakery", "owner@", "admin@", "member@", "victim", "zoe@", prefix, theirs["number"], theirs["sid"])
            for word in words:
                assert word in address or word not in answer.text, (method, path, actor, business_id, answer.text)
    assert all_of(cast.people, theirs["business_id"]) == before, (method, path)


def test_the_first_wall_is_really_off(without_the_first_wall, api, people):
    cast = Cast(api, people)
    theirs = cast.place(1)
    client = cast.clients["member"]
    made = client.post(f"/businesses/{theirs['business_id']}/api-keys", json={"name": "x", "scopes": ["members:read"]})
    assert made.status_code == 201
    assert client.delete(f"/businesses/{theirs['business_id']}/members/{theirs['user_id']}").status_code == 204


def test_a_list_over_all_has_one_s_own_alone(without_the_first_wall, api, people):
    cast = Cast(api, people)
    cast.place(1)
    listed = cast.clients["stranger"].get("/businesses").json()["data"]
    assert [each["name"] for each in listed] == ["Florist"]
    assert cast.clients["stranger"].get("/users").status_code == 500, "it may not read every column of a user"
    staff = cast.clients["support"].get("/businesses").json()["data"]
    assert {each["name"] for each in staff} == {"Florist", "Bakery", "Garage"}
