"""Limits: so many at once, so many in a while, and whose they are."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from accounts.attempt_limits import Limit, LimitedError, network, take
from accounts.retention import prune_accounts

THREE = Limit("three", 3, timedelta(seconds=30))


def attempt(people, whose: str = "ada", limit: Limit = THREE) -> bool:
    with people.engine.begin() as connection:
        try:
            take(connection, people.keys, limit, whose)
        except LimitedError as error:
            wait = error.seconds
        else:
            return True
    assert 1 <= wait <= limit.every.total_seconds() / limit.count + 1
    return False


def test_so_many_at_once_and_then_one_for_each_part_of_the_time(people):
    assert [attempt(people) for _ in range(5)] == [True, True, True, False, False]
    people.pass_time(10)
    assert [attempt(people) for _ in range(2)] == [True, False], "what was refused cost nothing"
    people.pass_time(25)
    assert [attempt(people) for _ in range(3)] == [True, True, False]
    people.pass_time(10_000)
    assert [attempt(people) for _ in range(4)] == [True, True, True, False], "no more than all of them"


def test_everybody_has_their_own(people):
    assert [attempt(people) for _ in range(4)] == [True, True, True, False]
    assert attempt(people, "bob")
    assert attempt(people, "ada", Limit("another", 3, timedelta(seconds=30)))


def test_of_twenty_at_once_three_pass(people):
    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(lambda _: attempt(people), range(20))) == 3


def test_the_table_tells_nobodys_address_and_forgets(people):
    attempt(people, "ada@example.com")
    assert people.one("select count(*) from attempt_limits where encode(bucket, 'escape') like '%%ada%%'") == 0
    assert prune_accounts(people.engine) == 0
    people.pass_time(31)
    assert prune_accounts(people.engine) == 1


@pytest.mark.parametrize(
    ("address", "whose"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("", "unknown"),
        ("testclient", "unknown"),
    ],
)
def test_of_ipv6_a_whole_network_is_one(address, whose):
    assert network(address) == whose
