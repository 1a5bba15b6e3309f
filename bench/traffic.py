"""The traffic of the bench: businesses, calls, the callbacks that tell of them, and what they add up to.

No rule of the pipeline is used here: minutes and periods are worked out again, from what is sent.
"""

import base64
import hashlib
import hmac
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

ACCOUNT = "AC" + "0" * 32
TOKEN = "0123456789abcdef0123456789abcdef"
STRIPE_SECRET = "whsec_bench"
#: What the receiver believes that the outside calls it; the requests go to its port on loopback.
PUBLIC_URL = "https://billing.example.com"
STRIPE_PATH = "/webhooks/stripe"
TWILIO_PATH = "/webhooks/twilio/voice"
FORM = "application/x-www-form-urlencoded"

#: Calls lie so far back, so that every business has them in two or three periods.
_SPREAD = timedelta(days=40)
_ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Tokyo")
#: Of twenty calls, so many are completed; the others are busy or not answered.
_STATUSES = ("completed",) * 18 + ("busy", "no-answer")


@dataclass(frozen=True)
class Business:
    """A business with one number; on Free by calendar months of its zone, else by a subscription's months."""

    name: str
    number: str
    plan: str
    time_zone: str
    day: int
    """On which day of the month its periods begin."""

    @property
    def paid(self) -> bool:
        return self.plan != "free"

    def period_start(self, instant: datetime) -> datetime:
        """When the period that ``instant`` falls into began."""
        local = instant.astimezone(UTC if self.paid else ZoneInfo(self.time_zone))
        start = local.replace(day=self.day, hour=9 if self.paid else 0, minute=0, second=0, microsecond=0)
        if start > local:
            start = start.replace(year=local.year - (local.month == 1), month=(local.month - 2) % 12 + 1)
        return start.astimezone(UTC)


@dataclass(frozen=True)
class Call:
    sid: str
    business: Business
    status: str
    seconds: int
    ended_at: datetime

    @property
    def counted(self) -> bool:
        return self.status == "completed"

    @property
    def minutes(self) -> int:
        return -(-self.seconds // 60) if self.counted else 0

    @property
    def callback(self) -> dict[str, str]:
        """The parameters of Twilio's status callback at the end of this call."""
        caller, number = "+17345550907", self.business.number
        return {
            "AccountSid": ACCOUNT,
            "ApiVersion": "2010-04-01",
            "CallDuration": str(self.seconds),
            "CallSid": self.sid,
            "CallStatus": self.status,
            "CallbackSource": "call-progress-events",
            "Called": number,
            "CalledCity": "",
            "CalledCountry": "US",
            "CalledState": "TX",
            "CalledZip": "",
            "Caller": caller,
            "CallerCity": "WAYNE",
            "CallerCountry": "US",
            "CallerState": "MI",
            "CallerZip": "48185",
            "Direction": "inbound",
            "Duration": str(-(-self.seconds // 60)),
            "From": caller,
            "FromCity": "WAYNE",
            "FromCountry": "US",
            "FromState": "MI",
            "FromZip": "48185",
            "SequenceNumber": "0",
            "Timestamp": format_datetime(self.ended_at),
            "To": number,
            "ToCity": "",
            "ToCountry": "US",
            "ToState": "TX",
            "ToZip": "",
        }

    @property
    def body(self) -> bytes:
        return urlencode(self.callback).encode()


def businesses(count: int) -> list[Business]:
    """Every other one pays, and has its own day of the month."""
    return [
        Business(
            name=f"Business {index}",
            number=f"+1666{index:07d}",
            plan="starter" if index % 2 else "free",
            time_zone=_ZONES[index // 2 % len(_ZONES)],
            day=1 + index % 28 if index % 2 else 1,
        )
        for index in range(count)
    ]


def calls(of: Sequence[Business], count: int, now: datetime, *, seed: int = 1, busiest: int = 1) -> list[Call]:
    """So many calls that ended before ``now``. The first business has ``busiest`` times the traffic of each other."""
    chance = random.Random(seed)
    weights = [busiest] + [1] * (len(of) - 1)
    made = []
    for business in chance.choices(of, weights, k=count):
        status = chance.choice(_STATUSES)
        # To the second, as Twilio writes it.
        ended_at = (now - chance.random() * _SPREAD).replace(microsecond=0)
        seconds = chance.randrange(600) if status == "completed" else 0
        made.append(Call(f"CA{chance.getrandbits(128):032x}", business, status, seconds, ended_at))
    return made


def twilio_request(call: Call) -> bytes:
    """Twilio's signed HTTP request."""
    params = call.callback
    signed = PUBLIC_URL + TWILIO_PATH + "".join(name + value for name, value in sorted(params.items()))
    signature = base64.b64encode(hmac.digest(TOKEN.encode(), signed.encode(), "sha1")).decode()
    return _request(TWILIO_PATH, FORM, f"X-Twilio-Signature: {signature}", urlencode(params).encode())


def stripe_request(number: int, now: datetime) -> bytes:
    """Stripe's signed HTTP request, about a customer that changed; ``now`` is when it is signed, machine time."""
    customer = {
        "id": f"cus_{number:014d}",
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": int(now.timestamp()) - 86_400,
        "currency": "usd",
        "default_source": None,
        "delinquent": False,
        "description": None,
        "email": f"owner{number}@business.example",
        "invoice_prefix": "3B7C9A11",
        "invoice_settings": {"custom_fields": None, "default_payment_method": None, "footer": None},
        "livemode": False,
        "metadata": {"business_id": str(number)},
        "name": f"Business {number}",
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": ["en"],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": None,
    }
    event = {
        "id": f"evt_{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:24]}",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": int(now.timestamp()),
        "data": {"object": customer, "previous_attributes": {"metadata": {"business_id": None}}},
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": f"req_{number:014d}", "idempotency_key": None},
        "type": "customer.updated",
    }
    body = json.dumps(event, indent=2).encode()
    instant = int(now.timestamp())
    digest = hmac.new(STRIPE_SECRET.encode(), b"%d." % instant + body, "sha256").hexdigest()
    return _request(STRIPE_PATH, "application/json", f"Stripe-Signature: t={instant},v1={digest}", body)


def _request(path: str, content_type: str, signature: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: billing.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{signature}\r\n\r\n"
    )
    return head.encode() + body
