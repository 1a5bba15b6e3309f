"""What holds for every route: who may come in, how what is wrong is told, and what no answer goes without."""

import ast
import gzip
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from sqlalchemy import text

from accounts import rights
from accounts.rights import Role
from api.app import describable
from api.description import FILE, describe, rights_named
from api.door import LARGEST
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast
from tests.worlds.people import PASSWORD

APP = describable()
ROUTES = [context for context in iter_route_contexts(APP.routes) if isinstance(context.original_route, APIRoute)]

FLOW = {"steps": [{"id": "greeting", "say": "Good morning."}]}

#: Rights that are none of the table's.
_OF_NO_TABLE = {"anybody", "oneself", *rights.SERVICE_SCOPES}


def rights_of_route(route) -> set[str]:
    return rights_named(route.original_route)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{'-'.join(route.methods)} {route.path_format}")
def test_every_route_names_one_right_and_the_table_has_it(route):
    (right,) = rights_of_route(route)
    assert right in {line.right for line in rights.TABLE} | _OF_NO_TABLE


def test_every_right_of_the_table_is_some_routes():
    used = set().union(*map(rights_of_route, ROUTES))
    assert {line.right for line in rights.TABLE} - used == set()


def test_what_needs_somebody_is_refused_to_nobody(api):
    clients = [api.client(token) for token in (None, "x", "alt_test_" + "a" * 38)]
    for route in ROUTES:
        if rights_of_route(route) != {"anybody"}:
            for client in clients:
                refuses_nobody(client, route)


def refuses_nobody(client: httpx.Client, route) -> None:
    named = {"script_name": "ordering", "number": "+15550000001", "sid": "CA" + "0" * 32, "invoice_id": "in_1"}
    path = re.sub(
        r"{(\w+)}", lambda name: named.get(name[1], "1"), route.path_format.removeprefix("/v1")
    )  # all others are numbers
    (method,) = route.methods
    answer = client.request(method, path, json={}, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 401, (method, path, answer.text)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:altiora:problem:not-signed-in"


def test_nothing_in_an_address_and_no_cookie_signs_anybody_in(api, people):
    ada = people.user("Ada")
    signed_in = api.signed_in(ada)
    token = signed_in.headers["authorization"].removeprefix("Bearer ")
    assert signed_in.get("/me").status_code == 200
    for asked in (
        {"params": {"access_token": token, "token": token}},
        {"headers": {"Cookie": f"access_token={token}; authorization={token}"}},
        {"headers": {"Authorization": token}},
        {"headers": {"Authorization": f"Basic {token}"}},
        {"headers": {"X-Api-Key": token}},
    ):
        with httpx.Client() as client:
            assert client.get(f"{api.url}/v1/me", **asked).status_code == 401


def test_the_description_that_is_committed_is_the_apis():
    assert FILE.read_bytes() == describe(describable()), "run `make schema`"


def test_every_operation_is_described():
    document = json.loads(FILE.read_text())
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], (method, path)
            assert operation["x-altiora-right"]
            (success,) = [status for status in operation["responses"] if status != "default"]
            content = operation["responses"][success].get("content")
            assert (success == "204") == (content is None), (method, path)


def test_of_which_business_a_request_is_stands_in_one_place():
    """The first wall: routes are handed the business, and compare no row's with it themselves."""
    files = sorted((Path(__file__).parents[2] / "api" / "routes").glob("[!h]*.py"))  # health is about no business
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                assert "business_id" not in {each.arg for each in node.args.args}, f"{node.name}: ask by in_business"
            if isinstance(node, ast.Compare):
                sides = (node.left, *node.comparators)
                named = {getattr(each, "attr", getattr(each, "id", "")) for each in sides}
                assert "business_id" not in named, f"{file.name} {node.lineno}: ask asked.own"
            if isinstance(node, ast.Attribute):
                assert node.attr not in {"path_params", "exec_driver_sql", "execute"}, f"{file.name} {node.lineno}"
    assert len(files) >= 8


# What every answer has


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/me", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/me", 405),
        ("GET", "/businesses/1", 404),
        ("GET", "/businesses/x", 404),
        ("POST", "/businesses", 422),
        ("GET", "/users", 403),
    ],
)
def test_every_answer_has_its_headers_and_every_refusal_is_a_problem(api, people, method, path, status):
    answer = api.signed_in(people.user("Ada")).request(method, path)
    assert answer.status_code == status
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == status
        assert problem["type"].startswith("urn:altiora:problem:")
        assert problem["detail"]


def test_a_method_that_is_not_there_is_told_all_that_are(api):
    assert api.client().put("/me").headers["allow"] == "DELETE, GET, PATCH"
    assert api.client().patch("/businesses").headers["allow"] == "GET, POST"
    assert api.client().delete("/sessions/refresh").headers["allow"] == "POST"
    assert api.client().patch("/users/staff").headers["allow"] == "POST"


