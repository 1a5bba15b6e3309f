"""JSON that people give us to keep: whether it can be stored, and how large it is."""

from collections.abc import Mapping
from typing import Any, Final

import orjson

#: Levels of lists and objects in each other.
DEEPEST: Final = 20


class DocumentError(Exception):
    """A document that can't be kept; the words say why."""


def stored_document(what: str, document: Mapping[str, Any], most_bytes: int) -> str:
    """Its JSON, for a column of jsonb; what is read from there is what was given. Raises DocumentError."""
    _see(what, document, 0)
    content = orjson.dumps(document)
    if len(content) > most_bytes:
        raise DocumentError(f"{what} may have {most_bytes:,} bytes as JSON, and has {len(content):,}")
    return content.decode()


def _see(what: str, value: object, depth: int) -> None:
    """See that PostgreSQL and every reader of JSON can hold it."""
    if depth > DEEPEST:
        raise DocumentError(f"{what} is nested more than {DEEPEST} levels deep")
    match value:
        case str():
            if "\0" in value:
                raise DocumentError(f"{what} holds a NUL character")
            if any("\ud800" <= letter <= "\udfff" for letter in value):
                raise DocumentError(f"{what} holds half a character")
        case int() | float():
            if not abs(value) < 2**63:  # nor what is no number
                raise DocumentError(f"{what} holds a number beyond 64 bits")
        case dict():
            for key, each in value.items():
                _see(what, key, depth)
                _see(what, each, depth + 1)
        case list():
            for each in value:
                _see(what, each, depth + 1)
