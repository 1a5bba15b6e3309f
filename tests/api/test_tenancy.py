"""Who gets what from each route: a table by hand, and every cell asked for over HTTP.

Somebody else's business is not there (404); a right that is missing is named (403); whoever is nobody is told so (401).
Each row has somebody who gets it, so that a refusal is never the request's own fault.
"""

from collections.abc import Mapping
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from accounts.rights import Role
from tests.api.test_conventions import FLOW, ROUTES
from tests.worlds.cast import Cast
from tests.worlds.people import PASSWORD

ACTORS = [
    "nobody",
    "stranger",
    "member",
    "billing",
    "admin",
    "owner",
    "unscoped",
    "key",
    "foreign",
    "expired",
    "support",
    "operator",
    "administrator",
    "service",
]

#: Routes that nobody gets by what the table sends: there is nothing for them to work on.
WITHOUT_SUCCESS = {
    *(("POST", "/links/look"), ("POST", "/links/accept"), ("POST", "/sessions"), ("POST", "/sessions/refresh")),
    *(("POST", "/me/second-factor/confirmations"), ("DELETE", "/me/second-factor")),
    ("POST", "/users/{user_id}/second-factor-resets"),
}

#: What everybody reads who works there, and staff; what everybody writes but who pays the bills, and support.
_READ_BY_ALL = "401 404 200 200 200 200 403 200 404 401 200 200 200 403"
_WRITTEN = "401 404 %(ok)s 403 %(ok)s %(ok)s 403 %(ok)s 404 401 403 %(ok)s %(ok)s 403"

_ERASED = "401 404 403 403 204 204 403 403 404 401 403 403 403 403"
_BY_SERVICE = "401" + " 403" * 8 + " 401 403 403 403 200"

_HELD = "401 404 403 403 %(ok)s %(ok)s 403 %(ok)s 404 401 403 %(ok)s %(ok)s 403"
_READ_BY_PAYERS = "401 404 403 200 200 200 403 200 404 401 200 200 200 403"
_READ_BY_STAFF = "401" + " 403" * 8 + " 401 200 200 200 403"
_BY_OPERATORS = "401" + " 403" * 8 + " 401 403 %(ok)s %(ok)s 403"
_OCTOBER = {"from": "2026-10-01T00:00:00Z", "to": "2026-11-01T00:00:00Z"}

