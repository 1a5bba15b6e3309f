"""Tables as CSV for spreadsheets, whose cells can't be taken for formulas."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

#: A cell that begins so is a formula to a spreadsheet (owasp.org, "CSV Injection").
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n")
#: A phone number begins so too, and works out to itself.
_NUMBER = re.compile(r"\+[0-9]{1,20}")


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows under the names of their fields, as RFC 4180 has it; instants in ISO 8601, UTC. Nothing for no rows."""
    rows = list(rows)
    return csv_lines([list(rows[0]), *(row.values() for row in rows)]) if rows else ""


def csv_lines(rows: Iterable[Iterable[Any]]) -> str:
    """Some lines of such a table."""
    written = io.StringIO()
    csv.writer(written).writerows([_cell(value) for value in row] for row in rows)
    return written.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = "" if value is None else str(value)
    harmless = not isinstance(value, str) or not text.startswith(_FORMULAS) or _NUMBER.fullmatch(text)
    return text if harmless else f"'{text}"
