"""``Idempotency-Key`` on POST: who sends a request again within a day gets the same answer, and it happens once.

The answer is kept in the transaction of what it tells of, so that neither is there without the other. A key belongs to
who asks and to the address, with the business in it; rights are checked before it is looked at. What failed is kept
nowhere, and may be tried again; nor is an answer that holds a secret.
"""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from fastapi import Request
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from sqlalchemy import Connection
from starlette.responses import Response

from accounts.secret_keys import Purpose, SecretKeys
from api.answers import Json
from api.problems import Problem

LASTS: Final = timedelta(days=1)
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")

# Who has it works on the same request at this moment.
_TAKE = "select pg_try_advisory_xact_lock(hashtextextended(%(actor)s || ' ' || %(path)s || ' ' || %(key)s, 0))"
_KEPT = """
select body_sha256, status, answer, location from idempotency_keys
where actor = %(actor)s and path = %(path)s and key = %(key)s and created_at > now() - %(lasts)s::interval
"""
_KEEP = """
insert into idempotency_keys (actor, path, key, body_sha256, status, answer, location)
values (%(actor)s, %(path)s, %(key)s, %(body)s, %(status)s, %(answer)s, %(location)s)
on conflict (actor, path, key) do update
set body_sha256 = excluded.body_sha256, status = excluded.status, answer = excluded.answer,
    location = excluded.location, created_at = now()
"""


class ReplayError(Exception):
    """The request was answered before; ``response`` is that answer."""

    def __init__(self, response: Response) -> None:
        super().__init__("answered before")
        self.response = response


@dataclass(frozen=True, slots=True)
class Keeper:
    """Keeps the answer of one request under its key."""

    about: dict[str, Any]

    def keep(self, connection: Connection, response: Response) -> None:
        """In the transaction of what it tells of."""
        secret = isinstance(response, Json) and response.holds_secret
        answer = {
            "status": response.status_code,
            "answer": None if secret else bytes(response.body),
            "location": response.headers.get("location"),
        }
        connection.exec_driver_sql(_KEEP, self.about | answer)


def keeper_of(request: Request, connection: Connection, actor: str) -> Keeper | None:
    """Who keeps this request's answer, if it is one to be kept. Raises ReplayError and Problem."""
    key = request.headers.get("idempotency-key")
    if key is None or request.method != "POST":
        return None
    if not _KEY.fullmatch(key):
        raise Problem(
            422, "invalid", "see invalid_parameters", invalid=[("Idempotency-Key", "1 to 255 visible ASCII characters")]
        )
    # Read by now where the route takes one; the others ignore it.
    keys: SecretKeys = request.app.state.keys
    body = keys.digest(Purpose.REQUESTS, getattr(request, "_body", b""))  # keyed: there may be a password in it
    about: dict[str, Any] = {"actor": actor, "path": request.url.path, "key": key, "body": body, "lasts": LASTS}
    if not connection.exec_driver_sql(_TAKE, about).scalar_one():
        raise Problem(409, "conflict", "the same request is being worked on: wait for its answer")
    kept = connection.exec_driver_sql(_KEPT, about).one_or_none()
    if kept is None:
        return Keeper(about)
    if bytes(kept.body_sha256) != body:
        raise Problem(422, "key-used", "this Idempotency-Key was used for another body: take a new one")
    if kept.answer is None:
        raise Problem(409, "conflict", "it was done before, and its answer held a secret, which is shown once")
    headers = {"Idempotent-Replayed": "true"} | ({"Location": kept.location} if kept.location else {})
    media_type = "application/json" if kept.answer else None
    raise ReplayError(Response(bytes(kept.answer), kept.status, headers, media_type))


class Route(APIRoute):
    """A route that commits its request's transaction, with the answer where that is kept, before it answers."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _keeping(endpoint), **options)
        self.known = frozenset(
            each.alias for each in get_flat_params(self.dependant) if isinstance(each.field_info, Query)
        )


def _keeping(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(endpoint)
    def kept(**given: Any) -> Any:
        asked = given.get("asked")
        if asked is None:
            return endpoint(**given)
        with asked.transaction:
            response = endpoint(**given)
            if asked.keeper is not None:
                asked.keeper.keep(asked.connection, response)
        return response

    return kept
