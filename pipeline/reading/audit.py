"""The audit trail, as people read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import NEWEST, Json, typed_rows

_ENTRIES = """
select id, at, who, what, subject, business_id, reason, fields, detail, by_right, request_id
from audit_entries
where (%(business_id)s::bigint is null or business_id = %(business_id)s) and id < %(before)s
  and (%(since)s::timestamptz is null or at >= %(since)s)
  and (%(until)s::timestamptz is null or at < %(until)s)
order by id desc limit %(limit)s
"""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who (``user@host``, pipeline or stripe) decided what, ``at`` an instant of the machine clock, and why."""

    id: int
    at: datetime
    who: str
    what: str
    subject: str
    business_id: int | None
    reason: str | None
    fields: Sequence[str]
    detail: Mapping[str, Json]
    by_right: str | None
    request_id: str | None


def list_entries(
    connection: Connection,
    business_id: int | None,
    limit: int | None,
    before: int = NEWEST,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[AuditEntry]:
    """The newest first, of one business or of all, in ``[since, until)``, those with ids below ``before``."""
    about = {"business_id": business_id, "limit": limit, "before": before, "since": since, "until": until}
    return typed_rows(AuditEntry, connection.exec_driver_sql(_ENTRIES, about))
