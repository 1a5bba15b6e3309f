"""What goes wrong, as RFC 9457 says: a stable ``type``, what to do in ``detail``, and which parameters are invalid.

Nothing of what was sent is repeated, and nothing of what happened inside is told.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from accounts.api_keys import ApiKeyError
from accounts.attempt_limits import LimitedError
from accounts.links import LinkError
from accounts.members import MemberError
from accounts.passwords import PasswordError
from accounts.rights import ForbiddenError
from accounts.second_factor import CodeError
from accounts.sessions import SessionError
from accounts.sign_in import CodeNeededError, SignInError
from accounts.users import UserError
from api.answers import json_bytes
from api.other_doors import DOORS
from pipeline.agents.agents import AgentError
from pipeline.agents.call_flow import FlowError
from pipeline.agents.documents import DocumentError
from pipeline.businesses.registration import BusinessError
from pipeline.calls.transcripts import TranscriptError, UnknownCallError
from pipeline.closing.drift_decisions import DecisionError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:altiora:problem:"

_log = structlog.get_logger(__name__)


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer that is no success. ``kind`` is the last part of its type, and stays the same for ever."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        invalid: Sequence[tuple[str, str]] = (),
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.headers = dict(headers or {})
        self.body: dict[str, Any] = {"type": _TYPE + kind, "title": _TITLES[kind], "status": status, "detail": detail}
        if invalid:
            self.body["invalid_parameters"] = [{"name": name, "reason": reason} for name, reason in invalid]
        self.body |= more

    def response(self) -> Response:
        """As it is sent."""
        return Response(json_bytes(self.body), self.status, self.headers, MEDIA_TYPE)


_TITLES: Final = {
    "invalid": "Something of the request is invalid",
    "unreadable": "The request can't be read",
    "too-large": "The request is too large",
    "not-signed-in": "Sign in first",
    "sign-in-refused": "Signing in was refused",
    "code-needed": "A code of the second factor is needed",
    "code-refused": "The code was refused",
    "second-factor-needed": "Set up a second factor first",
    "prove-again": "Show once more that it is you",
    "forbidden": "A right is missing",
    "other-origin": "The request comes from another site",
    "not-found": "There is no such thing",
    "not-allowed": "This can't be done here",
    "conflict": "It can't be so",
    "not-yet": "It is not there yet",
    "unfit": "Nobody could work with it",
    "link-refused": "The link is good no more",
    "password-refused": "The password is not taken",
    "key-used": "The Idempotency-Key was used before",
    "match-needed": "Say which state you have read",
    "changed": "Somebody was faster",
    "limited": "Too many attempts",
    "unavailable": "Try again in a moment",
    "failed": "Something went wrong here",
}

#: What a subject raises, and how that is answered.
_OF_SUBJECTS: Final[Mapping[type[Exception], tuple[int, str]]] = {
    SessionError: (401, "not-signed-in"),
    SignInError: (401, "sign-in-refused"),
    CodeNeededError: (401, "code-needed"),
    CodeError: (422, "code-refused"),
    LinkError: (410, "link-refused"),
    PasswordError: (422, "password-refused"),
    UserError: (409, "conflict"),
    MemberError: (409, "conflict"),
    ApiKeyError: (409, "conflict"),
    BusinessError: (409, "conflict"),
    AgentError: (409, "conflict"),
    DecisionError: (409, "conflict"),
    TranscriptError: (409, "conflict"),
    UnknownCallError: (409, "not-yet"),
    FlowError: (422, "unfit"),
    DocumentError: (422, "unfit"),
}

#: Statuses that the framework answers by itself.
_BY_STATUS: Final = {405: "not-allowed", 400: "unreadable", 413: "too-large"}


def missing(what: str = "it") -> Problem:
    """For what is not there, and for what is somebody else's: nobody can tell them apart."""
    return Problem(404, "not-found", f"{what} is not there, or not yours to see")


def problem_of(error: Exception) -> Problem | None:
    """How an error of ours is answered."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, ForbiddenError):
        return Problem(403, "forbidden", str(error), right=error.right)
    if isinstance(error, LimitedError):
        return Problem(429, "limited", str(error), headers={"Retry-After": str(error.seconds)})
    for kind, (status, name) in _OF_SUBJECTS.items():
        if isinstance(error, kind):
            return Problem(status, name, str(error))
    if isinstance(error, PoolTimeoutError):
        return Problem(503, "unavailable", "too many requests at once", headers={"Retry-After": "1"})
    if isinstance(error, DBAPIError) and _passes(error):
        return Problem(503, "unavailable", "the database did not answer in time", headers={"Retry-After": "1"})
    return None


def _passes(error: DBAPIError) -> bool:
    """Whether trying again helps: the connection, a lock, a timeout, or two at once."""
    state = getattr(error.orig, "sqlstate", None)
    return state is None or state[:2] in {"08", "40", "53", "55", "57"}


def _nothing() -> Problem:
    return Problem(404, "not-found", "nothing is at this address")


def add_handlers(app: FastAPI, methods: Callable[[str], Mapping[str, set[str]]]) -> None:
    """Answer everything that is raised as a problem. ``methods``: those that an address has, by its templates."""

    async def of_ours(_: Request, error: Exception) -> Response:
        found = problem_of(error)
        if found is None:
            raise error
        return found.response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if any(each["loc"][0] == "path" for each in error.errors()):  # an id that is none names nothing
            return _nothing().response()
        found = [(".".join(str(part) for part in each["loc"][1:]) or "body", each["msg"]) for each in error.errors()]
        unreadable = any(each["type"] == "json_invalid" for each in error.errors())
        if unreadable:
            return Problem(400, "unreadable", "the body is no JSON").response()
        return Problem(422, "invalid", "see invalid_parameters", invalid=found[:20]).response()

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            here = methods(request.url.path)
            allow = ", ".join(sorted(set().union(*here.values())))
            doors = [DOORS[template] for template in here if template in DOORS]
            words = "; ".join([f"this address takes {allow}", *doors[:1]])
            return Problem(405, "not-allowed", words, headers={"Allow": allow}).response()
        if error.status_code == 404:
            return _nothing().response()
        kind = _BY_STATUS.get(error.status_code, "invalid")
        words = "the body can't be read" if error.status_code == 400 else str(error.detail)
        return Problem(error.status_code, kind, words, headers=error.headers).response()

    async def failed(_: Request, __: Exception) -> Response:  # the framework raises it again, for the log
        return Problem(500, "failed", "it is in our log, under this request's id").response()

    app.add_exception_handler(Exception, failed)
    for known in (Problem, ForbiddenError, LimitedError, PoolTimeoutError, DBAPIError, *_OF_SUBJECTS):
        app.add_exception_handler(known, of_ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)
