"""What Twilio said about a call: a status callback's form, or the API's Call resource, read into one shape.

Real callbacks miss what the documentation promises (no Timestamp, an empty CallDuration or To, addresses such
as ``client:``), so every field is read with suspicion and nothing here raises.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

import orjson

from pipeline.events.outcomes import EventState, Outcome
from pipeline.providers.twilio_words import TERMINAL, CallStatus, Direction

_STATUSES = frozenset(CallStatus)
_OUTBOUND = frozenset({Direction.OUTBOUND_API, Direction.OUTBOUND_DIAL})
#: Twilio ends a call after 24 hours at the latest; a longer one is a broken figure, to be fetched.
MAX_SECONDS = 24 * 3600 + 60

_SID = re.compile(r"CA[0-9A-Za-z]{1,62}")
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")
#: The parameters of a callback that are read; the others (two thirds, geography) are not worth decoding.
_READ = (
    "AccountSid",
    "CallSid",
    "ParentCallSid",
    "CallStatus",
    "CallDuration",
    "Direction",
    "From",
    "To",
    "Timestamp",
    "SequenceNumber",
    "CallbackSource",
    "DialCallStatus",
    "RecordingStatus",
    "RecordingUrl",
)
#: How they stand in a form, whose names consist of letters: none is encoded where no letter is.
_PAIRS = [(name, f"&{name}=") for name in _READ]
_ENCODED_LETTERS = ("%4", "%5", "%6", "%7")
#: A callback from further ahead than this has a broken Timestamp, not a fast clock.
_MAX_AHEAD = timedelta(days=1)


@dataclass(slots=True)
class CallReport:
    """One report of one call. Times in UTC; ``seconds`` is None where the report does not say."""

    event_id: int
    sid: str
    parent_sid: str | None
    status: str
    direction: str | None
    from_number: str | None
    to_number: str | None
    rank: int
    started_at: datetime
    ended_at: datetime | None
    estimated: bool
    seconds: int | None
    price: Decimal | None = None
    price_unit: str | None = None
    from_api: bool = False

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def number(self) -> str | None:
        """The number of ours that was called, or that calls; None where an address stands that is no number."""
        direction = self.direction
        if direction == Direction.INBOUND or (direction == Direction.TRUNKING_ORIGINATING and self.from_api):
            ours = self.to_number
        elif direction in _OUTBOUND or (direction == Direction.TRUNKING_TERMINATING and self.from_api):
            ours = self.from_number
        else:  # what a trunk's callback names may be its own address: the API knows
            return None
        return ours if ours is not None and _E164.fullmatch(ours) else None

    @property
    def content(self) -> tuple[object, ...]:
        """What two reports of equal rank must agree on, or the call is fetched."""
        return (self.status, self.seconds, None if self.estimated else self.ended_at)


def report_rank(*, terminal: bool, from_api: bool, order: int) -> int:
    """The order of reports of a call: terminal ones first, the API over callbacks, then the later one.

    ``order`` is a callback's sequence number, or the instant of a fetch in microseconds. The sequence number alone
    can't order: real callbacks lack or repeat it, and `completed` may carry 0 after an `in-progress` with 2.
    """
    return (terminal << 61) | (from_api << 60) | max(0, min(order, (1 << 60) - 1))


def decode_report(
    event_id: int, key: str, content_type: str, body: bytes, received_at: datetime, account_sid: str
) -> CallReport | Outcome:
    """Read one stored Twilio event; an Outcome where it can't or needn't be applied."""
    if content_type.startswith("application/json"):
        return _decode_json(event_id, key, body, received_at, account_sid)
    try:
        params = _params(body)
    except ValueError:
        return Outcome(event_id, EventState.DEAD, "unreadable")
    return _from_callback(event_id, params, received_at, account_sid)


def _params(body: bytes) -> dict[str, str]:
    """The parameters of a form that matter here, as ``parse_qsl`` reads them; of a repeated one the last."""
    text = "&" + body.decode()
    # An encoded letter may stand in a name, and a name may stand alone: neither is found below.
    if text.count("&") != text.count("=") or any(letter in text for letter in _ENCODED_LETTERS):
        return dict(parse_qsl(text, keep_blank_values=True))
    params = {}
    for name, pair in _PAIRS:
        found = text.rfind(pair)
        if found >= 0:
            start = found + len(pair)
            end = text.find("&", start)
            value = text[start:end] if end >= 0 else text[start:]
            params[name] = unquote_plus(value) if "%" in value or "+" in value else value
    return params


def _decode_json(event_id: int, key: str, body: bytes, received_at: datetime, account_sid: str) -> CallReport | Outcome:
    try:
        document = orjson.loads(body)
    except ValueError:
        return Outcome(event_id, EventState.DEAD, "unreadable")
    if not isinstance(document, dict):
        return Outcome(event_id, EventState.IGNORED, "not-a-call-status")
    if ":api:" in key:  # the API's Call resource, stored by our own fetch or listing; no webhook has such a key
        return _from_api(event_id, key, document, received_at, account_sid)
    params = {name: value for name, value in document.items() if isinstance(value, str)}
    return _from_callback(event_id, params, received_at, account_sid)


def _from_callback(
    event_id: int, params: dict[str, str], received_at: datetime, account_sid: str
) -> CallReport | Outcome:
    if params.get("AccountSid", account_sid) != account_sid:
        return Outcome(event_id, EventState.DEAD, "foreign-account")
    if _is_something_else(params):
        return Outcome(event_id, EventState.IGNORED, "not-a-call-status")
    status = params["CallStatus"]
    if status not in _STATUSES:
        return Outcome(event_id, EventState.DEAD, "unknown-status")
    sid = params.get("CallSid", "")
    if not _SID.fullmatch(sid):
        return Outcome(event_id, EventState.DEAD, "bad-call-sid")
    terminal = status in TERMINAL
    seconds = _whole(params.get("CallDuration")) if terminal else None
    stated = _instant(params.get("Timestamp"), received_at)
    at = stated or received_at
    return CallReport(
        event_id=event_id,
        sid=sid,
        parent_sid=_sid_or_none(params.get("ParentCallSid")),
        status=status,
        direction=_clean(params.get("Direction")),
        from_number=_clean(params.get("From")),
        to_number=_clean(params.get("To")),
        rank=report_rank(terminal=terminal, from_api=False, order=_whole(params.get("SequenceNumber")) or 0),
        started_at=at - timedelta(seconds=seconds or 0),
        ended_at=at if terminal else None,
        estimated=terminal and stated is None,
        seconds=seconds,
    )


def _is_something_else(params: dict[str, str]) -> bool:
    """Whether this is another of Twilio's requests sent to this address by a wrong setting.

    Answering-machine detection carries no CallStatus; <Dial action> a DialCallStatus; recording callbacks a
    RecordingStatus; <Record action> a RecordingUrl but neither CallDuration nor CallbackSource.
    """
    return (
        "CallStatus" not in params
        or "DialCallStatus" in params
        or "RecordingStatus" in params
        or ("RecordingUrl" in params and "CallDuration" not in params and "CallbackSource" not in params)
    )


def _from_api(
    event_id: int, key: str, call: dict[str, Any], received_at: datetime, account_sid: str
) -> CallReport | Outcome:
    if call.get("account_sid", account_sid) != account_sid:
        return Outcome(event_id, EventState.DEAD, "foreign-account")
    status, sid = call.get("status"), call.get("sid")
    if not isinstance(status, str) or status not in _STATUSES:
        return Outcome(event_id, EventState.DEAD, "unknown-status")
    if not isinstance(sid, str) or not _SID.fullmatch(sid):
        return Outcome(event_id, EventState.DEAD, "bad-call-sid")
    terminal = status in TERMINAL
    seconds = _whole(call.get("duration")) if terminal else None
    started = _instant(call.get("start_time"), received_at) or _instant(call.get("date_created"), received_at)
    ended = _instant(call.get("end_time"), received_at) if terminal else None
    estimated = terminal and ended is None
    if estimated:
        ended = started + timedelta(seconds=seconds) if started and seconds is not None else received_at
    price = _price(call.get("price"))
    return CallReport(
        event_id=event_id,
        sid=sid,
        parent_sid=_sid_or_none(call.get("parent_call_sid")),
        status=status,
        direction=_clean(call.get("direction")),
        from_number=_clean(call.get("from")),
        to_number=_clean(call.get("to")),
        rank=report_rank(terminal=terminal, from_api=True, order=_whole(key.rpartition(":")[2], limit=1 << 60) or 0),
        started_at=started or (ended or received_at) - timedelta(seconds=seconds or 0),
        ended_at=ended,
        estimated=estimated,
        seconds=seconds,
        price=price,
        price_unit=(_clean(call.get("price_unit")) or "USD") if price is not None else None,
        from_api=True,
    )


def _clean(value: object) -> str | None:
    """A short text without NUL, which PostgreSQL's text refuses; None for nothing."""
    if not isinstance(value, str):
        return None
    return value.replace("\x00", "")[:200] or None


def _sid_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and _SID.fullmatch(value) else None


def _whole(value: object, limit: int = MAX_SECONDS) -> int | None:
    """A whole number from 0 to ``limit``, else None."""
    text = str(value) if isinstance(value, int) else value
    if not isinstance(text, str) or not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    number = int(text)
    return number if number <= limit else None


def _price(value: object) -> Decimal | None:
    """What Twilio charged: it states a negative amount, we keep it positive."""
    if not isinstance(value, str):
        return None
    try:
        price = Decimal(value)
    except InvalidOperation:
        return None
    return abs(price) if price.is_finite() and abs(price) < 100_000 else None


def _instant(value: object, received_at: datetime) -> datetime | None:
    """An RFC 2822 date in UTC; None where it is missing, unreadable, without an offset or far ahead."""
    if not isinstance(value, str):
        return None
    try:
        instant = parsedate_to_datetime(value)
        if instant.tzinfo is None or instant - received_at > _MAX_AHEAD:
            return None
        return instant.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
