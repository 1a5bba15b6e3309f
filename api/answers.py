"""Answers as JSON: instants in RFC 3339 and UTC, a page of many things with the cursor of the next one."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import Query
from starlette.responses import Response

#: Rows of a page, if nobody says another number, and at most.
_USUAL: Final = 50
_MOST: Final = 200
_NEWEST: Final = 2**63 - 1

Limit = Annotated[int, Query(ge=1, le=_MOST, description="Rows of a page.")]
Cursor = Annotated[
    str | None, Query(max_length=200, pattern=r"^[A-Za-z0-9_-]*$", description="`next_cursor` of the page before.")
]
USUAL_LIMIT: Final = _USUAL

Row = TypeVar("Row")


class CursorError(Exception):
    """A cursor that is none, or of another list."""


def json_bytes(content: object) -> bytes:
    """``content`` as JSON; dataclasses are their fields."""
    return orjson.dumps(content, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


class Json(Response):
    """A JSON answer, whose ``ETag`` is a hash of it."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        body = b"" if content is None else json_bytes(content)
        self.etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return body

    def __init__(
        self,
        content: object,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        *,
        holds_secret: bool = False,
    ) -> None:
        super().__init__(content, status, dict(headers or {}))
        self.holds_secret = holds_secret
        if content is not None:
            self.headers["ETag"] = self.etag


def page(
    read: Callable[[int, int], Sequence[Row]],
    position: Callable[[Row], int],
    shown: Callable[[Row], Any],
    *,
    limit: int,
    cursor: str | None,
    filters: object = None,
) -> Json:
    """A page of what ``read(before, limit)`` gives, the newest first; one row more is read, and nothing counted.

    ``filters`` are what the list is of: a cursor belongs to them, and holds nothing of who may see what. Raises
    CursorError.
    """
    digest = hashlib.sha256(json_bytes(filters)).digest()[:8]
    rows = read(_position(cursor, digest), limit + 1)
    more = len(rows) > limit
    last = base64.urlsafe_b64encode(digest + position(rows[limit - 1]).to_bytes(8)).decode() if more else None
    return Json({"data": [shown(row) for row in rows[:limit]], "next_cursor": last and last.rstrip("=")})


def _position(cursor: str | None, digest: bytes) -> int:
    if cursor is None:
        return _NEWEST
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        content = b""
    if len(content) != 16 or not hmac.compare_digest(content[:8], digest):
        raise CursorError("this is no cursor of this list: begin at its first page")
    return min(int.from_bytes(content[8:]), _NEWEST)
