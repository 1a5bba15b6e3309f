"""The differences that were found, and what is proposed."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import NEWEST, Json, typed_row, typed_rows

_OPEN = """
select id, kind, subject, business_id, expected, actual, evidence, repair, found_at
from drifts
where resolved_at is null
order by id
"""

_FIELDS = "id, kind, subject, business_id, expected, actual, evidence, repair, found_at, resolved_at, note"
_DRIFT = f"select {_FIELDS} from drifts where id = %s"  # noqa: S608 - a constant
_LIST = f"""
select {_FIELDS} from drifts
where id < %(before)s and (%(resolved)s::boolean is null or (resolved_at is not null) = %(resolved)s)
  and (%(kind)s::text is null or kind = %(kind)s)
  and (%(business_id)s::bigint is null or business_id = %(business_id)s)
  and (%(since)s::timestamptz is null or found_at >= %(since)s)
  and (%(until)s::timestamptz is null or found_at < %(until)s)
order by id desc limit %(limit)s
"""  # noqa: S608 - as above


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


def list_drifts(
    connection: Connection,
    *,
    resolved: bool | None = None,
    kind: str | None = None,
    business_id: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int = NEWEST,
    limit: int | None = None,
) -> list[KeptDrift]:
    """The newest first, those with ids below ``before``; only open or resolved ones, of a kind, or of a business.

    Those that were found in ``[since, until)``.
    """
    about = {
        "resolved": resolved,
        "kind": kind,
        "business_id": business_id,
        "since": since,
        "until": until,
        "before": before,
        "limit": limit,
    }
    return typed_rows(KeptDrift, connection.exec_driver_sql(_LIST, about))


def read_drift(connection: Connection, drift_id: int) -> KeptDrift | None:
    """One difference; None when there is none of this id."""
    return typed_row(KeptDrift, connection.exec_driver_sql(_DRIFT, (drift_id,)))
