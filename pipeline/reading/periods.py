"""The billing periods of a business, by their bounds: what a period that somebody names is looked up in."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows

_PERIODS = """
select r.id, r.period_start as start, r.period_end as end, r.state, b.time_zone
from usage_records r join businesses b on b.id = r.business_id
where r.business_id = %s
order by r.period_start
"""


@dataclass(frozen=True, slots=True)
class BillingPeriod:
    """A usage record's id, bounds (UTC, half-open) and state, with the business's time zone."""

    id: int
    start: datetime
    end: datetime
    state: str
    time_zone: str


def list_periods(connection: Connection, business_id: int) -> list[BillingPeriod]:
    """All periods of a business, from the first on."""
    return typed_rows(BillingPeriod, connection.exec_driver_sql(_PERIODS, (business_id,)))
