"""One webhook on its way: how it is signed, and what its sender does when it is not answered 2xx.

Stripe repeats an event, each time with a new timestamp and signature. Twilio repeats a callback only when no
connection could be opened, once; one that was answered with an error, or not in time, is lost for ever.
Signatures carry the machine's time, never the simulated one.
"""

import hashlib
import hmac
import time
import uuid
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Protocol
from urllib.parse import quote_plus, urlsplit

from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # twilio publishes no types

from sandbox.line import Line, NoAnswerError, NotConnectedError

STRIPE_PATH = "/webhooks/stripe"

#: Stripe goes on for three days; here it gives up after so many attempts, about 20 s.
STRIPE_ATTEMPTS = 10
STRIPE_FIRST_DELAY, STRIPE_LONGEST_DELAY = 0.2, 3.0
STRIPE_TIMEOUT = 10.0

#: Twilio waits at most this long for the answer to a voice webhook.
TWILIO_TIMEOUT = 15.0


#: A form's names and most of its values are the same in every callback, and quoting costs more than signing.
_quoted = lru_cache(maxsize=10_000)(quote_plus)


class Webhook(Protocol):
    """What the senders of a Delivery need to know of a webhook."""

    async def send(self, line: Line) -> float | None:
        """Try once; returns after how many seconds to try again, or None when this copy is done with."""


class StripeWebhook:
    """One copy of a Stripe event; ``delivered`` is called when it is answered 2xx."""

    def __init__(self, body: bytes, secret: bytes, counts: Counter[str], delivered: Callable[[], None]) -> None:
        self._body = body
        self._secret = secret
        self._counts = counts
        self._delivered = delivered
        self._attempts = 0

    async def send(self, line: Line) -> float | None:
        self._attempts += 1
        now = int(time.time())
        signature = hmac.new(self._secret, b"%d.%b" % (now, self._body), hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": f"t={now},v1={signature}",
        }
        try:
            accepted = 200 <= await line.post(STRIPE_PATH, headers, self._body, STRIPE_TIMEOUT) < 300
        except (NotConnectedError, NoAnswerError):
            accepted = False
        if accepted:
            self._counts["delivered"] += 1
            self._delivered()
            return None
        self._counts["refused"] += 1
        if self._attempts == STRIPE_ATTEMPTS:
            self._counts["given_up"] += 1
            return None
        return min(STRIPE_FIRST_DELAY * 2.0 ** (self._attempts - 1), STRIPE_LONGEST_DELAY)


class TwilioWebhook:
    """One Twilio callback, to be sent in ``copies``.

    ``url`` is signed; its path and query alone say where it goes. ``settled`` is called once, when the last copy is
    done with, and told whether any copy was answered 2xx.
    """

    def __init__(
        self,
        url: str,
        params: dict[str, str],
        copies: int,
        settled: Callable[[bool], None],
        validator: RequestValidator,
        counts: Counter[str],
        random: Random,
    ) -> None:
        parts = urlsplit(url)
        signed = parts._replace(fragment="").geturl()  # the fragment is for connection overrides, and not signed
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._body = "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in params.items()).encode()
        self._headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "User-Agent": "TwilioProxy/1.1",
            "X-Twilio-Signature": validator.compute_signature(signed, params),
            "I-Twilio-Idempotency-Token": str(uuid.UUID(int=random.getrandbits(128), version=4)),
        }
        self._copies = copies
        self._settled = settled
        self._counts = counts
        self._answered = False

    async def send(self, line: Line) -> float | None:
        if await self._attempt(line):
            self._answered = True
            self._counts["delivered"] += 1
        else:
            self._counts["refused"] += 1
        self._copies -= 1
        if not self._copies:
            if not self._answered:
                self._counts["lost"] += 1
            self._settled(self._answered)
        return None

    async def _attempt(self, line: Line) -> bool:
        for _ in range(2):
            try:
                return 200 <= await line.post(self._path, self._headers, self._body, TWILIO_TIMEOUT) < 300
            except NoAnswerError:
                return False
            except NotConnectedError:
                continue
        return False
