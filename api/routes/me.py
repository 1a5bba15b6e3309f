"""The person who asks: who they are, what they may, and how they sign in."""

from typing import Annotated

from fastapi import Request
from starlette.responses import Response

from accounts import links, second_factor, users
from accounts import sign_in as signing_in
from accounts.links import LinkKind
from accounts.mails import MailKind, plan_mail
from accounts.passwords import check_password, hash_password
from accounts.rights import rights_of
from accounts.sessions import note_second_factor
from api.answers import Json
from api.asking import Asked, engine_of, keys_of, oneself
from api.inputs import Code, Email, Input, Name, Password
from api.outputs import Me, Named, OfferedFactor, RecoveryCodes, Status
from api.problems import Problem
from api.routers import router_of

router = router_of("me", "/me")

Oneself = Annotated[Asked, oneself()]
Proven = Annotated[Asked, oneself(proven=True)]
Enrolling = Annotated[Asked, oneself(enrolling=True)]
Enrols = Annotated[Asked, oneself(enrolling=True, proven=True)]
#: Proving changes rows in transactions of its own, whatever becomes of the request.
Proves = Annotated[Asked, oneself(enrolling=True, held=False)]


class Proof(Input):
    """What shows once more that it is you."""

    password: Password
    code: Code | None = None


class Renamed(Input):
    """A name."""

    name: Name


class NewPassword(Input):
    """A password."""

    password: Password


class NewEmail(Input):
    """An address, which counts when it is confirmed there."""

    email: Email


class FirstCode(Input):
    """A code of the app, which shows that it has the secret."""

    code: Code


@router.get("", response_model=Me)
def show_me(asked: Enrolling) -> Response:
    """Who asks, and what they may in which business, right now."""
    person = asked.person
    shown = {
        "id": person.user_id,
        "email": person.email,
        "name": person.name,
        "second_factor": person.second_factor,
        "recovery_codes": second_factor.unused_recovery_codes(asked.connection, person.user_id),
        "staff_role": person.staff_role,
        "staff_rights": sorted(rights_of(person.staff_role)) if person.staff_role else [],
        "businesses": [
            {"id": business_id, "role": role.value, "rights": sorted(rights_of(role))}
            for business_id, role in sorted(person.roles.items())
        ],
        "session_id": person.session_id,
        "proven_at": person.proven_at,
    }
    return Json(shown)


@router.patch("", response_model=Named)
def rename_me(body: Renamed, asked: Oneself) -> Response:
    """Call oneself otherwise."""
    if users.rename_user(asked.connection, asked.person.user_id, body.name):
        _note(asked, "me rename", "name")
    return Json({"id": asked.person.user_id, "name": users.check_name(body.name)})


@router.post("/proofs", status_code=204)
def prove(request: Request, body: Proof, asked: Proves) -> Response:
    """Give password and code once more, for what would hurt most; it lasts 15 minutes."""
    person = asked.person
    signing_in.prove(
        engine_of(request),
        keys_of(request),
        person.session_id,
        person.user_id,
        body.password.get_secret_value(),
        body.code,
    )
    return Response(status_code=204)


@router.post("/password", status_code=204)
def change_password(body: NewPassword, asked: Proven) -> Response:
    """A new password: all other sessions end."""
    person, password = asked.person, body.password.get_secret_value()
    check_password(password, [person.name, person.email])
    users.set_password(asked.connection, person.user_id, hash_password(password), but=person.session_id)
    plan_mail(asked.connection, MailKind.PASSWORD_CHANGED, user_id=person.user_id)
    _note(asked, "me password", "password_hash")
    return Response(status_code=204)


@router.post("/email", status_code=202, response_model=Status)
def change_email(request: Request, body: NewEmail, asked: Proven) -> Response:
    """Another address: a link is mailed there, and the present one is told. Then all sessions end."""
    asked.limit_mail(request, body.email)
    person = asked.person
    email = users.check_email(body.email)
    link_id = links.request_link(
        asked.connection, LinkKind.ADDRESS, email, user_id=person.user_id, former_email=person.email
    )
    plan_mail(asked.connection, MailKind.ADDRESS_CHANGING, link_id=link_id)
    _note(asked, "me email", "email")
    return Json({"status": "a mail is on its way to the new address"}, 202)


@router.post("/second-factor", status_code=201, response_model=OfferedFactor)
def offer_second_factor(request: Request, asked: Enrols) -> Response:
    """A secret for an app. It counts when a code of it was given; it is shown this once."""
    person = asked.person
    secret = second_factor.offer(asked.connection, keys_of(request), person.user_id)
    _note(asked, "me second-factor offer", "totp_offered")
    return Json({"secret": secret, "address": second_factor.address_of(secret, person.email)}, 201, holds_secret=True)


@router.post("/second-factor/confirmations", status_code=201, response_model=RecoveryCodes)
def confirm_second_factor(request: Request, body: FirstCode, asked: Enrols) -> Response:
    """From now on signing in asks for a code. The recovery codes are shown this once."""
    user_id = asked.person.user_id
    codes = second_factor.enrol(asked.connection, keys_of(request), user_id, body.code)
    note_second_factor(asked.connection, asked.person.session_id)
    plan_mail(asked.connection, MailKind.SECOND_FACTOR_ON, user_id=user_id)
    _note(asked, "me second-factor on", "totp_secret")
    return Json({"recovery_codes": codes}, 201, holds_secret=True)


@router.delete("/second-factor", status_code=204)
def remove_second_factor(asked: Proven) -> Response:
    """Do without one again; staff may not. All other sessions end."""
    person = asked.person
    if person.staff_role is not None:
        raise Problem(409, "conflict", "staff sign in with a second factor")
    if not second_factor.remove(asked.connection, person.user_id, but=person.session_id):
        raise Problem(409, "conflict", "there is no second factor")
    plan_mail(asked.connection, MailKind.SECOND_FACTOR_OFF, user_id=person.user_id)
    _note(asked, "me second-factor off", "totp_secret")
    return Response(status_code=204)


@router.delete("", status_code=204)
def deactivate_me(asked: Proven) -> Response:
    """Leave: all sessions end, and nobody signs in with this account. Who owns a business hands it over first."""
    users.deactivate_user(asked.connection, asked.person.user_id)
    _note(asked, "me deactivate", "deactivated_at")
    return Response(status_code=204)


def _note(asked: Asked, what: str, field: str) -> None:
    asked.note(what, f"user:{asked.person.user_id}", fields=[field])