#: For each actor in their order: the status.
TABLE: dict[tuple[str, str], tuple[str, dict[str, Any] | None]] = {
    # the door, for everybody
    ("POST", "/sign-ups"): ("202 " * 14, {"email": "new@example.com"}),
    ("POST", "/password-resets"): ("202 " * 14, {"email": "new@example.com"}),
    ("POST", "/links/look"): ("410 " * 14, {"secret": "x"}),
    ("POST", "/links/accept"): ("410 " * 14, {"secret": "x"}),
    ("POST", "/sessions"): ("401 " * 14, {"email": "new@example.com", "password": "x"}),
    ("POST", "/sessions/refresh"): ("401 " * 14, None),
    # oneself: whoever is signed in, and no key
    ("GET", "/me"): ("401 200 200 200 200 200 403 403 403 401 200 200 200 403", None),
    ("PATCH", "/me"): ("401 200 200 200 200 200 403 403 403 401 200 200 200 403", {"name": "Another"}),
    ("POST", "/me/proofs"): ("401 204 204 204 204 204 403 403 403 401 401 401 401 403", {"password": PASSWORD}),
    ("POST", "/me/password"): ("401 204 204 204 204 204 403 403 403 401 204 204 204 403", {"password": PASSWORD}),
    ("POST", "/me/email"): ("401 202 202 202 202 202 403 403 403 401 202 202 202 403", {"email": "new@example.com"}),
    ("POST", "/me/second-factor"): ("401 201 201 201 201 201 403 403 403 401 422 422 422 403", None),
    ("POST", "/me/second-factor/confirmations"): (
        "401" + " 422" * 5 + " 403 403 403 401 422 422 422 403",
        {"code": "123456"},
    ),
    ("DELETE", "/me/second-factor"): ("401" + " 409" * 5 + " 403 403 403 401 409 409 409 403", None),
    ("DELETE", "/me"): ("401 409 204 204 204 409 403 403 403 401 204 204 409 403", None),
    ("GET", "/sessions"): ("401 200 200 200 200 200 403 403 403 401 200 200 200 403", None),
    ("DELETE", "/sessions/present"): ("401 204 204 204 204 204 403 403 403 401 204 204 204 403", None),
    ("DELETE", "/sessions/{session_id}"): ("401 404 404 404 404 204 403 403 403 401 404 404 404 403", None),
    ("DELETE", "/sessions"): ("401 204 204 204 204 204 403 403 403 401 204 204 204 403", None),
    # businesses
    ("GET", "/businesses"): ("401 200 200 200 200 200 403 403 403 401 200 200 200 403", None),
    ("POST", "/businesses"): (
        "401 409 201 201 201 201 403 403 403 401 201 201 201 403",
        {"name": "New", "time_zone": "UTC"},
    ),
    ("GET", "/businesses/{business_id}"): ("401 404 200 200 200 200 403 200 404 401 200 200 200 403", None),
    ("PATCH", "/businesses/{business_id}"): (
        "401 404 403 403 200 200 403 200 404 401 403 200 200 403",
        {"name": "Renamed"},
    ),
    ("DELETE", "/businesses/{business_id}"): ("401 404 403 403 403 200 403 403 404 401 403 403 200 403", None),
    # who works there
    ("GET", "/businesses/{business_id}/members"): ("401 404 200 200 200 200 403 200 404 401 200 200 200 403", None),
    ("PATCH", "/businesses/{business_id}/members/{user_id}"): (
        "401 404 403 403 200 200 403 403 404 401 403 403 200 403",
        {"role": "billing"},
    ),
    ("DELETE", "/businesses/{business_id}/members/{user_id}"): (
        "401 404 403 403 204 204 403 403 404 401 403 403 204 403",
        None,
    ),
    ("POST", "/businesses/{business_id}/leave"): ("401 404 204 204 204 409 403 403 404 401 403 403 403 403", None),
    ("GET", "/businesses/{business_id}/invitations"): ("401 404 200 200 200 200 403 200 404 401 200 200 200 403", None),
    ("POST", "/businesses/{business_id}/invitations"): (
        "401 404 403 403 201 201 403 403 404 401 403 403 201 403",
        {"email": "new@example.com", "role": "admin"},
    ),
    ("DELETE", "/businesses/{business_id}/invitations/{invitation_id}"): (
        "401 404 403 403 204 204 403 403 404 401 403 403 204 403",
        None,
    ),
    ("POST", "/businesses/{business_id}/ownership"): (
        "401 404 403 403 403 202 403 403 404 401 403 403 202 403",
        {"email": "new@example.com"},
    ),
    # agents, what they know and say
    **{
        ("GET", f"/businesses/{{business_id}}/agents{path}"): (_READ_BY_ALL, None)
        for path in (
            *("", "/{agent_id}", "/{agent_id}/knowledge", "/{agent_id}/knowledge/{entry_id}", "/{agent_id}/scripts"),
            *("/{agent_id}/scripts/{script_name}", "/{agent_id}/scripts/{script_name}/versions"),
        )
    },
    ("POST", "/businesses/{business_id}/agents"): (_WRITTEN % {"ok": 201}, {"name": "Reception"}),
    ("PATCH", "/businesses/{business_id}/agents/{agent_id}"): (_WRITTEN % {"ok": 200}, {"greeting": "Hello!"}),
    ("DELETE", "/businesses/{business_id}/agents/{agent_id}"): (_WRITTEN % {"ok": 200}, None),
    ("POST", "/businesses/{business_id}/agents/{agent_id}/knowledge"): (
        _WRITTEN % {"ok": 201},
        {"question": "Are you open?", "answer": "Yes."},
    ),
    ("PATCH", "/businesses/{business_id}/agents/{agent_id}/knowledge/{entry_id}"): (
        _WRITTEN % {"ok": 200},
        {"answer": "No."},
    ),
    ("DELETE", "/businesses/{business_id}/agents/{agent_id}/knowledge/{entry_id}"): (_WRITTEN % {"ok": 204}, None),
    ("POST", "/businesses/{business_id}/agents/{agent_id}/scripts"): (
        _WRITTEN % {"ok": 201},
        {"name": "another", "flow": FLOW},
    ),
    ("PUT", "/businesses/{business_id}/agents/{agent_id}/scripts/{script_name}"): (
        _WRITTEN % {"ok": 200},
        {"flow": FLOW},
    ),
    ("DELETE", "/businesses/{business_id}/agents/{agent_id}/scripts/{script_name}"): (_WRITTEN % {"ok": 204}, None),
    # numbers and calls
    ("GET", "/businesses/{business_id}/numbers"): (_READ_BY_ALL, None),
    ("GET", "/businesses/{business_id}/numbers/{number}"): (_READ_BY_ALL, None),
    ("GET", "/businesses/{business_id}/available-numbers"): (_READ_BY_ALL, None),
    ("GET", "/businesses/{business_id}/billing"): ("401 404 403 403 403 403 403 403 404 401 200 200 200 403", None),
    ("GET", "/calls/{sid}"): (_READ_BY_STAFF, None),
    ("POST", "/businesses/{business_id}/numbers"): (_HELD % {"ok": 201}, {"number": "@free_number"}),
    ("DELETE", "/businesses/{business_id}/numbers/{number}"): (_HELD % {"ok": 204}, None),
    ("GET", "/numbers/{number}"): (_READ_BY_STAFF, None),
    ("POST", "/numbers/{number}/moves"): (
        _BY_OPERATORS % {"ok": 200},
        {"business_id": "@elsewhere_id", "confirm": "@business_id", "reason": "a test"},
    ),
    ("PATCH", "/businesses/{business_id}/numbers/{number}"): (_WRITTEN % {"ok": 200}, {"label": "Shop"}),
    ("GET", "/businesses/{business_id}/calls"): (_READ_BY_ALL, None),
    ("GET", "/businesses/{business_id}/calls/{sid}"): (_READ_BY_ALL, None),
    ("GET", "/businesses/{business_id}/calls/{sid}/transcript"): (
        "401 404 200 403 200 200 403 200 404 401 200 200 200 403",
        None,
    ),
    ("DELETE", "/businesses/{business_id}/calls/{sid}/transcript"): (_ERASED, None),
    ("DELETE", "/businesses/{business_id}/calls/{sid}/transcript/{position}"): (_ERASED, None),
    ("GET", "/businesses/{business_id}/calls.csv"): (_READ_BY_ALL, None),
    ("GET", "/businesses/{business_id}/calls/{sid}/explanation"): (_READ_BY_ALL, None),
    # what it used, and what that costs
    **{
        ("GET", f"/businesses/{{business_id}}/{path}"): (_READ_BY_ALL, None)
        for path in (
            *("usage-records", "usage-records/{record_id}", "usage-records/{record_id}/explanation"),
            *("usage", "usage.csv", "service-transitions"),
        )
    },
    **{
        ("GET", f"/businesses/{{business_id}}/{path}"): (_READ_BY_PAYERS, None)
        for path in (
            *("statements", "statements/{record_id}", "statements/{record_id}/page"),
            *("statements/{record_id}/verification", "subscriptions", "subscription-changes"),
            *("invoices", "invoices/{invoice_id}"),
        )
    },
    ("GET", "/plans"): ("200 " * 14, None),
    ("GET", "/plans/all"): (_READ_BY_STAFF, None),
    # the phone platform
    ("GET", "/runtime/numbers/{number}"): (_BY_SERVICE, None),
    ("POST", "/runtime/calls/{sid}/messages"): (
        _BY_SERVICE,
        {"messages": [{"position": 7, "speaker": "caller", "content": "Hello?"}]},
    ),
    # keys
    ("GET", "/businesses/{business_id}/api-keys"): ("401 404 403 403 200 200 403 403 404 401 403 200 200 403", None),
    ("POST", "/businesses/{business_id}/api-keys"): (
        "401 404 403 403 201 201 403 403 404 401 403 403 201 403",
        {"name": "till", "scopes": ["businesses:read"]},
    ),
    ("PATCH", "/businesses/{business_id}/api-keys/{key_id}"): (
        "401 404 403 403 200 200 403 403 404 401 403 403 200 403",
        {"name": "till"},
    ),
    ("POST", "/businesses/{business_id}/api-keys/{key_id}/rotations"): (
        "401 404 403 403 201 201 403 403 404 401 403 403 201 403",
        None,
    ),
    ("DELETE", "/businesses/{business_id}/api-keys/{key_id}"): (
        "401 404 403 403 204 204 403 403 404 401 403 403 204 403",
        None,
    ),
    ("GET", "/service-keys"): ("401" + " 403" * 8 + " 401 403 403 200 403", None),
    ("POST", "/service-keys"): ("401" + " 403" * 8 + " 401 403 403 201 403", {"name": "x", "scopes": ["runtime:read"]}),
    ("DELETE", "/service-keys/{service_key_id}"): ("401" + " 403" * 8 + " 401 403 403 204 403", None),
    # Altiora's own
    ("GET", "/users"): ("401" + " 403" * 8 + " 401 200 200 200 403", None),
    ("GET", "/users/{user_id}"): ("401" + " 403" * 8 + " 401 200 200 200 403", None),
    ("POST", "/users/staff"): (
        "401" + " 403" * 8 + " 401 403 403 202 403",
        {"email": "new@example.com", "staff_role": "support"},
    ),
    ("PATCH", "/users/{user_id}"): (
        "401" + " 403" * 8 + " 401 403 403 200 403",
        {"staff_role": "support", "reason": "a test"},
    ),
    ("POST", "/users/{user_id}/deactivations"): ("401" + " 403" * 8 + " 401 403 403 200 403", {"reason": "a test"}),
    ("POST", "/users/{user_id}/activations"): ("401" + " 403" * 8 + " 401 403 403 200 403", {"reason": "a test"}),
    ("POST", "/users/{user_id}/second-factor-resets"): (
        "401" + " 403" * 8 + " 401 403 403 409 403",
        {"reason": "a test"},
    ),
    ("GET", "/businesses/{business_id}/audit-entries"): (
        "401 404 403 403 200 200 403 403 404 401 200 200 200 403",
        None,
    ),
    **{
        ("GET", path): (_READ_BY_STAFF, None)
        for path in (
            *("/backlog", "/meter-pushes", "/margins", "/webhook-events", "/webhook-events/{event_id}", "/drifts"),
            "/drifts/{drift_id}",
        )
    },
    ("POST", "/webhook-events"): (
        _BY_OPERATORS % {"ok": 202},
        {"kind": "call", "object_id": "CA" + "0" * 32, "reason": "a test"},
    ),
    ("POST", "/webhook-events/replays"): (_BY_OPERATORS % {"ok": 200}, {"ids": []}),
    ("POST", "/webhook-events/{event_id}/dismissals"): (_BY_OPERATORS % {"ok": 200}, {"reason": "a test"}),
    ("POST", "/drifts/{drift_id}/resolutions"): (_BY_OPERATORS % {"ok": 200}, {"note": "a test"}),
    ("GET", "/audit-entries"): ("401" + " 403" * 8 + " 401 200 200 200 403", None),
}


