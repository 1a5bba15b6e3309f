"""Receiving a webhook, without any web framework: check it, store it, say what to answer.

``receive`` is all that another web application needs: it hands over the raw request, and answers what it gets
back. Nothing is parsed before the signature is known to be right, but for the form that Twilio signs.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import repeat
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

import orjson
from pydantic import SecretStr

from pipeline.events.outcomes import EventState
from pipeline.providers.twilio_words import CallStatus
from pipeline.providers.webhook_signatures import SignatureError, verify_stripe_signature, verify_twilio_signature
from pipeline.shared.clock import machine_now
from pipeline.shared.settings import PublicSettings, StripeWebhookSettings, TwilioSettings
from receiver.store import Event, NotStoredError, Store

#: The path that Twilio calls; it signs it together with PUBLIC_URL.
TWILIO_PATH = "/webhooks/twilio/voice"

_LONGEST_KEY = 300
_LONGEST_TYPE = 100
_MOST_PARAMETERS = 500
_STATUSES = frozenset(CallStatus)
_SID = re.compile(r"CA[0-9A-Za-z]{1,62}")
_SEQUENCE = re.compile(r"[0-9]{1,9}")
#: An encoded equals sign, or the NUL that ``parse_form`` separates by.
_OWN_SEPARATORS = re.compile("%3D|%00", re.IGNORECASE)


class Answer(NamedTuple):
    """What to answer: the status, and words for whoever reads the sender's log (none after a 200)."""

    status: int
    words: str


class Webhook(Protocol):
    """One address that somebody sends webhooks to."""

    limit: int
    """Bytes of the longest body."""
    content_types: frozenset[str]
    signature: str
    """The header without which nothing is taken."""

    def read(self, headers: Mapping[str, str], query: str, body: bytes, now: datetime) -> Event:
        """The event to store. Raises SignatureError."""


def refusal(webhook: Webhook, headers: Mapping[str, str], size: int) -> Answer | None:
    """Why a request is refused by its headers and the size of its body, if it is. Names of headers in lower case."""
    if _content_type(headers) not in webhook.content_types:
        return Answer(415, f"send {' or '.join(sorted(webhook.content_types))}")
    if size > webhook.limit:
        return Answer(413, f"a body here has at most {webhook.limit} bytes")
    if webhook.signature not in headers:
        return Answer(403, f"{webhook.signature} is missing")
    return None


async def receive(
    webhook: Webhook, store: Store, headers: Mapping[str, str], query: str, body: bytes, now: datetime
) -> Answer:
    """Check and store one request; returns what to answer, and 200 only after the commit.

    ``headers`` with names in lower case, ``query`` as it stands in the address, without the question mark, ``body``
    as it came; ``now`` is business time.
    """
    refused = refusal(webhook, headers, len(body))
    if refused is not None:
        return refused
    try:
        await store.put(webhook.read(headers, query, body, now))
    except SignatureError as error:
        return Answer(403, str(error))
    except NotStoredError as error:
        return Answer(503, f"not stored, send it again: {error}")
    return Answer(200, "")


@dataclass(frozen=True)
class StripeWebhook:
    """Stripe's events, snapshots and thin ones alike."""

    secrets: Sequence[SecretStr]

    #: Events are some kB; an invoice's with all its lines can reach hundreds.
    limit = 1_000_000
    content_types = frozenset({"application/json"})
    signature = "stripe-signature"

    @classmethod
    def from_settings(cls, settings: StripeWebhookSettings) -> "StripeWebhook":
        return cls(settings.stripe_webhook_secret)

    def read(self, headers: Mapping[str, str], query: str, body: bytes, now: datetime) -> Event:  # noqa: ARG002 - Stripe signs the body alone
        """The event under Stripe's own id; what can't be read is stored too, as dead: Stripe did send it."""
        verify_stripe_signature(body, headers.get(self.signature), self.secrets, machine_now().timestamp())
        try:
            document = orjson.loads(body)
        except ValueError:
            document = None
        content_type = _content_type(headers)
        if not isinstance(document, dict) or not isinstance(document.get("id"), str) or not document["id"]:
            return Event("stripe", _digest(body), None, EventState.DEAD, "unreadable", now, content_type, body)
        key = _fitting(document["id"], _LONGEST_KEY)
        kind = document.get("type")
        kind = _fitting(kind, _LONGEST_TYPE) if isinstance(kind, str) else None
        return Event("stripe", key, kind, EventState.PENDING, None, now, content_type, body)


