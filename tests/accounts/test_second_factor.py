"""The second factor: each code once, by whomever, and recovery codes for who has lost the phone."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyotp
import pytest
from freezegun import freeze_time
from pydantic import SecretStr

from accounts import second_factor
from accounts.second_factor import CodeError
from accounts.secret_keys import SecretKeys
from tests.worlds.breaking import breaks

NOON = "2026-11-28 12:00:00"


def take(people, user_id: int, code: str, keys: SecretKeys | None = None) -> None:
    with people.engine.begin() as connection:
        second_factor.take_code(connection, keys or people.keys, user_id, code)


def test_it_counts_when_a_code_was_seen_and_the_code_is_used_up(people, keys):
    ada = people.user("Ada")
    with freeze_time(NOON) as time, people.engine.begin() as connection:
        with pytest.raises(CodeError, match="ask for a secret"):
            second_factor.enrol(connection, keys, ada, "123456")
        secret = second_factor.offer(connection, keys, ada)
        assert secret not in second_factor.address_of(secret, "").replace(secret, "", 1), "once"
        with pytest.raises(CodeError, match="not right"):
            second_factor.enrol(connection, keys, ada, "000000")
        code = pyotp.TOTP(secret).now()
        recovery = second_factor.enrol(connection, keys, ada, code)
        assert len(set(recovery)) == second_factor.unused_recovery_codes(connection, ada) == 10
        with pytest.raises(CodeError, match="used before"):
            second_factor.take_code(connection, keys, ada, code)
        with pytest.raises(CodeError, match="remove it first"):
            second_factor.offer(connection, keys, ada)
        time.tick(30)
        second_factor.take_code(connection, keys, ada, pyotp.TOTP(secret).now())


def test_a_clock_that_is_half_a_minute_off_is_right_and_a_minute_is_not(people):
    ada = people.user("Ada")
    secret, _ = people.enrol(ada)
    totp = pyotp.TOTP(secret)
    with freeze_time("2030-01-01 12:00:10"):
        for wrong in (-60, 60, 90):
            with pytest.raises(CodeError):
                take(people, ada, totp.at(1893499210 + wrong))
        take(people, ada, totp.at(1893499210 - 30))
        take(people, ada, f" {totp.at(1893499210)[:3]} {totp.at(1893499210)[3:]} ")
        take(people, ada, totp.at(1893499210 + 30))
        with pytest.raises(CodeError):
            take(people, ada, totp.at(1893499210))  # older than the one that was used


@breaks(
    "accounts/second_factor.py",
    "where id = %(user_id)s and coalesce(totp_step, 0) < %(step)s",
    "where id = %(user_id)s",
)
def test_a_code_that_eight_use_at_once_is_taken_from_one(people):
    ada = people.user("Ada")
    secret, _ = people.enrol(ada)
    code = pyotp.TOTP(secret).now()

    together = threading.Barrier(8)

    def may(_: int) -> bool:
        with people.engine.begin() as connection:
            connection.exec_driver_sql("select 1")
            together.wait(10)
            try:
                second_factor.take_code(connection, people.keys, ada, code)
            except CodeError:
                return False
            return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(may, range(8))) == 1


def test_a_recovery_code_works_once_however_it_is_written(people):
    ada, bob = people.user("Ada"), people.user("Bob")
    (_, codes), (_, others) = people.enrol(ada), people.enrol(bob)
    take(people, ada, codes[0])
    take(people, ada, codes[1].lower().replace("-", " "))
    for wrong in (codes[0], codes[1], others[0], codes[2][:-1], "", "é", "\0", "1" * 10_000):
        with pytest.raises(CodeError):
            take(people, ada, wrong)
    with people.engine.connect() as connection:
        assert second_factor.unused_recovery_codes(connection, ada) == 8


def test_without_one_no_code_is_right(people):
    ada = people.user("Ada")
    with pytest.raises(CodeError, match="no second factor"):
        take(people, ada, "123456")
    secret, codes = people.enrol(ada)
    with people.engine.begin() as connection:
        assert second_factor.remove(connection, ada)
        assert not second_factor.remove(connection, ada)
    for code in (pyotp.TOTP(secret).now(), codes[0]):
        with pytest.raises(CodeError):
            take(people, ada, code)


def test_it_is_encrypted_and_a_key_that_is_gone_is_told(people):
    ada = people.user("Ada")
    secret, _ = people.enrol(ada)
    assert secret.encode() not in bytes(people.one("select totp_secret from users where id = %s", ada))
    replaced = SecretKeys([SecretStr("n" * 40), SecretStr("k" * 40)])
    take(people, ada, pyotp.TOTP(secret).now(), replaced)
    with pytest.raises(LookupError, match="reset-second-factor"):
        take(people, ada, "123456", SecretKeys([SecretStr("n" * 40)]))
