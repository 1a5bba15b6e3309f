"""Twilio's Usage Records: what it counted and charged for calls, by GMT day of their start.

Each call is rounded up to whole minutes on its own; what did not complete costs nothing and is not counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from sandbox.twilio.calls import API_VERSION, TwilioCall, started_minutes

#: The categories that calls fall into, each with the directions that it counts.
CATEGORIES = {
    "calls": frozenset({"inbound", "outbound-api", "outbound-dial"}),
    "calls-inbound": frozenset({"inbound"}),
    "calls-outbound": frozenset({"outbound-api", "outbound-dial"}),
}
DESCRIPTIONS = {"calls": "Voice Minutes", "calls-inbound": "Inbound Voice", "calls-outbound": "Outbound Voice"}


@dataclass(slots=True)
class UsageDay:
    """What one category came to on one GMT day."""

    category: str
    day: date
    calls: int = 0
    minutes: int = 0
    price: Decimal = field(default_factory=Decimal)

    @property
    def sid(self) -> str:
        """What a page's token names: usage records have no SID of their own."""
        return f"{self.category}{self.day:%Y%m%d}"

    def shown(self, account_sid: str, now: datetime) -> dict[str, object]:
        """The record as the API shows it: figures are strings."""
        day = self.day.isoformat()
        uri = f"/{API_VERSION}/Accounts/{account_sid}/Usage/Records/Daily"
        return {
            "account_sid": account_sid,
            "api_version": API_VERSION,
            "as_of": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S+00:00"),
            "category": self.category,
            "count": str(self.calls),
            "count_unit": "calls",
            "description": DESCRIPTIONS[self.category],
            "end_date": day,
            "price": str(self.price),
            "price_unit": "usd",
            "start_date": day,
            "subresource_uris": {"daily": f"{uri}.json?Category={self.category}"},
            "uri": f"{uri}.json?Category={self.category}&StartDate={day}&EndDate={day}",
            "usage": str(self.minutes),
            "usage_unit": "minutes",
        }


def usage_days(
    calls: Iterable[TwilioCall], categories: Iterable[str], first: date, last: date, now: datetime
) -> list[UsageDay]:
    """The records of these categories from ``first`` to ``last``, the latest day first; days to come have none."""
    last = min(last, now.astimezone(UTC).date())
    days = [last - timedelta(days=number) for number in range((last - first).days + 1)]
    found = {(category, day): UsageDay(category, day) for category in categories for day in days}
    for call in calls:
        if call.status_at(now) != "completed":
            continue
        for category, directions in CATEGORIES.items():
            record = found.get((category, call.start.astimezone(UTC).date()))
            if record is not None and call.direction in directions:
                record.calls += 1
                record.minutes += started_minutes(call.seconds)
                record.price += -(call.price_at(now) or Decimal(0))
    return list(found.values())
