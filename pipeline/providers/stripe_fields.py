"""Reading fields of Stripe's objects with suspicion: what is missing or odd is None, and nothing raises.

Objects come in the shapes of all API versions from 2020 on, from webhooks and from fetches.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

#: Ids are ASCII without blanks; those of old plans were chosen by people.
_IDENTIFIER = re.compile(r"[\x21-\x7e]{1,255}")
_WORD = re.compile(r"[a-z_]{1,64}")
#: PostgreSQL's bigint.
_LARGEST = 2**63 - 1
#: Seconds since the epoch until the year 2286.
_LATEST = 9_999_999_999


def below(value: Any, *names: str) -> Any:
    """What stands at this path of nested objects, or None."""
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def identifier(value: Any) -> str | None:
    """An id; of an object that is expanded where an id could stand, its id."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None


def word(value: Any) -> str | None:
    """One of Stripe's own words, such as a status; the lists of them are never complete."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def unix_instant(value: Any) -> datetime | None:
    """Seconds since the epoch as UTC."""
    seconds = whole(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None and 0 <= seconds <= _LATEST else None


def whole(value: Any) -> int | None:
    """A whole number, also one written as a string or a decimal (``"42"``, ``"42.0"``), that fits a bigint."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}(\.0{1,20})?", value, re.ASCII):
        value = int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -_LARGEST <= value <= _LARGEST else None


def rows(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list as the API shows one (``{"object": "list", "data": […]}``)."""
    data = below(value, "data")
    if isinstance(data, list):
        yield from (row for row in data if isinstance(row, Mapping))


def has_more(value: Any) -> bool:
    """Whether a list goes on beyond what is shown of it."""
    return below(value, "has_more") is True


def named_business(holder: Any) -> int | None:
    """The business that an object names in ``metadata.business_id``, unchecked."""
    return whole(below(holder, "metadata", "business_id"))
