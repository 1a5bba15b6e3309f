"""Rows of a query as objects, by the names of its columns."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

from sqlalchemy import CursorResult
from typing_extensions import TypeAliasType

T = TypeVar("T")

#: The largest id there can be: before it are all of them.
NEWEST = 2**63 - 1
#: The same of a list in time, with a name beside the instant.
NEWEST_INSTANT = ("infinity", "")

#: What a column of jsonb holds, and a body of JSON.
Json = TypeAliasType("Json", "dict[str, Json] | list[Json] | str | int | float | bool | None")


def typed_rows(kind: Callable[..., T], result: CursorResult[Any]) -> list[T]:
    """Each row as a ``kind``, a dataclass whose fields are the columns. Raises TypeError where they are others."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # no type says "a dataclass's type"
    columns = list(result.keys())
    if columns == names:  # of ten thousand rows half the time of naming each value
        return [kind(*row) for row in result]
    if sorted(columns) != sorted(names):
        raise TypeError(f"{kind} has the fields {names}, and the query the columns {columns}")
    order = [columns.index(name) for name in names]
    return [kind(*(row[place] for place in order)) for row in result]


def typed_row(kind: Callable[..., T], result: CursorResult[Any]) -> T | None:
    """The first row as a ``kind``; None when there is none."""
    return next(iter(typed_rows(kind, result)), None)
