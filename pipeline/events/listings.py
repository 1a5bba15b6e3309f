"""How far Twilio's lists have been read: nothing that ended before is missing any more."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the receiver takes the SQL from here, and does without SQLAlchemy
    from sqlalchemy import Connection

_LISTED_UNTIL = "select listed_until from listings where source = %s"

_NOTE = """
insert into listings (source, listed_until) values (%(source)s, %(until)s)
on conflict (source) do update
set listed_until = greatest(listings.listed_until, excluded.listed_until), listed_at = now()
"""


class Listing(StrEnum):
    """What is listed."""

    CALLS = "twilio-calls"
    """Calls that ended since the last time, several times an hour."""
    CALLS_DAILY = "twilio-calls-daily"
    """The same once a day and two days back: prices that came late, corrections."""
    DAYS = "twilio-days"
    """Twilio's totals of whole GMT days."""


def listed_until(connection: "Connection", listing: Listing) -> datetime | None:
    """Up to when, in business time; None when it was never listed."""
    until: datetime | None = connection.exec_driver_sql(_LISTED_UNTIL, (listing,)).scalar()
    return until


def note_listed(connection: "Connection", listing: Listing, until: datetime) -> None:
    """Everything up to ``until`` is stored; never goes back."""
    connection.exec_driver_sql(_NOTE, {"source": listing, "until": until})
