"""Access tokens: only ours, only of their kind, only for ten minutes."""

import base64
import hmac
import json

import pytest
from freezegun import freeze_time
from pydantic import SecretStr

from accounts.access_tokens import AccessToken, TokenError, read_access_token, sign_access_token
from accounts.secret_keys import Purpose, SecretKeys
from pipeline.shared.clock import machine_now

KEYS = SecretKeys([SecretStr("n" * 40), SecretStr("o" * 40)])
ME = AccessToken(7, 12)


def part(content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def forged(keys: SecretKeys = KEYS, purpose: Purpose = Purpose.ACCESS, algorithm: str = "HS256", **changes) -> str:
    """A token that is right but for what is changed: claims, and headers that begin with ``header_``.

    By hand, since the library refuses to make most of them.
    """
    now = int(machine_now().timestamp())
    claims: dict[str, object] = {"iss": "altiora", "aud": "altiora-api", "sub": "7", "sid": "12"}
    claims |= {"iat": now, "exp": now + 60}
    headers: dict[str, object] = {"alg": algorithm, "typ": "at+jwt", "kid": KEYS.present(Purpose.ACCESS).id}
    for name, value in changes.items():
        into, field = (headers, name.removeprefix("header_")) if name.startswith("header_") else (claims, name)
        into.pop(field)
        if value is not None:
            into[field] = value
    signed = f"{part(headers)}.{part(claims)}"
    if algorithm == "none":
        return f"{signed}."
    signature = hmac.digest(keys.present(purpose).secret, signed.encode(), algorithm.replace("HS", "sha"))
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def test_what_was_signed_is_read():
    assert read_access_token(KEYS, sign_access_token(KEYS, ME)) == ME
    assert read_access_token(KEYS, forged()) == ME, "or the forgeries prove nothing"


def test_a_key_that_is_being_replaced_still_reads_and_one_that_is_gone_does_not():
    before = sign_access_token(SecretKeys([SecretStr("o" * 40)]), ME)
    assert read_access_token(KEYS, before) == ME
    with pytest.raises(TokenError):
        read_access_token(SecretKeys([SecretStr("n" * 40)]), before)


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "none"},
        {"algorithm": "HS512"},
        {"purpose": Purpose.REFRESH},
        {"keys": SecretKeys([SecretStr("x" * 40)])},
        {"header_kid": None},
        {"header_kid": "another"},
        {"header_kid": 7},
        {"header_typ": "JWT"},
        {"header_typ": None},
        {"iss": "somebody"},
        {"iss": None},
        {"aud": "altiora-mail"},
        {"aud": None},
        {"sub": None},
        {"sub": "me"},
        {"sid": None},
        {"sid": "1e3"},
        {"sid": ["1"]},
        {"exp": None},
        {"exp": "soon"},
        {"iat": None},
    ],
)
def test_forgeries_are_none_of_ours(changes):
    with pytest.raises(TokenError, match="none of ours"):
        read_access_token(KEYS, forged(**changes))


@pytest.mark.parametrize("sent", ["", ".", "..", "a.b.c", "\0", "é", "Bearer x", "x" * 100_000, "🙂.🙂.🙂"])
def test_rubbish_is_none_of_ours(sent):
    with pytest.raises(TokenError, match="none of ours"):
        read_access_token(KEYS, sent)


def test_a_changed_claim_breaks_the_signature():
    head, body, signature = sign_access_token(KEYS, ME).split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["sub"] = "1"
    with pytest.raises(TokenError):
        read_access_token(KEYS, f"{head}.{part(claims)}.{signature}")


def test_after_ten_minutes_and_a_little_it_is_too_old():
    with freeze_time("2026-11-28 12:00:00") as time:
        token = sign_access_token(KEYS, ME)
        time.tick(629)
        assert read_access_token(KEYS, token) == ME
        time.tick(2)
        with pytest.raises(TokenError, match="too old"):
            read_access_token(KEYS, token)
