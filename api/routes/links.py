"""The door: asking for a link, and what one does. Every answer about an address is the same."""

from typing import Literal

from fastapi import Request
from starlette.responses import Response

from accounts import attempt_limits as limits
from accounts import links
from accounts.links import LinkKind, NewAccount
from accounts.users import check_email
from api.answers import Json
from api.asking import anybody, engine_of, keys_of, request_id_of
from api.browser import OfOurPages, client_address
from api.inputs import Email, Input, Name, Password, Secret
from api.outputs import LinkDone, LinkShown, Status
from api.routers import router_of
from pipeline.shared import trail

router = router_of("door", "", anybody())


class WantedLink(Input):
    """Where a link is mailed."""

    email: Email


class ShownLink(Input):
    """The secret of a link, which its page takes from the address's fragment."""

    secret: Secret


class UsedLink(ShownLink):
    """A link, and what somebody without an account, or with a new password, gives beside it."""

    name: Name | None = None
    password: Password | None = None


@router.post("/sign-ups", status_code=202, response_model=Status)
def sign_up(request: Request, body: WantedLink, _: OfOurPages) -> Response:
    """Mail a link to set up an account; whoever has one is told so by the mail."""
    return _ask(request, LinkKind.SIGN_UP, body.email)


@router.post("/password-resets", status_code=202, response_model=Status)
def reset_password(request: Request, body: WantedLink, _: OfOurPages) -> Response:
    """Mail a link to set a new password, if the address has an account."""
    return _ask(request, LinkKind.RESET, body.email)


def _ask(request: Request, kind: Literal[LinkKind.SIGN_UP, LinkKind.RESET], email: str) -> Response:
    keys, address = keys_of(request), limits.network(client_address(request))
    email = check_email(email)
    with engine_of(request).begin() as connection:
        limits.take(connection, keys, limits.MAILS_BY_ADDRESS, address)
        limits.take(connection, keys, limits.MAILS_TO, f"{kind} {email.lower()}")
        links.request_link(connection, kind, email)
    return Json({"status": "a mail is on its way, if this address can have one"}, 202)


@router.post("/links/look", response_model=LinkShown)
def look(request: Request, body: ShownLink, _: OfOurPages) -> Response:
    """What a link is for, and whether its address has an account. It stays good."""
    _limit(request)
    with engine_of(request).begin() as connection:
        link, known = links.open_link(connection, body.secret)
    shown = {
        "kind": link.kind.value,
        "email": link.email,
        "has_account": known,
        "business": link.business,
        "role": link.role and link.role.value,
    }
    return Json(shown)


@router.post("/links/accept", response_model=LinkDone)
def accept(request: Request, body: UsedLink, _: OfOurPages) -> Response:
    """Do what a link is for. It signs nobody in."""
    _limit(request)
    password = body.password.get_secret_value() if body.password else ""
    new = NewAccount(body.name or "", password) if body.name is not None or password else None
    with engine_of(request).begin() as connection:
        done = links.accept_link(connection, body.secret, new)
        link = done.link
        trail.note(
            connection,
            trail.Entry(
                f"user:{done.user_id}",
                f"link {link.kind.value}",
                f"user:{done.user_id}",
                link.business_id,
                detail={"role": link.role and link.role.value, "staff_role": link.staff_role and link.staff_role.value},
                by_right="anybody",
                request_id=request_id_of(request),
            ),
        )
    return Json({"kind": link.kind.value, "email": link.email, "business_id": link.business_id})


def _limit(request: Request) -> None:
    with engine_of(request).begin() as connection:
        limits.take(connection, keys_of(request), limits.LINKS_BY_ADDRESS, limits.network(client_address(request)))
