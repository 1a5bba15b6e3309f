"""The calls of a billing period, one by one, for a spreadsheet."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows

_CALLS = """
select sid, number, started_at, ended_at, status, counted, counted_seconds as seconds, counted_minutes as minutes,
       price, price_unit
from calls where usage_record_id = %s
order by ended_at, sid
"""


@dataclass(frozen=True, slots=True)
class PeriodCall:
    """One call as its record counts it: seconds, minutes; ``price`` in Twilio's unit, negative for what it cost."""

    sid: str
    number: str | None
    started_at: datetime | None
    ended_at: datetime | None
    status: str
    counted: bool
    seconds: int
    minutes: int
    price: Decimal | None
    price_unit: str | None


def period_calls(connection: Connection, record_id: int) -> list[PeriodCall]:
    """All calls of a record, also those that it does not count, by their ends."""
    return typed_rows(PeriodCall, connection.exec_driver_sql(_CALLS, (record_id,)))
