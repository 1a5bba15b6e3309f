"""Tables as CSV for spreadsheets, whose cells can't be taken for formulas."""

import csv
import io
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

#: A cell that begins so is a formula to a spreadsheet (owasp.org, "CSV Injection").
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def as_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The rows under the names of their fields, as RFC 4180 has it; instants in ISO 8601, UTC. Nothing for no rows."""
    rows = list(rows)
    if not rows:
        return ""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow([_cell(value) for value in row.values()])
    return written.getvalue()


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    text = "" if value is None else str(value)
    harmless = not isinstance(value, str) or not text.startswith(_FORMULAS)
    return text if harmless else f"'{text}"
