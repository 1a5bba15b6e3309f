"""How a request reaches the stand-in for Stripe: key, version, idempotency, faults, and the shape of its answer."""

import asyncio
import base64
import binascii
import copy
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sandbox.faults import FAULT
from sandbox.stripe.account.events import Cause, Events, cause
from sandbox.stripe.account.state import API_VERSION, Object, State, new_id
from sandbox.stripe.api.errors import StripeError, in_use, server_error, too_many, unknown_url
from sandbox.stripe.api.idempotency import Answer, IdempotencyKeys, refused
from sandbox.stripe.api.lists import expand, shown_in_part
from sandbox.stripe.api.params import Params, decode

FORM = "application/x-www-form-urlencoded"
INSIDE = frozenset({"500", "500_done", "slow"})
"""The faults that are acted on here: a 500 is kept under its key, and a slow request holds its key and its meter."""


@dataclass
class Call:
    """One request, ready for its handler. ``ids`` are the variable parts of the path."""

    params: Params
    ids: dict[str, str]
    path: str
    idempotency_key: str | None


Handler = Callable[[Call], Awaitable[Object]]


class Door:
    """Turns handlers into routes."""

    def __init__(self, state: State, events: Events) -> None:
        self._state = state
        self._events = events
        self._keys = IdempotencyKeys(state)

    def route(self, method: str, path: str, handler: Handler) -> Route:
        async def endpoint(request: Request) -> Response:
            request_id = new_id("req")
            try:
                _authenticate(request)
                _check_version(request)
                answer = await self._answer(request, handler, request_id)
            except StripeError as error:
                answer = refused(error)
            finally:
                await self._events.flush()
            return _response(answer, request_id, self._state.timeline.now)

        return Route(path, endpoint, methods=[method])

    async def _answer(self, request: Request, handler: Handler, request_id: str) -> Answer:
        text = (await request.body()).decode(errors="replace") if request.method == "POST" else request.url.query
        if request.method == "POST" and text and not request.headers.get("content-type", "").startswith(FORM):
            raise StripeError(400, f"Invalid request (check that your POST content type is {FORM}).")
        key = request.headers.get("idempotency-key") if request.method == "POST" else None
        path = request.url.path

        async def execute() -> Answer:
            cause.set(Cause(request_id, key))
            word, _, seconds = request.scope.get(FAULT, "ok").partition(":")
            if word == "500":
                raise server_error()
            if word == "slow":
                await asyncio.sleep(float(seconds))
            params = Params(decode(text))
            expansions = params.texts("expand")
            body = copy.deepcopy(await handler(Call(params, request.path_params, path, key)))
            for each in expansions:
                expand(self._state, body, each)
            shown_in_part(body)
            if word == "500_done":
                raise server_error()
            return Answer(200, body)

        return await self._keys.answer(key, f"{request.method} {path} {sorted(parse_qsl(text, True))}", execute)


def _response(answer: Answer, request_id: str, at: datetime | None = None) -> Response:
    """The answer, dated by the account's own clock."""
    headers = {"Request-Id": request_id, "Stripe-Version": API_VERSION, **answer.headers}
    if at is not None:
        headers["Date"] = format_datetime(at, usegmt=True)
    return JSONResponse(answer.body, answer.status, headers)


def _authenticate(request: Request) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            given = base64.b64decode(given, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    if not given:
        raise StripeError(401, "You did not provide an API key. Send it as Authorization: Bearer YOUR_SECRET_KEY.")
    if not given.startswith(("sk_test_", "rk_test_")) or len(given) <= len("sk_test_"):
        words = "this stand-in takes any sk_test_... key, and rk_test_... as if it had all rights."
        raise StripeError(401, f"Invalid API Key provided: {given[:8]}****; {words}")


def _check_version(request: Request) -> None:
    version = request.headers.get("stripe-version", API_VERSION)
    if version != API_VERSION:
        raise StripeError(400, f"Invalid Stripe API version: {version}. This stand-in speaks {API_VERSION} only.")


async def unknown(request: Request, _: Exception) -> Response:
    """The answer where there is no route for this method and path."""
    return _response(refused(unknown_url(request.method, request.url.path)), new_id("req"))


def refuse(status: int) -> Response:
    """The answer to a request that a fault stops at the door."""
    expired = StripeError(401, "Expired API Key provided: sk_test_****")
    errors = {401: expired, 409: in_use(), 429: too_many("global-rate"), 500: server_error()}
    return _response(refused(errors[status]), new_id("req"))