@dataclass(frozen=True)
class TwilioWebhook:
    """Twilio's callbacks about calls, which it signs together with the address that it called."""

    url: str
    tokens: Sequence[SecretStr]

    #: A callback has some forty short parameters, about 1 kB.
    limit = 64_000
    content_types = frozenset({"application/x-www-form-urlencoded", "application/json"})
    signature = "x-twilio-signature"

    @classmethod
    def from_settings(cls, public: PublicSettings, twilio: TwilioSettings) -> "TwilioWebhook":
        """The address is PUBLIC_URL's and not the request's: behind a proxy the request names another one."""
        return cls(public.public_url + TWILIO_PATH, twilio.twilio_auth_token)

    def read(self, headers: Mapping[str, str], query: str, body: bytes, now: datetime) -> Event:
        """The event under a key made of call, status, sequence and content, whether it is a form or JSON (87).

        Callbacks have no id, and sequence numbers are missing or repeated; what differs in anything is an event of its
        own, since a false duplicate would lose a call and a false new one costs a row.
        """
        content_type = _content_type(headers)
        form: Sequence[tuple[str, str]] = ()
        if content_type != "application/json":
            try:
                form = parse_form(body)
            except ValueError as error:
                raise SignatureError("the form can't be read, so its signature can't be checked") from error
        verify_twilio_signature(
            f"{self.url}?{query}" if query else self.url,
            form,
            body,
            signature=headers.get(self.signature),
            signature_settings=headers.get("x-twilio-webhooks-signature-settings"),
            tokens=self.tokens,
        )
        if form:
            return _of_call(dict(form), _content_of(form), body, content_type, now)
        digest = hashlib.sha256(body).hexdigest()
        try:
            document = orjson.loads(body)
        except ValueError:
            return Event("twilio", f"body:{digest}", None, EventState.DEAD, "unreadable", now, content_type, body)
        fields = document.items() if isinstance(document, dict) else ()
        params = {name: value for name, value in fields if isinstance(value, str)}
        return _of_call(params, digest, body, content_type, now)


def _of_call(params: Mapping[str, str], content: str, body: bytes, content_type: str, now: datetime) -> Event:
    """A callback under its call's SID, whose events are found by it; under its content where it names none."""
    sid, status, sequence = (params.get(name, "") for name in ("CallSid", "CallStatus", "SequenceNumber"))
    kind = _fitting(f"call.{status}", _LONGEST_TYPE) if status else None
    key = f"body:{content}"
    if _SID.fullmatch(sid):  # what else stands in it must not look like a part of a key
        known = status if status in _STATUSES else ""
        key = f"{sid}:{known}:{sequence if _SEQUENCE.fullmatch(sequence) else ''}:{content[:16]}"
    return Event("twilio", key, kind, EventState.PENDING, None, now, content_type, body)


def _content_of(form: Sequence[tuple[str, str]]) -> str:
    """The digest of what Twilio's signature covers: the same however it was encoded, ordered or repeated (88)."""
    pairs = sorted({f"{name}\0{value}" for name, value in form})
    return hashlib.sha256("\0\0".join(pairs).encode()).hexdigest()


def parse_form(body: bytes) -> list[tuple[str, str]]:
    """The parameters of a form, blank and repeated ones too. Raises ValueError when it is none, or has too many."""
    text = body.decode()
    if "\0" in text or _OWN_SEPARATORS.search(text):
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    # The same in a quarter of the time: decoded in one go, which is safe while no separator is in disguise.
    encoded = body.replace(b"+", b" ").replace(b"&", b"\0")
    parts = unquote_to_bytes(encoded).decode(errors="replace").split("\0")
    if len(parts) > _MOST_PARAMETERS:
        raise ValueError(f"{len(parts)} parameters, {_MOST_PARAMETERS} are allowed")
    return [(name, value) for name, equals, value in map(str.partition, parts, repeat("=")) if name or equals]


def _content_type(headers: Mapping[str, str]) -> str:
    return _media_type(headers.get("content-type", ""))


@lru_cache(maxsize=16)
def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _fitting(text: str, longest: int) -> str:
    """The text, or its digest where it is too long or PostgreSQL's type text can't hold it."""
    return text if len(text) <= longest and "\0" not in text else _digest(text.encode())
