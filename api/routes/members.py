"""Who works in a business: members, invitations, and handing it over."""

from typing import Annotated, Literal

from fastapi import Request
from starlette.responses import Response

from accounts import links, members
from accounts.links import Link, LinkKind
from accounts.rights import Role, may_give
from api.answers import Json
from api.asking import AskedOfBusiness, in_business
from api.inputs import Email, Id, Input
from api.outputs import InvitationShown, MemberShown, Page
from api.problems import Problem, missing
from api.routers import router_of

router = router_of("members", "/businesses/{business_id:id}")

Reads = Annotated[AskedOfBusiness, in_business("members:read")]
Writes = Annotated[AskedOfBusiness, in_business("members:write", proven=True)]
HandsOver = Annotated[AskedOfBusiness, in_business("ownership:write", proven=True)]
Leaves = Annotated[AskedOfBusiness, in_business("membership:end")]

MemberRole = Literal[Role.ADMIN, Role.MEMBER, Role.BILLING]


class Invitation(Input):
    """Who shall work in the business, and as what."""

    email: Email
    role: MemberRole


class ChangedMember(Input):
    """What somebody is in the business from now on."""

    role: MemberRole


class NewOwner(Input):
    """Who shall own the business."""

    email: Email


@router.get("/members", response_model=Page[MemberShown])
def list_members(asked: Reads) -> Response:
    """Its owner, and then the others by name."""
    return Json({"data": members.members_of(asked.connection, asked.business_id), "next_cursor": None})


@router.patch("/members/{user_id:id}", response_model=MemberShown)
def change_member(user_id: Id, body: ChangedMember, asked: Writes) -> Response:
    """Another role; what the member's keys may do shrinks with it."""
    _see_member(asked, user_id)
    _see_giving(asked, body.role)
    if members.set_member_role(asked.connection, asked.business_id, user_id, body.role):
        detail = {"role": body.role.value}
        asked.note("member role", f"user:{user_id}", fields=["role"], detail=detail)
    found = (each for each in members.members_of(asked.connection, asked.business_id) if each.user_id == user_id)
    member = next(found, None)
    if member is None:
        raise missing("this member")
    return Json(member)


@router.delete("/members/{user_id:id}", status_code=204)
def remove_member(user_id: Id, asked: Writes) -> Response:
    """Remove somebody; the owner hands the business over instead."""
    _see_member(asked, user_id)
    members.remove_member(asked.connection, asked.business_id, user_id)
    asked.note("member remove", f"user:{user_id}")
    return Response(status_code=204)


@router.post("/leave", status_code=204)
def leave(asked: Leaves) -> Response:
    """Work in this business no more."""
    members.remove_member(asked.connection, asked.business_id, asked.person.user_id)
    asked.note("member leave", f"user:{asked.person.user_id}")
    return Response(status_code=204)


@router.get("/invitations", response_model=Page[InvitationShown])
def list_invitations(asked: Reads) -> Response:
    """Who was invited in the last seven days and has not answered."""
    found = links.open_invitations(asked.connection, asked.business_id)
    return Json({"data": [_shown(link) for link in found], "next_cursor": None})


@router.post("/invitations", status_code=201, response_model=InvitationShown)
def invite(request: Request, body: Invitation, asked: Writes) -> Response:
    """Mail a link to somebody; it works for seven days, for this address only."""
    asked.see_living()
    asked.limit_mail(request, body.email)
    _see_giving(asked, body.role)
    link_id = links.request_link(
        asked.connection,
        LinkKind.INVITATION,
        body.email,
        business_id=asked.business_id,
        role=body.role,
        invited_by=asked.person.user_id,
    )
    detail = {"role": body.role.value}
    asked.note("member invite", f"invitation:{link_id}", detail=detail)
    return _one(asked, link_id)


@router.post("/ownership", status_code=202, response_model=InvitationShown)
def hand_over(request: Request, body: NewOwner, asked: HandsOver) -> Response:
    """Mail a link to who shall own it; until that is accepted everything stays as it is."""
    asked.see_living()
    asked.limit_mail(request, body.email)
    link_id = links.request_link(
        asked.connection,
        LinkKind.OWNERSHIP,
        body.email,
        business_id=asked.business_id,
        invited_by=asked.person.user_id,
    )
    asked.note("business hand-over", f"invitation:{link_id}")
    return _one(asked, link_id, 202)


@router.delete("/invitations/{invitation_id:id}", status_code=204)
def take_back(invitation_id: Id, asked: Writes) -> Response:
    """Take an invitation back."""
    link = asked.own(links.link_with_id(asked.connection, invitation_id), "this invitation")
    if link.kind is LinkKind.OWNERSHIP:
        asked.actor.require("ownership:write", asked.business_id)
    links.end_link(asked.connection, invitation_id)
    asked.note("invitation take-back", f"invitation:{invitation_id}")
    return Response(status_code=204)


def _one(asked: AskedOfBusiness, link_id: int, status: int = 201) -> Json:
    link = links.link_with_id(asked.connection, link_id)
    assert link is not None
    return Json(_shown(link), status)


def _shown(link: Link) -> dict[str, object]:
    return {
        "id": link.id,
        "kind": link.kind.value,
        "email": link.email,
        "role": link.role and link.role.value,
        "invited_by": link.invited_by,
    }


def _see_member(asked: AskedOfBusiness, user_id: int) -> None:
    if members.role_in(asked.connection, asked.business_id, user_id) is None:
        raise missing("this member")


def _see_giving(asked: AskedOfBusiness, role: Role) -> None:
    if not may_give(asked.role, role):
        raise Problem(403, "forbidden", "nobody gives away more than they have", right="members:write")