def test_a_request_has_an_id_of_the_callers_or_of_ours_and_the_trail_has_it(api, people):
    client = api.signed_in(people.user("Ada"))
    for sent, kept in (
        ("job-17_a", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("a b", False),
        ("é", False),
        ("", False),
    ):
        answer = client.patch("/me", json={"name": f"Ada {sent}x"}, headers={"X-Request-Id": sent.encode()})
        assert answer.status_code == 200
        given = answer.headers["x-request-id"]
        assert (given == sent) == kept
        assert people.one("select request_id from audit_entries order by id desc limit 1") == given


def test_an_answer_has_an_etag_of_what_it_says(api, people):
    client = api.signed_in(people.user("Ada"))
    before = client.get("/businesses").headers["etag"]
    assert client.get("/businesses").headers["etag"] == before
    client.post("/businesses", json={"name": "Bakery", "time_zone": "UTC"})
    assert client.get("/businesses").headers["etag"] != before


@breaks("api/asking.py", "            await at_once.acquire()\n", "            pass\n")
def test_a_crowd_waits_for_its_turn(api, people):
    """Each takes a thread twice, and holds a connection from the first time to the second."""
    owner = people.user("Ada")
    business_id = people.business("Bakery", owner=owner)
    token = api.signed_in(owner).headers["authorization"]
    address = f"{api.url}/v1/businesses/{business_id}/calls"
    limits = httpx.Limits(max_connections=150)
    with httpx.Client(limits=limits, timeout=10, headers={"Authorization": token}) as client:

        def ask(_: int) -> int:
            try:
                return client.get(address).status_code
            except httpx.TimeoutException:
                return 0

        with ThreadPoolExecutor(150) as pool:
            assert set(pool.map(ask, range(450))) == {200}


@pytest.mark.parametrize("digits", [20, 5_000])
def test_an_id_of_many_digits_is_none(api, people, digits):
    owner = people.user("Ada")
    client, business_id = api.signed_in(owner), people.business("Bakery", owner=owner)
    for path in ("/businesses/{}", f"/businesses/{business_id}/agents/{{}}", "/users/{}"):
        assert client.get(path.format("9" * digits)).status_code == 404


# What is sent


def test_a_body_that_is_too_large_is_refused_before_it_is_read(api, people):
    client = api.signed_in(people.user("Ada"))
    large = json.dumps({"name": "x" * LARGEST, "time_zone": "UTC"})
    assert client.post("/businesses", content=large).status_code == 413

    def in_parts():
        for at in range(0, len(large), 65_536):
            yield large[at : at + 65_536].encode()

    answer = client.post("/businesses", content=in_parts(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert client.get("/me").status_code == 200


HOSTILE = {
    "NUL": "a\0b",
    "surrogate": "\ud800",
    "2^63": 2**63,
    "negative": -1,
    "number": 1,
    "float": 1e308,
    "null": None,
    "true": True,
    "list": [],
    "object": {},
    "empty": "",
    "long": "x" * 10_000,
    "spaces": "   ",
    "lines": "a\nb",
    "set_config": "'; select set_config('role', 'postgres', false); --",
    "template": "{{7*7}} %s %(name)s {name}",
    "bidi": "\u202e",
    "deep": json.loads('{"a": ' * 253 + "1" + "}" * 253),
    "huge": [1e20, 1e300],
    "edge": "9999-12-31T23:59:59-14:00",
    "dawn": "0001-01-01T00:00:00+14:00",
    "steps": {"steps": [{"id": "a", "say": "x", "\ud800": "y"}]},
}


def _fields() -> dict[tuple[str, str], list[str]]:
    """What each operation takes in its body, by the description: a later one is here by itself."""
    document = json.loads(FILE.read_text())
    found = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "requestBody" in operation:
                reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                schema = document["components"]["schemas"][reference.rsplit("/", 1)[-1]]
                found[method.upper(), path.removeprefix("/v1")] = list(schema["properties"])
    return found


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_whatever_stands_in_a_field_nothing_breaks(api, people, value):
    cast = Cast(api, people)
    place = cast.place(1)
    right = {
        "email": "zoe@example.com",
        "name": "Zoe",
        "password": PASSWORD,
        "secret": "x" * 43,
        "code": "123456",
        "time_zone": "UTC",
        "role": "member",
        "staff_role": "support",
        "reason": "a test",
        "scopes": ["members:read"],
        "expires_at": None,
        "language": "en",
        "question": "Are you open?",
        "answer": "Yes.",
        "settings": {},
        "flow": FLOW,
        "agent_id": None,
        "label": "Shop",
        "kind": "call",
        "object_id": "CA" + "0" * 32,
        "ids": [place["event_id"]],
        "number": place["free_number"],
        "business_id": place["elsewhere_id"],
        "confirm": place["business_id"],
        "from": None,
        "contact_email": "zoe@example.com",
        "state": "dead",
        "note": "a test",
        "messages": [{"position": 0, "speaker": "agent", "content": "Hello."}],
    } | dict.fromkeys(("personality", "voice", "prompt", "greeting"), "calm")
    operations = _fields()
    assert len(operations) > 18
    for (method, path), fields in operations.items():
        client = cast.clients[
            "owner" if path.startswith(("/businesses", "/me", "/sessions", "/links")) else "administrator"
        ]
        if path.startswith("/runtime"):
            client = cast.client("service", 0)
        for field in fields:
            body = json.dumps({each: right[each] for each in fields} | {field: value}).encode("utf-8", "surrogatepass")
            headers = {"Content-Type": "application/json"}
            answer = client.request(method, path.format(**place), content=body, headers=headers)
            assert answer.status_code < 500, (method, path, field, answer.text)
            people.run("delete from attempt_limits")
            people.run("update users set deactivated_at = null")
    here = "/businesses/{business_id}".format(**place)
    for client in (cast.clients["administrator"], cast.clients["owner"]):
        assert client.get("/me").status_code in {200, 401}
        for path in ("/agents", "/calls", "/numbers", "/api-keys", "/members"):  # what was taken can be read
            assert client.get(here + path).status_code in {200, 401}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        gzip.compress(b'{"name": "x", "time_zone": "UTC"}', mtime=0),
        b'{"name": "x", "time_zone": "UTC", "owner_id": 1}',
        b'{"name": "x", "name": "y"}',
        b'{"name": NaN}',
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_none_is_told_so(api, people, body):
    answer = api.signed_in(people.user("Ada")).post(
        "/businesses", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}
    assert people.rows("select from businesses") == []


@pytest.mark.parametrize(
    "path", ["/businesses/9223372036854775808", "/businesses/0", "/businesses/-1", "/businesses/1e3"]
)
def test_ids_that_can_not_be_are_no_fault_of_ours(api, people, path):
    assert api.signed_in(people.user("Ada")).get(path).status_code in {404, 422}


def test_what_was_sent_is_not_repeated(api, people):
    client = api.signed_in(people.user("Ada"))
    answer = client.post("/me/password", json={"password": ["my secret words"]})
    assert answer.status_code == 422
    assert "my secret words" not in answer.text


# Pages


def test_a_list_is_read_in_pages_and_a_cursor_belongs_to_its_list(api, people):
    root = people.user("Root", staff=Role.ADMINISTRATOR)
    people.enrol(root)
    staff = api.signed_in(root, staff=True, second_factor=True)
    made = [people.business(f"B{number}") for number in range(7)]
    seen, cursor, sizes = [], None, []
    while True:
        page = staff.get("/businesses", params={"limit": 3} | ({"cursor": cursor} if cursor else {})).json()
        seen += [each["id"] for each in page["data"]]
        sizes.append(len(page["data"]))
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
        people.business(f"newer {len(seen)}")  # what comes meanwhile moves nothing
    assert (seen, sizes) == (made[::-1], [3, 3, 1])
    for params in ({"cursor": cursor, "q": "B"}, {"cursor": "AAAA"}, {"cursor": "x" * 22}, {"cursor": "A" * 22}):
        assert staff.get("/businesses", params=params).status_code == 422
    assert staff.get("/audit-entries", params={"cursor": cursor}).status_code == 422
    for limit in (0, 201, -1, 2**63, "x"):
        assert staff.get("/businesses", params={"limit": limit}).status_code == 422
    assert len(staff.get("/businesses", params={"q": "b3"}).json()["data"]) == 1
    assert staff.get("/businesses", params={"q": "%"}).json()["data"] == []


# What is away


def test_a_lock_that_is_held_is_a_503_and_not_a_500(api, people):
    ada = people.user("Ada")
    bakery = people.business("Bakery", owner=ada)
    client = api.signed_in(ada)
    with people.engine.begin() as holder:
        holder.execute(text("lock table businesses in access exclusive mode"))
        answer = client.get(f"/businesses/{bakery}")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"


def test_what_breaks_inside_is_a_500_that_tells_nothing(api, people, monkeypatch):
    monkeypatch.setattr("api.routes.businesses._shown", lambda _: 1 / 0)
    ada = people.user("Ada")
    bakery = people.business("Bakery", owner=ada)
    answer = api.signed_in(ada).get(f"/businesses/{bakery}", headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert answer.json()["detail"] == "it is in our log, under this request's id"
    assert "Zero" not in answer.text
    assert answer.headers["x-request-id"] == "find-me"


def test_what_is_answered_is_stored(api, people):
    """A commit after the answer would be lost by whoever asks at once."""
    client = api.signed_in(people.user("Ada"))
    with ThreadPoolExecutor(4) as pool:
        for number in range(20):
            assert client.patch("/me", json={"name": f"Ada {number}"}).status_code == 200
            assert set(pool.map(lambda _: client.get("/me").json()["name"], range(4))) == {f"Ada {number}"}


def test_health_and_metrics(api, people):
    with httpx.Client(base_url=api.url) as client:
        assert client.get("/health/live").json()["status"] == "ok"
        assert client.get("/health/ready").json()["status"] == "ok"
        api.signed_in(people.user("Ada")).get("/me")
        assert 'altiora_api_answers_total{method="GET",route="/v1/me",status="200"}' in client.get("/metrics").text
