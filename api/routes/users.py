"""Users as Altiora's staff see them."""

from typing import Annotated, Literal

from fastapi import Request
from starlette.responses import Response

from accounts import links, second_factor, users
from accounts.links import LinkKind
from accounts.mails import MailKind, plan_mail
from accounts.rights import Role
from accounts.users import Account
from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import Asked, needs
from api.inputs import Email, Id, Input, Q, Reason
from api.outputs import Page, Status, UserShown
from api.problems import Problem, missing
from api.routers import router_of

router = router_of("users", "/users")

Reads = Annotated[Asked, needs("users:read")]
Writes = Annotated[Asked, needs("users:write", proven=True)]
Staff = Annotated[Asked, needs("staff:write", proven=True)]

StaffRole = Literal[Role.SUPPORT, Role.OPERATOR, Role.ADMINISTRATOR]


class NewStaff(Input):
    """Who shall work for Altiora, and as what."""

    email: Email
    staff_role: StaffRole


class ChangedStaff(Input):
    """What somebody is at Altiora from now on; null: nothing."""

    staff_role: StaffRole | None
    reason: Reason


class Why(Input):
    """Why it is done; it stands in the trail."""

    reason: Reason


@router.get("", response_model=Page[UserShown])
def list_users(asked: Reads, q: Q = "", limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """Users, the newest first."""
    return page(
        lambda before, rows: users.list_users(asked.connection, q, before, rows),
        lambda user: user.id,
        lambda user: user,
        limit=limit,
        cursor=cursor,
        filters=q,
    )


@router.get("/{user_id:id}", response_model=UserShown)
def show_user(user_id: Id, asked: Reads) -> Response:
    """One user."""
    return _one(asked, user_id)


@router.post("/staff", status_code=202, response_model=Status)
def invite_staff(request: Request, body: NewStaff, asked: Staff) -> Response:
    """Mail somebody a link to work for Altiora."""
    asked.limit_mail(request, body.email)
    link_id = links.request_link(
        asked.connection,
        LinkKind.STAFF,
        body.email,
        staff_role=body.staff_role,
        invited_by=asked.person.user_id,
    )
    asked.note("user add", f"invitation:{link_id}", detail={"staff_role": body.staff_role.value})
    return Json({"status": "a mail is on its way"}, 202)


@router.patch("/{user_id:id}", response_model=UserShown)
def change_staff(user_id: Id, body: ChangedStaff, asked: Staff) -> Response:
    """Make somebody staff, or no more; all their sessions end. Nobody does it to themselves."""
    _account(asked, user_id)
    if user_id == asked.person.user_id:
        raise Problem(409, "conflict", "nobody changes their own role: ask another administrator")
    role = body.staff_role.value if body.staff_role else None
    if users.set_staff_role(asked.connection, user_id, role):
        subject = f"user:{user_id}"
        asked.note("user staff", subject, fields=["staff_role"], reason=body.reason, detail={"staff_role": role})
    return _one(asked, user_id)


@router.post("/{user_id:id}/deactivations", response_model=UserShown)
def deactivate_user(user_id: Id, body: Why, asked: Writes) -> Response:
    """End all sessions of somebody, and let them sign in no more."""
    _account(asked, user_id)
    if users.deactivate_user(asked.connection, user_id):
        asked.note("user disable", f"user:{user_id}", fields=["deactivated_at"], reason=body.reason)
    return _one(asked, user_id)


@router.post("/{user_id:id}/activations", response_model=UserShown)
def activate_user(user_id: Id, body: Why, asked: Writes) -> Response:
    """Let somebody sign in again."""
    _account(asked, user_id)
    if users.activate_user(asked.connection, user_id):
        asked.note("user enable", f"user:{user_id}", fields=["deactivated_at"], reason=body.reason)
    return _one(asked, user_id)


@router.post("/{user_id:id}/second-factor-resets", response_model=UserShown)
def reset_second_factor(user_id: Id, body: Why, asked: Writes) -> Response:
    """Take the second factor of somebody away who has lost it; they are told by mail."""
    _account(asked, user_id)
    if not second_factor.remove(asked.connection, user_id):
        raise Problem(409, "conflict", "they have no second factor")
    plan_mail(asked.connection, MailKind.SECOND_FACTOR_OFF, user_id=user_id)
    asked.note("user reset-second-factor", f"user:{user_id}", fields=["totp_secret"], reason=body.reason)
    return _one(asked, user_id)


def _account(asked: Asked, user_id: int) -> Account:
    account = users.user_with_id(asked.connection, user_id)
    if account is None:
        raise missing("this user")
    return account


def _one(asked: Asked, user_id: int) -> Json:
    found = users.list_users(asked.connection, before=user_id + 1, limit=1)
    if not found or found[0].id != user_id:
        raise missing("this user")
    return Json(found[0])