def about(place: Mapping[str, Any], body: dict[str, Any] | None) -> dict[str, Any] | None:
    """The body as it is sent: what begins with @ is the place's."""
    if body is None:
        return None
    sent = {name: place[value[1:]] if str(value).startswith("@") else value for name, value in body.items()}
    return sent | {"ids": [place["event_id"]]} if "ids" in body else sent


#: What has to be asked for with more than its address.
QUERIES = {
    "/businesses/{business_id}/usage": _OCTOBER,
    "/businesses/{business_id}/usage.csv": _OCTOBER,
    "/margins": {"month": "2026-10"},
}

#: None: no JSON.
ANSWERS = {
    (method, str(route.path_format).removeprefix("/v1")): route.original_route.response_model
    for route in ROUTES
    for method in route.methods or ()
    if isinstance(route.original_route, APIRoute)
}


def test_who_reads_what(api, people):
    """All of it about one business, since nothing that is read changes anything."""
    cast = Cast(api, people)
    place = cast.place(1)
    clients = {actor: cast.client(actor, place["business_id"]) for actor in ACTORS}
    cast.reads_business = True
    without_businesses = clients | {"unscoped": cast.client("unscoped", place["business_id"])}
    latest = people.one("select coalesce(max(id), 0) from audit_entries")
    state = people.state()
    for (method, path), (statuses, _) in TABLE.items():
        if method != "GET":
            continue
        found = {}
        for actor, client in (without_businesses if path == "/businesses/{business_id}" else clients).items():
            answer = client.get(path.format(**place), params=QUERIES.get(path))
            found[actor] = answer.status_code
            if answer.status_code == 403:
                assert answer.json()["right"]
            if answer.status_code == 200 and ANSWERS[method, path] is not None:
                TypeAdapter(ANSWERS[method, path]).validate_json(answer.content)  # as it is described
        assert found == dict(zip(ACTORS, map(int, statuses.split()), strict=True)), path
        assert min(found.values()) < 300
        assert people.state() == state, (path, "what was refused, or only read, changed something")
        # Whoever works for Altiora and looks at somebody's calls leaves an entry.
        noted = people.rows("select who, what from audit_entries where id > %s order by id", latest)
        sees_calls = any(part in path for part in ("/calls", "/explanation", "/verification", "-events/{event_id}"))
        staff = [f"user:{cast.users[each]}" for each in ("support", "operator", "administrator")]
        assert noted == ([(who, "calls read") for who in staff] if sees_calls else []), path
        latest = people.one("select coalesce(max(id), 0) from audit_entries")
        people.run("delete from attempt_limits")


