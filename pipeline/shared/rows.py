"""Rows of a query as objects, by the names of its columns."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import CursorResult

T = TypeVar("T")

#: What a column of jsonb holds, and a body of JSON.
Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


def typed_rows(kind: Callable[..., T], result: CursorResult[Any]) -> list[T]:
    """Each row as a ``kind``, whose fields are the columns: a column that has no field, or none for a field, raises."""
    return [kind(**row._asdict()) for row in result]


def typed_row(kind: Callable[..., T], result: CursorResult[Any]) -> T | None:
    """The first row as a ``kind``; None when there is none."""
    row = result.first()
    return None if row is None else kind(**row._asdict())
