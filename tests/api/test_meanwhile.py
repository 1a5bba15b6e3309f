"""What somebody else does while a request is under way: it is seen, and never written over."""

import threading
import time
from collections.abc import Callable

import httpx
import pytest

from accounts import api_keys, links, members, users
from accounts.passwords import hash_password
from accounts.rights import Role
from tests.worlds.breaking import breaks
from tests.worlds.cast import Cast
from tests.worlds.people import PASSWORD, People

NEW = "copper lantern meadow 2291 quartz"


class Request:
    """One in a thread of its own, which has come as far as it gets: it waits for somebody."""

    def __init__(self, people: People, ask: Callable[[], httpx.Response], others: int = 0) -> None:
        self._answers: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(ask()))
        self._thread.start()
        until = time.monotonic() + 10
        while people.one("select count(*) from pg_locks where not granted") <= others:
            assert time.monotonic() < until, "it waits for nobody"
            time.sleep(0.005)

    @property
    def status(self) -> int:
        self._thread.join(20)
        (answer,) = self._answers
        return answer.status_code


@breaks("accounts/links.py", "        lock_businesses(connection, [link.business_id])\n", "        pass\n")
def test_the_link_of_who_is_no_owner_any_more_hands_nothing_over(api, people):
    olga, ada, bob = people.user("Olga"), people.user("Ada"), people.user("Bob")
    shop = people.business("Shop", owner=olga)
    client = api.signed_in(olga)
    for email in ("ada@example.com", "bob@example.com"):
        assert client.post(f"/businesses/{shop}/ownership", json={"email": email}).status_code == 202
    to_ada, to_bob = (
        people.secret_of(link_id) for (link_id,) in people.rows("select id from account_links order by 1")
    )
    with people.engine.begin() as connection:
        links.accept_link(connection, to_ada, None)
        late = Request(people, lambda: api.browser().http.post("/links/accept", json={"secret": to_bob}))
    assert late.status == 410
    assert people.one("select owner_id from businesses") == ada
    assert bob


@breaks("api/asking.py", "                hold_user(connection, actor.user_id)\n", "")
def test_who_was_signed_out_by_a_reset_sets_no_password_any_more(api, people):
    ada = people.user("Ada")
    thief, own = api.signed_in(ada), hash_password("a pass phrase of her own 77")
    with people.engine.begin() as connection:
        users.set_password(connection, ada, own)
        late = Request(people, lambda: thief.post("/me/password", json={"password": NEW}))
    assert late.status == 401
    assert people.one("select password_hash from users") == own


@breaks(
    "api/asking.py",
    "                actor = _as_now(request, connection, actor, business_id)\n",
    "                pass\n",
)
@pytest.mark.parametrize("actor", ["admin", "administrator"])
def test_who_is_less_by_now_changes_no_role_any_more(api, people, actor):
    cast = Cast(api, people)
    place = cast.place(1)
    business_id, path = place["business_id"], "/businesses/{business_id}/members/{user_id}".format(**place)
    with people.engine.begin() as connection:
        if actor == "admin":
            members.set_member_role(connection, business_id, cast.users["admin"], Role.MEMBER)
        else:
            users.set_staff_role(connection, people.user("Another", staff=Role.ADMINISTRATOR), "administrator")
            members.set_member_role(connection, business_id, place["user_id"], Role.BILLING)
            users.set_staff_role(connection, cast.users["administrator"], "support")
        late = Request(people, lambda: cast.clients[actor].patch(path, json={"role": "admin"}))
    assert late.status == (403 if actor == "admin" else 401)
    assert people.one("select role from business_members where user_id = %s", place["user_id"]) != "admin"


def test_renaming_a_key_undoes_no_narrowing(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    path = "/businesses/{business_id}/api-keys/{key_id}".format(**place)
    people.run("update api_keys set scopes = '{businesses:read,members:read}'")
    with people.engine.begin() as connection:
        connection.exec_driver_sql("update api_keys set scopes = '{businesses:read}'")
        late = Request(people, lambda: cast.clients["admin"].patch(path, json={"name": "till"}))
    assert late.status == 200
    assert people.one("select scopes from api_keys where id = %s", place["key_id"]) == ["businesses:read"]


@breaks(
    "accounts/api_keys.py", "        lock_businesses(connection, [business_id])\n    secret", "        pass\n    secret"
)
def test_a_key_that_is_made_while_its_maker_becomes_less_ends_too(api, people):
    cast = Cast(api, people)
    business_id, admin = cast.place(1)["business_id"], cast.users["admin"]
    with people.engine.begin() as connection:
        key_id, _ = api_keys.make_key(
            connection,
            business_id=business_id,
            user_id=admin,
            name="till",
            scopes=["businesses:write"],
            expires_at=None,
            livemode=False,
        )
        path = f"/businesses/{business_id}/members/{admin}"
        late = Request(people, lambda: cast.clients["owner"].patch(path, json={"role": "member"}))
    assert late.status == 200
    assert people.one("select shrunk_at from api_keys where id = %s", key_id) is not None


def test_a_member_who_is_removed_meanwhile_is_not_there(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    path = "/businesses/{business_id}/members/{user_id}".format(**place)
    with people.engine.begin() as connection:
        connection.exec_driver_sql("delete from business_members where user_id = %s", (place["user_id"],))
        late = Request(people, lambda: cast.clients["owner"].patch(path, json={"role": "billing"}))
    assert late.status == 404


def test_an_address_that_two_want_is_one_s(api, people):
    ada = people.user("Ada")
    api.signed_in(ada).post("/me/email", json={"email": "new@example.com"})
    secret = api.mail("new@example.com")
    with people.engine.begin() as connection:
        users.add_user(connection, "new@example.com", "Another", hash_password(PASSWORD))
        late = Request(people, lambda: api.browser().http.post("/links/accept", json={"secret": secret}))
    assert late.status == 409


@breaks("accounts/users.py", "    connection.exec_driver_sql(_ONE_AT_A_TIME)\n", "")
def test_the_last_two_administrators_do_not_demote_each_other(api, people):
    both = [people.user(name, staff=Role.ADMINISTRATOR) for name in ("Ann", "Ben")]
    for user_id in both:
        people.enrol(user_id)
    clients = [api.signed_in(user_id, staff=True, second_factor=True) for user_id in both]
    body = {"staff_role": None, "reason": "a test"}
    with people.engine.begin() as connection:
        connection.exec_driver_sql("select from users for update")
        late = [
            Request(people, lambda: clients[0].patch(f"/users/{both[1]}", json=body)),
            Request(people, lambda: clients[1].patch(f"/users/{both[0]}", json=body), others=1),
        ]
    assert sorted(each.status for each in late) == [200, 409]


def test_a_change_of_role_waits_for_nobody_who_only_names_the_business(api, people):
    cast = Cast(api, people)
    place = cast.place(1)
    path = "/businesses/{business_id}/members/{user_id}".format(**place)
    with people.engine.begin() as connection:  # as the check of a foreign key does
        connection.exec_driver_sql("select from businesses where id = %s for key share", (place["business_id"],))
        assert cast.clients["owner"].patch(path, json={"role": "admin"}).status_code == 200