@pytest.mark.parametrize(("method", "path"), [key for key in TABLE if key[0] != "GET"], ids=lambda part: part)
def test_who_writes_what(api, people, method, path):
    cast = Cast(api, people)
    statuses, body = TABLE[method, path]
    expected: Mapping[str, int] = dict(zip(ACTORS, map(int, statuses.split()), strict=True))
    found = {}
    place: dict[str, Any] = {}
    changed = True
    for number, actor in enumerate(ACTORS):
        if changed:
            place = cast.place(number)
        if path.endswith("/activations"):
            people.run("update users set deactivated_at = now() where id = %s", place["user_id"])
        client = cast.client(actor, place["business_id"])
        before, state = people.one("select count(*) from audit_entries"), people.state()
        answer = client.request(method, path.format(**place), json=about(place, body), params=QUERIES.get(path))
        found[actor] = answer.status_code
        entries = people.rows("select who, by_right from audit_entries order by id desc limit 1")
        noted = people.one("select count(*) from audit_entries") - before
        if answer.status_code == 403:
            assert answer.json()["right"]
        if answer.content and answer.status_code < 300 and ANSWERS[method, path] is not None:
            TypeAdapter(ANSWERS[method, path]).validate_json(answer.content)  # as it is described
        changed = people.state() != state
        if answer.status_code >= 400:
            assert not changed, (actor, "what was refused changed something")
            assert noted == 0, (actor, "what was refused left an entry")
        elif not path.startswith(("/sign-ups", "/password-resets", "/me/proofs")):
            assert changed, (actor, "a write changed nothing")
            # What Altiora does with a business's own stands in that one's trail too, without Altiora's words.
            more = {"/numbers/{number}/moves": 2, "/webhook-events/{event_id}/dismissals": 1}.get(path, 0)
            assert noted == 1 + more, (actor, "a write left no entry")
            assert entries[0][1]
            assert entries[0][0].startswith(("user:", "key:"))
        people.run("delete from attempt_limits")
        people.run("update users set deactivated_at = null")
    assert found == expected
    assert ((method, path) in WITHOUT_SUCCESS) == (min(found.values()) >= 300)


