"""Access tokens: for ten minutes they say which session a request belongs to, and no more.

What its person may do is asked of the database with each request, so that a token that leaked gives little, and
signing out acts at once. JWT by RFC 9068: HS256, ``typ``, ``iss``, ``aud`` and ``kid`` are checked.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import jwt

from accounts.secret_keys import Purpose, SecretKeys
from pipeline.shared.clock import machine_now

LIFETIME: Final = timedelta(minutes=10)
LEEWAY: Final = timedelta(seconds=30)
_ISSUER: Final = "altiora"
_AUDIENCE: Final = "altiora-api"
_TYPE: Final = "at+jwt"


class TokenError(Exception):
    """An access token that is none of ours, or is too old."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """Whose request it is: the ids of a user and of one of its sessions."""

    user_id: int
    session_id: int


def sign_access_token(keys: SecretKeys, token: AccessToken) -> str:
    """The token as it is sent, good for LIFETIME from now (machine clock)."""
    now = machine_now()
    claims = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "sub": str(token.user_id),
        "sid": str(token.session_id),
        "iat": now,
        "exp": now + LIFETIME,
    }
    key = keys.present(Purpose.ACCESS)
    return jwt.encode(claims, key.secret, algorithm="HS256", headers={"typ": _TYPE, "kid": key.id})


def read_access_token(keys: SecretKeys, sent: str) -> AccessToken:
    """Whose it is. Raises TokenError."""
    try:
        header = jwt.get_unverified_header(sent)
        key = keys.by_id(Purpose.ACCESS, header.get("kid"))
        if key is None or header.get("typ") != _TYPE:
            raise TokenError("the access token is none of ours")
        claims = jwt.decode(
            sent,
            key.secret,
            algorithms=["HS256"],
            audience=_AUDIENCE,
            issuer=_ISSUER,
            leeway=LEEWAY,
            options={"require": ["exp", "iat", "sub", "sid", "aud", "iss"]},
        )
        return AccessToken(int(claims["sub"]), int(claims["sid"]))
    except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError) as error:
        raise TokenError("the access token is too old: refresh the session") from error
    except (jwt.InvalidTokenError, ValueError, TypeError) as error:
        raise TokenError("the access token is none of ours") from error
