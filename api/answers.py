"""Answers as JSON: instants in RFC 3339 and UTC, a page of many things with the cursor of the next one."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import Query
from starlette.responses import Response

from pipeline.shared.rows import NEWEST, NEWEST_INSTANT

#: Rows of a page, if nobody says another number, and at most.
_USUAL: Final = 50
_MOST: Final = 200
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_CURSOR: Final = "this is no cursor of this list: begin at its first page"

Limit = Annotated[int, Query(ge=1, le=_MOST, description="Rows of a page.")]
Cursor = Annotated[
    str | None, Query(max_length=200, pattern=r"^[A-Za-z0-9_-]*$", description="`next_cursor` of the page before.")
]
USUAL_LIMIT: Final = _USUAL

Row = TypeVar("Row")


class CursorError(Exception):
    """A cursor that is none, or of another list."""


def json_bytes(content: object) -> bytes:
    """``content`` as JSON; dataclasses are their fields, instants in UTC."""
    return orjson.dumps(content, default=_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Decimal):
        return str(value)
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
    before = _position(cursor, filters)
    if len(before) not in {0, 8}:
        raise CursorError(_NO_CURSOR)
    rows = read(min(int.from_bytes(before), NEWEST) if before else NEWEST, limit + 1)
    return _page(rows, lambda row: position(row).to_bytes(8), shown, limit, filters)


def page_in_time(
    read: Callable[[tuple[str, str], int], Sequence[Row]],
    position: Callable[[Row], tuple[datetime, str]],
    *,
    limit: int,
    cursor: str | None,
    filters: object = None,
) -> Json:
    """The same of a list by instants, in which several may be alike: ``position`` is an instant and a name."""
    before = _position(cursor, filters)
    present = NEWEST_INSTANT
    if before:
        if len(before) < 8:
            raise CursorError(_NO_CURSOR)
        microseconds = int.from_bytes(before[:8], signed=True)
        try:
            at = _EPOCH + timedelta(microseconds=microseconds)
            present = (at.isoformat(), before[8:].decode("ascii"))
        except (OverflowError, UnicodeDecodeError) as error:
            raise CursorError(_NO_CURSOR) from error
        if "\0" in present[1]:
            raise CursorError(_NO_CURSOR)

    def packed(row: Row) -> bytes:
        at, name = position(row)
        return ((at - _EPOCH) // timedelta(microseconds=1)).to_bytes(8, signed=True) + name.encode("ascii")

    return _page(read(present, limit + 1), packed, lambda row: row, limit, filters)


def _page(
    rows: Sequence[Row], packed: Callable[[Row], bytes], shown: Callable[[Row], Any], limit: int, filters: object
) -> Json:
    last = None
    if len(rows) > limit:
        last = base64.urlsafe_b64encode(_digest(filters) + packed(rows[limit - 1])).decode().rstrip("=")
    return Json({"data": [shown(row) for row in rows[:limit]], "next_cursor": last})


def _digest(filters: object) -> bytes:
    return hashlib.sha256(json_bytes(filters)).digest()[:8]


def _position(cursor: str | None, filters: object) -> bytes:
    """What a cursor holds behind the digest of its filters; nothing without one."""
    if cursor is None:
        return b""
    try:
        content = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        content = b""
    if len(content) <= 8 or not hmac.compare_digest(content[:8], _digest(filters)):
        raise CursorError(_NO_CURSOR)
    return content[8:]
