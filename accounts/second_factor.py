"""The second factor: codes of an app (TOTP, RFC 6238), each taken once, and recovery codes for who has lost it."""

import base64
import hmac
import secrets

import pyotp
from sqlalchemy import Connection

from accounts.secret_keys import SecretKeys, sha256
from accounts.sessions import SessionEnd, end_sessions
from pipeline.shared.clock import machine_now

ISSUER = "Altiora"
#: Seconds of one code; those before and after it are taken too, for clocks that are not quite right.
STEP = 30
_NEIGHBOURS = (-1, 0, 1)
RECOVERY_CODES = 10
#: 80 bits each.
_RECOVERY_BYTES = 10

_OFFER = "update users set totp_offered = %(secret)s where id = %(user_id)s and totp_secret is null"
_SECRETS = "select totp_secret, totp_offered, coalesce(totp_step, 0) from users where id = %s"
_ENROL = """
update users set totp_secret = totp_offered, totp_offered = null, totp_step = %(step)s
where id = %(user_id)s and totp_offered = %(offered)s and totp_secret is null
"""
# Two with the same code at once: one of them finds the step taken.
_USE_STEP = "update users set totp_step = %(step)s where id = %(user_id)s and coalesce(totp_step, 0) < %(step)s"
_ADD_RECOVERY_CODES = """
insert into recovery_codes (user_id, code_sha256) select %(user_id)s, unnest(%(codes)s::bytea[])
"""
_USE_RECOVERY_CODE = """
update recovery_codes set used_at = now() where user_id = %(user_id)s and code_sha256 = %(code)s and used_at is null
"""
_REMOVE = (
    """
    update users set totp_secret = null, totp_offered = null, secured_at = clock_timestamp()
    where id = %(user_id)s and totp_secret is not null
    """,
    "delete from recovery_codes where user_id = %(user_id)s",
)


class CodeError(Exception):
    """A code that is wrong, or was used before, or there is nothing that it could be for."""


def offer(connection: Connection, keys: SecretKeys, user_id: int) -> str:
    """A new secret (base32) for somebody without a second factor; it counts when ``enrol`` has seen a code of it.

    Raises CodeError where there is one.
    """
    secret = pyotp.random_base32()
    if not connection.exec_driver_sql(_OFFER, {"user_id": user_id, "secret": keys.encrypt(secret)}).rowcount:
        raise CodeError("there is a second factor already: remove it first")
    return secret


def address_of(secret: str, email: str) -> str:
    """What a QR code of it says: otpauth://totp/…"""
    return pyotp.TOTP(secret).provisioning_uri(name=email, issuer_name=ISSUER)


def enrol(connection: Connection, keys: SecretKeys, user_id: int, code: str) -> list[str]:
    """Begin to use the secret that was offered; returns the recovery codes, which are shown this once.

    Raises CodeError.
    """
    _, offered, _ = connection.exec_driver_sql(_SECRETS, (user_id,)).one()
    if offered is None:
        raise CodeError("no second factor is being set up: ask for a secret first")
    step = _step_of(keys.decrypt(offered), code, after=0)
    enrolled = step is not None and connection.exec_driver_sql(
        _ENROL, {"user_id": user_id, "offered": offered, "step": step}
    )
    if not enrolled or not enrolled.rowcount:
        raise CodeError("the code is not right: is the time of the phone?")
    return _new_recovery_codes(connection, user_id)


def take_code(connection: Connection, keys: SecretKeys, user_id: int, code: str) -> None:
    """Use up a code, or a recovery code. Raises CodeError."""
    secret, _, last = connection.exec_driver_sql(_SECRETS, (user_id,)).one()
    if secret is None:
        raise CodeError("there is no second factor")
    plain = code.replace(" ", "").replace("-", "").upper()
    if len(plain) == 6 and plain.isascii() and plain.isdigit():
        step = _step_of(keys.decrypt(secret), plain, after=last)
        if step is not None and connection.exec_driver_sql(_USE_STEP, {"user_id": user_id, "step": step}).rowcount:
            return
        raise CodeError("the code is not right, or was used before: wait for the next one")
    used = connection.exec_driver_sql(_USE_RECOVERY_CODE, {"user_id": user_id, "code": sha256(plain)})
    if not used.rowcount:
        raise CodeError("the recovery code is not right, or was used before")


def remove(connection: Connection, user_id: int, *, but: int | None = None) -> bool:
    """Do without a second factor: all sessions end, ``but`` one, that had it. False where there was none."""
    first, second = (connection.exec_driver_sql(each, {"user_id": user_id}) for each in _REMOVE)
    removed = bool(first.rowcount or second.rowcount)
    if removed:
        end_sessions(connection, user_id, SessionEnd.SECOND_FACTOR, but=but)
    return removed


def _step_of(secret: str, code: str, *, after: int) -> int | None:
    """The half minute whose code it is, of those that are good now and come after ``after``."""
    now = int(machine_now().timestamp()) // STEP
    totp = pyotp.TOTP(secret)
    found = None
    for step in (now + each for each in _NEIGHBOURS):
        if hmac.compare_digest(totp.generate_otp(step).encode(), code.encode()) and step > after:
            found = step
    return found


def _new_recovery_codes(connection: Connection, user_id: int) -> list[str]:
    codes = [base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode() for _ in range(RECOVERY_CODES)]
    about: dict[str, object] = {"user_id": user_id, "codes": [sha256(code) for code in codes]}
    connection.exec_driver_sql("delete from recovery_codes where user_id = %(user_id)s", about)
    connection.exec_driver_sql(_ADD_RECOVERY_CODES, about)
    return ["-".join(code[at : at + 4] for at in range(0, len(code), 4)) for code in codes]


def unused_recovery_codes(connection: Connection, user_id: int) -> int:
    """How many are left."""
    counted = "select count(*) from recovery_codes where user_id = %s and used_at is null"
    return int(connection.exec_driver_sql(counted, (user_id,)).scalar_one())
