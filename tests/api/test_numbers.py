"""Numbers by HTTP: what can be had, what never can, and that nobody loses one, or a past call, by any request."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from pipeline.businesses import free_numbers, registration
from pipeline.shared.clock import machine_now
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast

FREE = "+14155550100"


def list_number(people, number: str, sid: str = "PN1", **about) -> None:
    people.run(
        "insert into phone_numbers (number, twilio_sid, free_from) values (%s, %s, %s)",
        number,
        sid,
        about.get("free_from"),
    )


def _pass_a_month(people) -> None:
    month = "interval '30 days 1 second'"
    people.run(f"update phone_numbers set free_from = free_from - {month}")
    people.run(
        "update phone_number_assignments set held ="
        f" tstzrange(lower(held) - {month}, upper(held) - {month}) where upper(held) is not null"
    )


@pytest.fixture
def bakery(api, people):
    """A business on Free, which may have one number, with its owner's client."""
    ada = people.user("Ada")
    business_id = people.business("Bakery", owner=ada)
    client = api.signed_in(ada)
    client.headers["If-Match"] = "*"
    return business_id, client


def test_a_number_is_seen_taken_described_and_let_go(api, people, bakery):
    business_id, client = bakery
    here = f"/businesses/{business_id}"
    list_number(people, FREE)
    assert [each["number"] for each in client.get(f"{here}/available-numbers").json()["data"]] == [FREE]
    assert client.get(f"{here}/available-numbers", params={"q": "999"}).json()["data"] == []
    taken = client.post(f"{here}/numbers", json={"number": FREE, "label": "Shop"})
    assert taken.status_code == 201
    assert taken.headers["location"] == f"/v1{here}/numbers/{FREE}"
    assert client.get(f"{here}/numbers/{FREE}").json() == taken.json()
    assert client.get(f"{here}/available-numbers").json()["data"] == []
    assert client.delete(f"{here}/numbers/{FREE}").status_code == 204
    assert client.get(f"{here}/numbers/{FREE}").status_code == 404
    # It rests: nobody's calls reach whoever comes next.
    assert client.get(f"{here}/available-numbers").json()["data"] == []
    assert client.post(f"{here}/numbers", json={"number": FREE}).status_code == 409
    _pass_a_month(people)
    assert client.post(f"{here}/numbers", json={"number": FREE}).status_code == 201
    what = [row[0] for row in people.rows("select what from audit_entries order by id")]
    assert what == ["number take", "number release", "number take"]


@breaks(
    "pipeline/businesses/registration.py",
    '        raise BusinessError(f"the plan {plan} has room for no other number: release one, or take a larger plan")',
    "        pass",
)
def test_of_two_requests_at_the_plans_limit_one_wins(people, bakery):
    business_id, client = bakery
    for place in range(6):
        list_number(people, f"+1415555010{place}", f"PN{place}")
    with ThreadPoolExecutor(6) as pool:
        answers = list(
            pool.map(
                lambda place: (
                    client.post(
                        f"/businesses/{business_id}/numbers", json={"number": f"+1415555010{place}"}
                    ).status_code
                ),
                range(6),
            )
        )
    assert sorted(answers) == [201, *[409] * 5]
    assert people.one("select count(*) from phone_numbers where business_id = %s", business_id) == 1
    agents = f"/businesses/{business_id}/agents"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda place: client.post(agents, json={"name": f"A{place}"}).status_code, range(6)))
    assert sorted(answers) == [201, *[409] * 5]
    assert people.one("select count(*) from ai_agents where business_id = %s", business_id) == 1


@breaks("pipeline/businesses/free_numbers.py", 'for update"', '"')
def test_of_two_businesses_that_want_one_number_one_gets_it(api, people):
    for round_ in range(4):
        number = f"+1415555020{round_}"
        list_number(people, number, f"PN{round_}")
        owners = [people.user(f"Owner{round_}{place}") for place in range(4)]
        places = [(people.business(f"B{round_}{owner}", owner=owner), api.signed_in(owner)) for owner in owners]
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(
                    lambda place, number=number: place[1].post(
                        f"/businesses/{place[0]}/numbers", json={"number": number}
                    ),
                    places,
                )
            )
        assert sorted(each.status_code for each in answers) == [201, 409, 409, 409], [each.text for each in answers]
        assert people.one("select count(*) from phone_number_assignments where number = %s", number) == 1


# What can't be taken: every state of a number, and everybody who may ask


def _held(people, owner: int, number: str) -> None:
    with people.engine.begin() as connection:
        registration.add_number(connection, owner, number, None, machine_now())


def _let_go(people, owner: int, number: str, days: int) -> None:
    now = machine_now()
    with people.engine.begin() as connection:
        registration.add_number(connection, owner, number, now - timedelta(days=90), now)
        registration.remove_number(connection, owner, number, now - timedelta(days=days))


