"""Passwords: which are taken, and that they are stored as OWASP says."""

import statistics
import time

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from accounts import passwords
from accounts.passwords import PasswordError, check_password, hash_password, verify_password

GOOD = "violet harbour kettle 1907"


def test_a_long_one_that_nobody_guesses_is_taken():
    check_password(GOOD, ["Ada Byron", "ada@example.com"])
    check_password("é" * 3 + " 夜明け前 kestrel oven", [])


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("short", "15 to 256"),
        ("x" * 257, "15 to 256"),
        ("passwordpassword", "guessed"),
        ("aaaaaaaaaaaaaaaaaaaa", "guessed"),
        ("ada@example.com", "guessed"),
        ("Corner Bakery 1", "guessed"),
        ("qwertyuiopasdfgh", "guessed"),
    ],
)
def test_what_is_short_long_or_guessed_is_not(password, words):
    with pytest.raises(PasswordError, match=words):
        check_password(password, ["Ada Byron", "ada@example.com", "Corner Bakery"])


def test_a_long_password_is_judged_in_a_moment():
    began = time.perf_counter()
    check_password("".join(chr(33 + i * 7 % 90) for i in range(256)), [])
    assert time.perf_counter() - began < 5


def test_what_is_stored_is_argon2id_with_owasps_parameters_and_salted():
    stored = hash_password(GOOD)
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert stored != hash_password(GOOD)
    assert verify_password(GOOD, stored) == (True, None)
    assert verify_password(GOOD + " ", stored) == (False, None)


def test_nobody_has_no_password_and_takes_as_long():
    assert verify_password(GOOD, None) == (False, None)
    assert verify_password("", None) == (False, None)
    assert passwords.NOBODYS.split("$")[3] == hash_password(GOOD).split("$")[3], "the parameters are today's"
    stored = hash_password(GOOD)

    def seconds(of: str | None) -> float:
        began = time.process_time()
        verify_password("another one of these", of)
        return time.process_time() - began

    known, unknown = ([seconds(each) for _ in range(15)] for each in (stored, None))
    assert 0.5 < statistics.median(known) / statistics.median(unknown) < 2


def test_what_is_longer_than_allowed_is_wrong_even_if_it_begins_right():
    longest = GOOD + "x" * (passwords.LONGEST - len(GOOD))
    assert verify_password(longest, hash_password(longest)) == (True, None)
    assert verify_password(longest + "y", hash_password(longest)) == (False, None)


def test_old_parameters_are_replaced_when_somebody_signs_in():
    old = PasswordHash((Argon2Hasher(memory_cost=8_192, time_cost=1, parallelism=1),)).hash(GOOD)
    right, better = verify_password(GOOD, old)
    assert right
    assert better is not None
    assert better.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert verify_password("wrong", old) == (False, None)
