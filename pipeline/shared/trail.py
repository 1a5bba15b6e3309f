"""The audit trail: who decided what, when and why. One place that adds to it, and nobody changes it.

Of a person each command that writes is an entry, and of the pipeline itself what somebody may ask about: a business
that was suspended, a period that was closed with gaps, minutes that were written off. No personal values stand in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import Connection

#: Who decides by itself.
PIPELINE = "pipeline"
STRIPE = "stripe"

_ADD = """
insert into audit_entries (who, what, subject, business_id, reason, fields, detail, by_right, request_id)
select e.who, e.what, e.subject, e.business_id, e.reason, coalesce(e.fields, '{}'), coalesce(e.detail, '{}'),
       e.by_right, e.request_id
from jsonb_to_recordset(%(entries)s::jsonb)
     as e(who text, what text, subject text, business_id bigint, reason text, fields text[], detail jsonb,
          by_right text, request_id text)
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision. ``subject`` as ``business:12``; ``fields``: names of what changed; ``detail``: ids and figures.

    ``by_right`` and ``request_id`` are of decisions that came by the API.
    """

    who: str
    what: str
    subject: str
    business_id: int | None = None
    reason: str | None = None
    fields: Sequence[str] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    by_right: str | None = None
    request_id: str | None = None


def note(connection: Connection, *entries: Entry) -> None:
    """Add entries, in the transaction of what they tell of."""
    if entries:
        connection.exec_driver_sql(_ADD, {"entries": orjson.dumps(entries).decode()})