STATES = {
    "held": _held,
    "let go yesterday": lambda people, owner, number: _let_go(people, owner, number, 1),
    "rested": lambda people, owner, number: _let_go(people, owner, number, 31),
    "never held": lambda people, owner, number: None,
}
#: Who may take one that is free; and who may move one that nobody holds, whatever it rested.
TAKERS = {"owner", "admin", "key", "operator", "administrator"}
MOVERS = {"operator", "administrator"}


@pytest.mark.parametrize("listed", [True, False], ids=["of our account", "not of our account"])
@pytest.mark.parametrize("state", STATES)
def test_nobody_gets_a_number_that_is_not_to_be_had_nor_its_past_calls(api, people, state, listed):
    cast = Cast(api, people)
    actors = [*cast.clients, "key", "foreign", "service", "unscoped"]
    for place_number, actor in enumerate(actors):
        number = f"+1888555{place_number:04}"
        STATES[state](people, cast.place(100 + place_number)["business_id"], number)
        people.run("insert into phone_numbers (number) values (%s) on conflict do nothing", number)
        if listed:
            people.run("update phone_numbers set twilio_sid = %s where number = %s", f"PN{number}", number)
        former = people.rows("select business_id, held from phone_number_assignments where number = %s", number)
        sid = f"CA{place_number:030d}ff"
        if former:
            people.run(
                "insert into calls (sid, business_id, number, status, rank, started_at)"
                " values (%s, %s, %s, 'completed', 1, now() - interval '60 days')",
                sid,
                former[0][0],
                number,
            )
        place = cast.place(place_number)
        mine = place["business_id"]
        client = cast.client(actor, mine)
        here = f"/businesses/{mine}"
        wanted = {"business_id": mine, "reason": "a test"}
        wrong = [
            client.patch(f"{here}/numbers/{number}", json={"label": "mine"}),
            client.delete(f"{here}/numbers/{number}"),
            client.get(f"{here}/numbers/{number}"),
            client.post(f"/numbers/{number}/moves", json=wanted | {"confirm": mine}),
            client.post(f"/numbers/{number}/moves", json=wanted | {"confirm": cast.elsewhere}),
            client.get(f"{here}/calls/{sid}"),
        ]
        assert all(each.status_code in {401, 403, 404, 409} for each in wrong), (actor, [each.text for each in wrong])
        taken = client.post(f"{here}/numbers", json={"number": number})
        free = listed and state in {"rested", "never held"}
        assert (taken.status_code == 201) == (free and actor in TAKERS), (actor, taken.text)
        if taken.status_code != 201:
            moved = client.post(f"/numbers/{number}/moves", json=wanted | {"confirm": None})
            assert (moved.status_code == 200) == (actor in MOVERS and state != "held"), (actor, moved.text)
            if state == "held":
                assert people.one("select business_id from phone_numbers where number = %s", number) == former[0][0]
        # Whoever got it has it from now on: what was called before is whose it was.
        for business_id, held in former:
            kept = people.one(
                "select count(*) from phone_number_assignments where number = %s and business_id = %s and held = %s",
                number,
                business_id,
                held,
            )
            assert kept == 1
            assert people.one("select business_id from calls where sid = %s", sid) == business_id
        assert client.get(f"{here}/calls/{sid}").status_code in {401, 403, 404}


