"""The differences that were found, and what is proposed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import Json, typed_row, typed_rows

_OPEN = """
select id, kind, subject, business_id, expected, actual, evidence, repair, found_at
from drifts
where resolved_at is null
order by id
"""

_DRIFT = """
select id, kind, subject, business_id, expected, actual, evidence, repair, found_at, resolved_at, note
from drifts where id = %s
"""


@dataclass(frozen=True, slots=True)
class Drift:
    """A difference. ``evidence`` is what its kind keeps; ``found_at`` is business time."""

    id: int
    kind: str
    subject: str
    business_id: int | None
    expected: str
    actual: str
    evidence: Mapping[str, Json]
    repair: str
    found_at: datetime


@dataclass(frozen=True, slots=True)
class KeptDrift(Drift):
    """A difference, resolved or not."""

    resolved_at: datetime | None
    note: str | None


def open_drifts(connection: Connection) -> list[Drift]:
    """Those that are not resolved, the oldest first."""
    return typed_rows(Drift, connection.exec_driver_sql(_OPEN))


def read_drift(connection: Connection, drift_id: int) -> KeptDrift | None:
    """One difference; None when there is none of this id."""
    return typed_row(KeptDrift, connection.exec_driver_sql(_DRIFT, (drift_id,)))