def test_the_table_has_every_route():
    routes = {
        (method, str(route.path_format))
        for route in ROUTES
        for method in route.methods or ()
        if getattr(route.original_route, "include_in_schema", False)  # the reference holds nothing of anybody
    }
    ours = {(method, path.removeprefix("/v1")) for method, path in routes if path.startswith("/v1/")}
    assert ours == set(TABLE)


def test_what_somebody_lists_is_theirs_alone(api, people):
    ada, bob, root = people.user("Ada"), people.user("Bob"), people.user("Root", staff=Role.SUPPORT)
    people.enrol(root)
    bakery = people.business("Bakery", owner=ada)
    florist = people.business("Florist", owner=bob, member=ada)
    people.business("Nobody's")

    def listed(client) -> set[str]:
        return {each["name"] for each in client.get("/businesses").json()["data"]}

    assert listed(api.signed_in(ada)) == {"Bakery", "Florist"}
    assert listed(api.signed_in(bob)) == {"Florist"}
    assert len(listed(api.signed_in(root, staff=True, second_factor=True))) == 3
    for client, business_id in ((api.signed_in(bob), bakery), (api.signed_in(ada), 99), (api.signed_in(ada), 10**15)):
        answers = {client.get(f"/businesses/{business_id}").text, client.get("/businesses/4711").text}
        assert len(answers) == 1, "what is another's looks as if it were not there"
    assert florist


