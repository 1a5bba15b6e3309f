"""Signing in and out, and where somebody is signed in."""

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from accounts import sign_in as signing_in
from accounts.access_tokens import LIFETIME, AccessToken, sign_access_token
from accounts.secret_keys import SecretKeys
from accounts.sessions import Refreshed, SessionEnd, SessionError, end_sessions, living_sessions, refresh_session
from api.answers import Json
from api.asking import Asked, anybody, engine_of, keys_of, oneself
from api.browser import OfOurPages, client_address, cookies
from api.inputs import Code, Email, Id, Input, Password
from api.outputs import Page, SessionShown, Tokens
from api.problems import missing, problem_of
from api.routers import router_of

router = router_of("sessions", "/sessions")

Enrolling = Annotated[Asked, oneself(enrolling=True)]


class SignIn(Input):
    """Address and password, and the code of a second factor, or a recovery code, where there is one."""

    email: Email
    password: Password
    code: Code | None = None


@router.post("", status_code=201, dependencies=[anybody()], response_model=Tokens)
def sign_in(request: Request, body: SignIn, _: OfOurPages) -> Response:
    """Begin a session: the access token is for the page's memory, and a cookie keeps the session going."""
    kept = cookies(request)
    signed_in = signing_in.sign_in(
        engine_of(request),
        keys_of(request),
        email=body.email,
        password=body.password.get_secret_value(),
        code=body.code,
        known_device=request.cookies.get(kept.device),
        device=request.headers.get("user-agent", "").replace("\0", ""),
        address=client_address(request),
    )
    response = _tokens(keys_of(request), signed_in.session, 201)
    kept.keep(response, signed_in.session.token, signed_in.device)
    return response


@router.post("/refresh", dependencies=[anybody()], response_model=Tokens)
def refresh(request: Request, _: OfOurPages) -> Response:
    """A new access token, by the cookie; several at once get the same successor of it."""
    kept = cookies(request)
    try:
        refreshed = refresh_session(engine_of(request), keys_of(request), request.cookies.get(kept.refresh, ""))
    except SessionError as error:
        problem = problem_of(error)
        assert problem is not None
        response = problem.response()
        kept.forget(response)
        return response
    response = _tokens(keys_of(request), refreshed, 200)
    kept.keep(response, refreshed.token)
    return response


@router.get("", response_model=Page[SessionShown])
def list_sessions(asked: Enrolling) -> Response:
    """Where the person who asks is signed in."""
    found = living_sessions(asked.connection, asked.person.user_id)
    shown = [
        {
            "id": each.id,
            "present": each.id == asked.person.session_id,
            "created_at": each.created_at,
            "used_at": each.used_at,
            "device": each.device,
            "address": each.address,
            "second_factor": each.second_factor,
        }
        for each in found
    ]
    return Json({"data": shown, "next_cursor": None})


@router.delete("/present", status_code=204)
def sign_out(request: Request, _: OfOurPages, asked: Enrolling) -> Response:
    """End the session that asks."""
    _end(asked, asked.person.session_id)
    response = Response(status_code=204)
    cookies(request).forget(response)
    return response


@router.delete("/{session_id:id}", status_code=204)
def end_session(session_id: Id, asked: Enrolling) -> Response:
    """End one of the person's sessions."""
    _end(asked, session_id)
    return Response(status_code=204)


@router.delete("", status_code=204)
def end_all(request: Request, _: OfOurPages, asked: Enrolling) -> Response:
    """End all of the person's sessions, this one too."""
    _end(asked, None)
    response = Response(status_code=204)
    cookies(request).forget(response)
    return response


def _end(asked: Asked, session_id: int | None) -> None:
    user_id = asked.person.user_id
    ended = end_sessions(asked.connection, user_id, SessionEnd.SIGN_OUT, session_id=session_id)
    if not ended:
        raise missing("this session")
    asked.note("sessions end", f"user:{user_id}", fields=["ended_at"], detail={"sessions": ended})


def _tokens(keys: SecretKeys, session: Refreshed, status: int) -> Json:
    token = sign_access_token(keys, AccessToken(session.user_id, session.session_id))
    shown = {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": int(LIFETIME.total_seconds()),
        "session_id": session.session_id,
    }
    return Json(shown, status)
