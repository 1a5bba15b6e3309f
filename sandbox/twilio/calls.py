"""What Twilio shows of a call: the Call resource of its API, and the status callbacks.

A call is planned whole (when it starts, how long it lasts, how it ends); what is shown of it depends on the time
at which somebody looks. Everything here is Twilio's: seconds as they were, its own rounding in `Duration` and in
the price, and no rule of ours.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime

API_VERSION = "2010-04-01"

#: From the creation of a call to its start.
RINGING = timedelta(seconds=5)

#: Twilio ends a call after a day at the latest.
LONGEST_SECONDS = 24 * 60 * 60

FINAL_STATUSES = frozenset({"completed", "busy", "no-answer", "failed", "canceled"})
DIRECTIONS = frozenset({"inbound", "outbound-api", "outbound-dial"})

PRICE_PER_MINUTE = {
    "inbound": Decimal("0.00850"),
    "outbound-api": Decimal("0.01400"),
    "outbound-dial": Decimal("0.01400"),
}

#: Where callers are, by the last digit of their number; most numbers tell nothing, and the fields come blank.
PLACES = {
    "1": {"City": "PHOENIX", "State": "AZ", "Zip": "85012", "Country": "US"},
    "2": {"City": "WAYNE", "State": "MI", "Zip": "48185", "Country": "US"},
    "3": {"City": "São Paulo", "State": "SP", "Zip": "", "Country": "BR"},
    "4": {"City": "NEW YORK", "State": "NY", "Zip": "10004", "Country": "US"},
}
NOWHERE = {"City": "", "State": "", "Zip": "", "Country": "US"}


@dataclass(slots=True)
class TwilioCall:
    """One call leg. ``number`` is the account's own number on it; ``seconds`` is how long people talked."""

    sid: str
    account_sid: str
    number: str
    from_: str
    to: str
    direction: str
    start: datetime
    end: datetime
    seconds: int
    status: str
    parent_sid: str | None
    priced_at: datetime
    #: Callback parameters that are missing from this call's callbacks, as some are in real ones.
    without: frozenset[str] = frozenset()
    #: When Twilio itself learns of the call: until then its API doesn't show it, and no callback is sent.
    shown_from: datetime | None = None
    #: What became of the final callback: none asked for, pending, delivered or lost.
    callback: str = "none"

    def status_at(self, now: datetime) -> str:
        """The status that the API shows at ``now``; the API has no status ``initiated``."""
        if now >= self.end:
            return self.status
        return "ringing" if now < self.start else "in-progress"

    def price_at(self, now: datetime) -> Decimal | None:
        """The price, negative, for every started minute; None until it is known, and for a call that never was."""
        if self.status != "completed" or now < self.priced_at:
            return None
        return -PRICE_PER_MINUTE[self.direction] * started_minutes(self.seconds)

    def resource(self, now: datetime, phone_number_sid: str | None) -> dict[str, object]:
        """The Call resource as the API shows it at ``now``."""
        status = self.status_at(now)
        price = self.price_at(now)
        uri = f"/{API_VERSION}/Accounts/{self.account_sid}/Calls/{self.sid}"
        ended = status in FINAL_STATUSES
        duration = None
        if ended:
            duration = str(self.seconds) if status == "completed" else ""
        return {
            "sid": self.sid,
            "date_created": format_datetime(self.start - RINGING),
            "date_updated": format_datetime(min(now, self.priced_at if price is not None else self.end)),
            "parent_call_sid": self.parent_sid,
            "account_sid": self.account_sid,
            "to": self.to,
            "to_formatted": self.to,
            "from": self.from_,
            "from_formatted": self.from_,
            "phone_number_sid": phone_number_sid,
            "status": status,
            "start_time": format_datetime(self.start) if now >= self.start else None,
            "end_time": format_datetime(self.end) if ended and status == "completed" else None,
            "duration": duration,
            "price": None if price is None else str(price),
            "price_unit": "USD",
            "direction": self.direction,
            "answered_by": None,
            "annotation": None,
            "api_version": API_VERSION,
            "forwarded_from": None,
            "group_sid": None,
            "caller_name": None,
            "queue_time": "0",
            "trunk_sid": None,
            "uri": f"{uri}.json",
            "subresource_uris": {"recordings": f"{uri}/Recordings.json", "events": f"{uri}/Events.json"},
        }

    def callback_params(self, status: str, at: datetime, sequence: int) -> dict[str, str]:
        """The form of a status callback."""
        params = {
            "AccountSid": self.account_sid,
            "ApiVersion": API_VERSION,
            "CallbackSource": "call-progress-events",
            "CallSid": self.sid,
            "CallStatus": status,
            "Called": self.to,
            "Caller": self.from_,
            "Direction": self.direction,
            "From": self.from_,
            "SequenceNumber": str(sequence),
            "Timestamp": format_datetime(at),
            "To": self.to,
        }
        for side, other_end in (("Called", self.to), ("To", self.to), ("Caller", self.from_), ("From", self.from_)):
            place = PLACES.get(other_end[-1:], NOWHERE) if other_end != self.number else NOWHERE
            params |= {f"{side}{part}": value for part, value in place.items()}
        if self.parent_sid is not None:
            params["ParentCallSid"] = self.parent_sid
        if status in FINAL_STATUSES:
            params["CallDuration"] = str(self.seconds)
            params["Duration"] = str(started_minutes(self.seconds))
        if status == "busy":
            params["SipResponseCode"] = "486"
        return {name: value for name, value in params.items() if name not in self.without}


def started_minutes(seconds: int) -> int:
    """Twilio's own rounding: `Duration` in callbacks and the price count every minute that was begun."""
    return -(-seconds // 60)
