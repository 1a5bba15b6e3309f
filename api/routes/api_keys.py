"""API keys of a business's programs, and service keys of the phone platform. A secret is shown once."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Request
from pydantic import AwareDatetime, Field
from starlette.responses import Response

from accounts import api_keys
from accounts.api_keys import StoredKey
from accounts.rights import SCOPES, SERVICE_SCOPES, has_right
from api.answers import Json
from api.asking import Asked, AskedOfBusiness, in_business, needs
from api.inputs import Id, Input, Name
from api.outputs import KeyShown, NewKeyShown, Page
from api.problems import Problem
from api.routers import router_of
from pipeline.shared.clock import machine_now

router = router_of("api keys", "/businesses/{business_id:id}/api-keys")
service_router = router_of("api keys", "/service-keys")

Reads = Annotated[AskedOfBusiness, in_business("keys:read")]
Writes = Annotated[AskedOfBusiness, in_business("keys:write", proven=True)]
Service = Annotated[Asked, needs("service-keys:write", proven=True)]


#: Described as what they may be; it is checked where keys are made (accounts/api_keys.py).
_Scope = Annotated[str, Field(max_length=40, json_schema_extra={"enum": sorted(SCOPES)})]
_ServiceScope = Annotated[str, Field(max_length=40, json_schema_extra={"enum": sorted(SERVICE_SCOPES)})]
Scopes = Annotated[list[_Scope], Field(min_length=1, max_length=40)]
ServiceScopes = Annotated[list[_ServiceScope], Field(min_length=1, max_length=40)]


class _Key(Input):
    name: Name
    expires_at: AwareDatetime | None = None


class NewKey(_Key):
    """A key of a business: what it is called, what it may, and until when."""

    scopes: Scopes


class NewServiceKey(_Key):
    """A key of the phone platform: what it is called, what it may, and until when."""

    scopes: ServiceScopes


class ChangedKey(Input):
    """What of a key may be changed; what is not named stays."""

    name: Name | None = None
    scopes: Scopes | None = None
    expires_at: AwareDatetime | None = None


@router.get("", response_model=Page[KeyShown])
def list_keys(asked: Reads) -> Response:
    """Its keys, the newest first, those too that have ended."""
    return _list(asked)


@router.post("", status_code=201, response_model=NewKeyShown)
def make_key(request: Request, body: NewKey, asked: Writes) -> Response:
    """A new key. Its secret is in this answer, and nowhere else ever after."""
    asked.see_living()
    return _make(request, asked, body)


@router.patch("/{key_id:id}", response_model=KeyShown)
def change_key(key_id: Id, body: ChangedKey, asked: Writes) -> Response:
    """Change its name, scopes or expiry."""
    key = _one(asked, key_id)
    given = body.model_dump(exclude_unset=True)
    _see_expiry(body.expires_at)
    if body.scopes is not None:
        _see_own(asked, set(body.scopes) - set(key.scopes))
    changed = replace(
        key, **{name: value for name, value in given.items() if value is not None or name == "expires_at"}
    )
    api_keys.change_key(asked.connection, changed)
    asked.note("key change", f"key:{key_id}", fields=sorted(given))
    return Json(_shown(_one(asked, key_id)))


@router.post("/{key_id:id}/rotations", status_code=201, response_model=NewKeyShown)
def rotate_key(request: Request, key_id: Id, asked: Writes) -> Response:
    """A new secret; the old one is good no more, and who asks is the key's maker from now on."""
    asked.see_living()
    key = _one(asked, key_id)
    _see_own(asked, set(key.scopes))
    secret = api_keys.rotate_key(asked.connection, key_id, asked.person.user_id, livemode=request.app.state.livemode)
    asked.note("key rotate", f"key:{key_id}", fields=["secret_sha256", "user_id"])
    return Json(_shown(_one(asked, key_id)) | {"secret": secret}, 201, holds_secret=True)


@router.delete("/{key_id:id}", status_code=204)
def revoke_key(key_id: Id, asked: Writes) -> Response:
    """End it at once."""
    return _revoke(asked, key_id)


@service_router.get("", response_model=Page[KeyShown])
def list_service_keys(asked: Service) -> Response:
    """The phone platform's keys, the newest first."""
    return _list(asked)


@service_router.post("", status_code=201, response_model=NewKeyShown)
def make_service_key(request: Request, body: NewServiceKey, asked: Service) -> Response:
    """A new key of the phone platform, over all businesses."""
    return _make(request, asked, body)


@service_router.delete("/{service_key_id:id}", status_code=204)
def revoke_service_key(service_key_id: Id, asked: Service) -> Response:
    """End it at once."""
    return _revoke(asked, service_key_id)


def _list(asked: Asked) -> Json:
    found = api_keys.list_keys(asked.connection, asked.business_id)
    return Json({"data": [_shown(key) for key in found], "next_cursor": None})


def _make(request: Request, asked: Asked, body: NewKey | NewServiceKey) -> Json:
    _see_expiry(body.expires_at)
    _see_own(asked, set(body.scopes))
    key_id, secret = api_keys.make_key(
        asked.connection,
        business_id=asked.business_id,
        user_id=asked.person.user_id,
        name=body.name,
        scopes=body.scopes,
        expires_at=body.expires_at,
        livemode=request.app.state.livemode,
    )
    detail = {"scopes": sorted(body.scopes)}
    asked.note("key make", f"key:{key_id}", detail=detail)
    return Json(_shown(_one(asked, key_id)) | {"secret": secret}, 201, holds_secret=True)


def _revoke(asked: Asked, key_id: int) -> Response:
    _one(asked, key_id)
    if api_keys.revoke_key(asked.connection, key_id):
        asked.note("key revoke", f"key:{key_id}", fields=["revoked_at"])
    return Response(status_code=204)


def _one(asked: Asked, key_id: int) -> StoredKey:
    return asked.own(api_keys.key_with_id(asked.connection, key_id, hold=True), "this key")


def _see_own(asked: Asked, scopes: set[str]) -> None:
    """A key's maker has all of its rights, or it would not work."""
    role = asked.role
    lacks = sorted(
        scope for scope in scopes - SERVICE_SCOPES if scope in SCOPES and (role is None or not has_right(scope, {role}))
    )
    if lacks:
        raise Problem(403, "forbidden", "a key can't do more than who makes it", right=lacks[0])


def _see_expiry(expires_at: datetime | None) -> None:
    if expires_at is not None and not machine_now() < expires_at < datetime(2100, 1, 1, tzinfo=UTC):
        raise Problem(422, "invalid", "see invalid_parameters", invalid=[("expires_at", "it lies in the future")])


def _shown(key: StoredKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "begins": key.prefix,
        "scopes": key.scopes,
        "made_by": key.user_id,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "expires_at": key.expires_at,
        "ends_at": key.ends_at,
        "revoked_at": key.revoked_at,
    }