def test_staff_moves_a_number_only_from_whom_it_names_and_never_its_own(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    number, moves = place["number"], f"/numbers/{place['number']}/moves"
    operator = cast.clients["operator"]
    wanted = {"business_id": cast.elsewhere, "reason": "ported"}
    refused = operator.post(moves, json=wanted | {"confirm": None})
    assert refused.status_code == 409
    assert "name that business" in refused.json()["detail"]
    assert operator.post(moves, json=wanted).status_code == 422, "who holds it is always said"
    people.run(
        "insert into business_members (business_id, user_id, role) values (%s, %s, 'member')",
        cast.elsewhere,
        cast.users["operator"],
    )
    assert operator.post(moves, json=wanted | {"confirm": place["business_id"]}).status_code == 403
    moved = cast.clients["administrator"].post(moves, json=wanted | {"confirm": place["business_id"]})
    assert moved.status_code == 200, moved.text
    assert moved.json()["former_business_id"] == place["business_id"]
    known = cast.clients["support"].get(f"/numbers/{number}").json()
    assert [each["business_id"] for each in known["holdings"]] == [cast.elsewhere, place["business_id"]]
    # Each of the two is told of its own side, and Altiora of all of it.
    seen = people.rows("select business_id, reason, detail from audit_entries where what = 'number move' order by id")
    both = {"from": place["business_id"], "to": cast.elsewhere}
    assert seen == [
        (None, "ported", both),
        (place["business_id"], None, {"number": number}),
        (cast.elsewhere, None, {"number": number}),
    ]


# Which numbers our account has


def note(people, *numbers: tuple[str, str]) -> dict[str, int]:
    listed = [{"phone_number": number, "sid": sid} for number, sid in numbers]
    return free_numbers.note_account(people.engine, listed)


def test_the_list_is_what_the_account_has(people, bakery):
    business_id, client = bakery
    first, second = ("+14155550100", "PN1"), ("+14155550101", "PN2")
    assert note(people, first, second, second, ("40404", "SC1")) == {"new": 2, "gone": 0}
    assert note(people, first, second) == {"new": 0, "gone": 0}
    client.post(f"/businesses/{business_id}/numbers", json={"number": first[0]})
    # Both are bought anew, by each other's name.
    assert note(people, (first[0], "PN2"), (second[0], "PN1")) == {"new": 2, "gone": 2}
    assert people.one("select business_id from phone_numbers where number = %s", first[0]) == business_id
    note(people)
    assert client.get(f"/businesses/{business_id}/available-numbers").json()["data"] == []
    assert [each["number"] for each in client.get(f"/businesses/{business_id}/numbers").json()["data"]] == [first[0]]


# Two at once, and too many


@breaks("pipeline/businesses/registration.py", " where number = %s for update", " where number = %s")
def test_a_move_that_waits_while_the_number_is_taken_is_refused(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    number, answers = place["free_number"], []
    wanted = {"business_id": cast.elsewhere, "confirm": None, "reason": "a test"}

    def move() -> None:
        answers.append(cast.clients["operator"].post(f"/numbers/{number}/moves", json=wanted))

    moving = threading.Thread(target=move)
    with people.engine.connect() as held:
        held.exec_driver_sql("select from businesses where id = %s for no key update", (cast.elsewhere,))
        moving.start()
        time.sleep(0.4)  # it has looked at the number, and waits for its business
        with people.engine.begin() as connection:
            registration.take_number(connection, place["business_id"], number, machine_now())
            held.rollback()
            time.sleep(0.4)  # it has that, too, and what was taken is not committed
    moving.join()
    assert [each.status_code for each in answers] == [409]
    assert people.one("select business_id from phone_numbers where number = %s", number) == place["business_id"]


@breaks("pipeline/businesses/free_numbers.py", "        connection.exec_driver_sql(_HOLD_CHANGED, about)\n", "")
def test_a_business_that_lets_its_numbers_go_and_the_listing_wait_for_each_other_in_one_order(api, people):
    cast = Cast(api, people)
    business_id = cast.place(1)["business_id"]
    numbers = [f"+141555504{place:02}" for place in range(3)]
    with people.engine.begin() as connection:
        for number in numbers:
            registration.add_number(connection, business_id, number, None, machine_now())
    listed = [(number, f"PN{place}") for place, number in enumerate(numbers)][::-1]
    with ThreadPoolExecutor(1) as pool:
        with people.engine.begin() as connection:
            registration.remove_number(connection, business_id, numbers[0], machine_now())
            noting = pool.submit(note, people, *listed)
            time.sleep(0.4)  # it waits for the first one, and holds no other
            for number in numbers[1:]:
                registration.remove_number(connection, business_id, number, machine_now())
        assert noting.exception() is None
        assert noting.result()["new"] == 3


@breaks("pipeline/businesses/registration.py", "    if resting >= max(", "    if False and resting >= max(")
def test_who_takes_and_lets_go_all_day_keeps_some_numbers_from_others_and_not_all(api, people, bakery):
    business_id, client = bakery
    for place in range(6):
        list_number(people, f"+141555503{place:02}", f"PN{place}")
    answers = []
    for place in range(6):
        number = f"+141555503{place:02}"
        answers.append(client.post(f"/businesses/{business_id}/numbers", json={"number": number}).status_code)
        client.delete(f"/businesses/{business_id}/numbers/{number}")
    assert answers == [201, 201, 201, 409, 409, 409]
    _pass_a_month(people)
    assert client.post(f"/businesses/{business_id}/numbers", json={"number": "+14155550300"}).status_code == 201


@breaks("pipeline/businesses/registration.py", "if from_business_id not in {None, business_id}:", "if False:")
def test_a_number_is_held_for_longer_only_by_its_holder(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    wanted = {"business_id": place["business_id"], "reason": "a test", "from": "2026-01-01T00:00:00Z"}
    moves = f"/numbers/{place['number']}/moves"
    for confirm in (cast.elsewhere, 999_999):
        answer = cast.clients["operator"].post(moves, json=wanted | {"confirm": confirm})
        assert answer.status_code == 409, answer.text
    assert people.rows("select what from audit_entries where what = 'number move'") == []
    assert cast.clients["operator"].post(moves, json=wanted | {"confirm": place["business_id"]}).status_code == 200