def test_what_is_named_beside_its_own_business_is_not_there(api, people):
    """A key, an invitation or a member of another business, under one's own business's address."""
    cast = Cast(api, people)
    theirs = cast.place(1)
    mine = people.business("Mine", owner=cast.users["stranger"])
    client = cast.clients["stranger"]
    for method, path, body in (
        ("PATCH", "/members/{user_id}", {"role": "admin"}),
        ("DELETE", "/members/{user_id}", None),
        ("DELETE", "/invitations/{invitation_id}", None),
        ("PATCH", "/api-keys/{key_id}", {"name": "mine"}),
        ("POST", "/api-keys/{key_id}/rotations", None),
        ("DELETE", "/api-keys/{key_id}", None),
    ):
        answer = client.request(method, f"/businesses/{mine}{path.format(**theirs)}", json=body)
        assert answer.status_code == 404, (method, path)
    assert people.one("select name from api_keys where id = %s", theirs["key_id"]) == "a test"


@pytest.mark.parametrize("business_id", [4711, 2**63 - 1, 2**63, 10**30])
def test_a_business_that_is_not_is_not_there_for_staff_either(api, people, business_id):
    cast = Cast(api, people)
    place = cast.place(1) | {"business_id": business_id}
    for (method, path), (_, body) in TABLE.items():
        if "{business_id}" in path:
            for actor in ("administrator", "owner", "service"):
                client = cast.client(actor, place["business_id"] if actor != "service" else 1)
                answer = client.request(method, path.format(**place), json=about(place, body), params=QUERIES.get(path))
                assert answer.status_code == 404, (
                    method,
                    path,
                    actor,
                )
