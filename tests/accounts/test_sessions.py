"""Sessions: the chain of refresh tokens, whatever comes twice, late, at once, or from somebody else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from accounts import sessions
from accounts.access_tokens import AccessToken
from accounts.actors import person_of
from accounts.rights import Role
from accounts.secret_keys import SecretKeys
from accounts.sessions import SessionEnd, SessionError, end_sessions, living_sessions, refresh_session
from tests.worlds.breaking import breaks


def test_each_refresh_gives_the_next_token_of_the_same_session(people, keys):
    begun = people.session(people.user("Ada"))
    first = refresh_session(people.engine, keys, begun.token)
    second = refresh_session(people.engine, keys, first.token)
    assert len({begun.token, first.token, second.token}) == 3
    assert {first.session_id, second.session_id} == {begun.session_id}
    assert second.user_id == begun.user_id


@breaks(
    "accounts/sessions.py",
    "[_successor(key.secret, token) for key in keys.all_of(Purpose.REFRESH)]",
    "[new_token() for key in keys.all_of(Purpose.REFRESH)]",
)
def test_eight_refreshes_at_once_give_one_successor(people, keys):
    for _ in range(5):
        begun = people.session(people.user(f"Ada{_}"))

        def refresh(_: int, token: str = begun.token) -> str:
            try:
                return refresh_session(people.engine, keys, token).token
            except SessionError:
                return "signed out"

        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(refresh, range(8)))
        assert len(found) == 1
        numbers = "select number, used_at is not null from refresh_tokens where session_id = %s order by number"
        assert people.rows(numbers, begun.session_id) == [(1, True), (2, False)]
        assert refresh_session(people.engine, keys, found.pop())


def test_an_answer_that_was_lost_is_given_again_after_a_minute_and_a_day(people, keys):
    begun = people.session(people.user("Ada"))
    lost = refresh_session(people.engine, keys, begun.token)
    for seconds in (60, 86_400):
        people.pass_time(seconds)
        assert refresh_session(people.engine, keys, begun.token) == lost


def test_the_one_before_works_for_ten_seconds_after_its_successor_was_used(people, keys):
    begun = people.session(people.user("Ada"))
    successor = refresh_session(people.engine, keys, begun.token)
    refresh_session(people.engine, keys, successor.token)
    people.pass_time(8)
    assert refresh_session(people.engine, keys, begun.token) == successor, "two tabs"
    people.pass_time(3)
    with pytest.raises(SessionError):
        refresh_session(people.engine, keys, begun.token)


@breaks(
    "accounts/sessions.py",
    "        end_sessions(connection, shown.user_id, SessionEnd.REUSE, session_id=shown.id)\n",
    "        pass\n",
)
def test_reuse_ends_the_session_for_both_and_no_other(people, keys):
    ada = people.user("Ada")
    begun, elsewhere = people.session(ada), people.session(ada)
    newest = begun
    for _ in range(3):
        newest = refresh_session(people.engine, keys, newest.token)
    people.pass_time(11)
    with pytest.raises(SessionError, match="sign in again"):
        refresh_session(people.engine, keys, begun.token)
    assert people.one("select ended_by from sessions where id = %s", begun.session_id) == SessionEnd.REUSE
    assert people.rows("select kind, user_id from mails") == [("session-copied", ada)], "she is told, once"
    with pytest.raises(SessionError):
        refresh_session(people.engine, keys, newest.token)
    assert refresh_session(people.engine, keys, elsewhere.token)


def test_what_was_never_a_token_ends_nothing(people, keys):
    begun = people.session(people.user("Ada"))
    for sent in ("", "x", "\0", "a" * 100_000, begun.token + "x", begun.token[:-1]):
        with pytest.raises(SessionError):
            refresh_session(people.engine, keys, sent)
    assert refresh_session(people.engine, keys, begun.token)


@pytest.mark.parametrize(("staff", "idle", "longest"), [(False, 14 * 86_400, 30 * 86_400), (True, 3_600, 12 * 3_600)])
def test_it_ends_when_it_is_not_used_and_at_the_latest(people, keys, staff, idle, longest):
    user_id = people.user("Ada")
    begun = people.session(user_id, staff=staff)
    people.pass_time(idle - 5)
    newest = refresh_session(people.engine, keys, begun.token)
    people.pass_time(idle + 5)
    with pytest.raises(SessionError):
        refresh_session(people.engine, keys, newest.token)
    newest = people.session(user_id, staff=staff)
    for _ in range(longest // (idle - 60)):
        people.pass_time(idle - 60)
        newest = refresh_session(people.engine, keys, newest.token)
    people.pass_time(longest % (idle - 60) + 60)
    with pytest.raises(SessionError):
        refresh_session(people.engine, keys, newest.token)


def test_a_secret_key_that_is_replaced_ends_no_session(people, keys):
    begun = people.session(people.user("Ada"))
    lost = refresh_session(people.engine, keys, begun.token)
    replaced = SecretKeys([SecretStr("n" * 40), SecretStr("k" * 40)])
    assert refresh_session(people.engine, replaced, begun.token) == lost, "the same answer, made with the key before"
    newest = refresh_session(people.engine, replaced, lost.token)
    gone = SecretKeys([SecretStr("n" * 40)])
    assert refresh_session(people.engine, gone, newest.token)


def test_signing_out_ends_one_all_or_all_others(people, keys):
    ada, bob = people.user("Ada"), people.user("Bob")
    one, two, three = (people.session(ada) for _ in range(3))
    other = people.session(bob)
    with people.engine.begin() as connection:
        assert end_sessions(connection, ada, SessionEnd.SIGN_OUT, session_id=one.session_id) == [one.session_id]
        assert end_sessions(connection, bob, SessionEnd.SIGN_OUT, session_id=two.session_id) == [], (
            "not somebody else's"
        )
        assert end_sessions(connection, ada, SessionEnd.PASSWORD, but=three.session_id) == [two.session_id]
        assert [each.id for each in living_sessions(connection, ada)] == [three.session_id]
    for ended in (one, two):
        with pytest.raises(SessionError):
            refresh_session(people.engine, keys, ended.token)
    assert refresh_session(people.engine, keys, three.token)
    assert refresh_session(people.engine, keys, other.token)


def test_a_request_knows_person_and_roles_as_they_are_now(people):
    ada, bob = people.user("Ada"), people.user("Bob")
    first, second = people.business("Bakery", owner=ada), people.business("Florist", owner=bob, member=ada)
    begun = people.session(ada)

    def person():
        with people.engine.connect() as connection:
            return person_of(connection, AccessToken(ada, begun.session_id))

    assert person().roles == {first: Role.OWNER, second: Role.MEMBER}
    people.run("update business_members set role = 'admin' where user_id = %s", ada)
    assert person().roles == {first: Role.OWNER, second: Role.ADMIN}
    with people.engine.connect() as connection:
        assert person_of(connection, AccessToken(bob, begun.session_id)) is None, "a session is one person's"
    for ends in (
        "update users set deactivated_at = now() where id = %s",
        "update sessions set used_at = now() - interval '15 days' where user_id = %s",
        "update sessions set ends_at = now() where user_id = %s",
        "update sessions set ended_at = now() where user_id = %s",
    ):
        with people.engine.connect() as connection:
            connection.exec_driver_sql(ends, (ada,))
            assert person_of(connection, AccessToken(ada, begun.session_id)) is None
            connection.rollback()
    assert person() is not None


def test_a_browser_is_known_to_who_signed_in_from_it_and_to_nobody_else(people):
    ada, bob = people.user("Ada"), people.user("Bob")
    mark = sessions.new_token()
    with people.engine.begin() as connection:
        sessions.know_device(connection, ada, mark)
        assert sessions.knows_device(connection, ada, mark)
        for user_id, token in ((bob, mark), (ada, None), (ada, ""), (None, mark), (ada, mark[:-1])):
            assert not sessions.knows_device(connection, user_id, token)
