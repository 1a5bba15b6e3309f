"""JSON that people give us to keep: whether it can be stored, and how large it is."""

from collections.abc import Mapping
from typing import Any

import orjson


class DocumentError(Exception):
    """A document that can't be kept; the words say why."""


def stored_document(what: str, document: Mapping[str, Any], most_bytes: int) -> str:
    """Its JSON, for a column of jsonb. Raises DocumentError."""
    try:
        content = orjson.dumps(document)
    except TypeError as error:  # an integer beyond 64 bits, half a character
        raise DocumentError(f"{what} holds something that is no JSON of ours: {error}") from error
    if b"\\u0000" in content:
        raise DocumentError(f"{what} holds a NUL character")
    if len(content) > most_bytes:
        raise DocumentError(f"{what} may have {most_bytes:,} bytes as JSON, and has {len(content):,}")
    return content.decode()
