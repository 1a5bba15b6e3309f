"""How webhooks leave the sandbox: from one queue, by a few senders, twice or out of order or not at all by fault."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # twilio publishes no types

from sandbox.faults import Faults
from sandbox.line import Line
from sandbox.webhooks import StripeWebhook, TwilioWebhook, Webhook

#: A second copy, or an event that others shall overtake, is held back for up to this many seconds.
LONGEST_HOLD = 0.5


class Delivery:
    """Queues webhooks and sends them, so that what makes an event never waits for a receiver.

    ``target`` is where the receiver listens, ``public_url`` what the outside calls it (Twilio signs that one).
    ``faults`` says how many are sent twice, held back so that others overtake them, or dropped unsent.
    """

    def __init__(
        self,
        faults: Faults,
        stripe_secret: str,
        twilio_auth_token: str,
        public_url: str,
        target: str | None = None,
        senders: int = 8,
    ) -> None:
        self.public_url = public_url.rstrip("/")
        self._faults = faults
        self._stripe_secret = stripe_secret.encode()
        self._validator = RequestValidator(twilio_auth_token)
        self._lines = [Line(target or public_url) for _ in range(senders)]
        self._ready: asyncio.Queue[Webhook] = asyncio.Queue()
        self._pending = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._senders: list[asyncio.Task[None]] = []
        self._stripe_counts: Counter[str] = Counter()
        self._twilio_counts: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to send; needs a running event loop."""
        self._senders = [asyncio.create_task(self._send_for_ever(line)) for line in self._lines]
        for sender in self._senders:
            sender.add_done_callback(lambda _: self._idle.set())  # so that nobody waits for a sender that broke

    async def stop(self) -> None:
        """Stop sending; what has not left yet is forgotten, and who waits in ``drain`` waits no longer."""
        for sender in self._senders:
            sender.cancel()
        await asyncio.gather(*self._senders, return_exceptions=True)
        for line in self._lines:
            await line.close()

    async def stripe(self, event: dict[str, Any], delivered: Callable[[], None]) -> None:
        """Queue a Stripe event, snapshot or thin. ``delivered`` is called for each copy that is answered 2xx."""
        body = orjson.dumps(event, option=orjson.OPT_INDENT_2)  # indented, as Stripe sends them
        for hold in self._holds():
            self._stripe_counts["sent"] += 1
            self._queue(StripeWebhook(body, self._stripe_secret, self._stripe_counts, delivered), hold)

    async def twilio(self, url: str, params: dict[str, str], settled: Callable[[bool], None]) -> None:
        """Queue a Twilio callback to ``url``. ``settled`` is told, once, whether it was answered 2xx."""
        if self._faults.random.random() < self._faults.drop_callback:
            self._twilio_counts["dropped"] += 1
            settled(False)
            return
        holds = self._holds()
        random = self._faults.random
        webhook = TwilioWebhook(url, params, len(holds), settled, self._validator, self._twilio_counts, random)
        for hold in holds:
            self._twilio_counts["sent"] += 1
            self._queue(webhook, hold)

    async def drain(self) -> None:
        """Wait until every webhook is answered 2xx, lost or given up. Raises what broke a sender, if one broke."""
        await self._idle.wait()
        for sender in self._senders:
            if sender.done() and not sender.cancelled():
                sender.result()

    def counts(self) -> dict[str, Any]:
        """What became of the webhooks so far: by provider, and how many are still ``pending``.

        ``sent`` counts copies, ``delivered`` those answered 2xx, ``refused`` attempts that were not; ``given_up``
        are Stripe's after all attempts, ``lost`` the callbacks of which no copy was answered, ``dropped`` those
        that a fault never sent.
        """
        return {"pending": self._pending, "stripe": dict(self._stripe_counts), "twilio": dict(self._twilio_counts)}

    def _holds(self) -> list[float]:
        """The seconds for which each copy of one webhook is held back: mostly one copy, and not at all."""
        random = self._faults.random
        holds = [random.uniform(0, LONGEST_HOLD) if random.random() < self._faults.shuffle else 0.0]
        if random.random() < self._faults.duplicate:
            holds.append(random.uniform(0, LONGEST_HOLD))
        return holds

    def _queue(self, webhook: Webhook, hold: float) -> None:
        self._pending += 1
        self._idle.clear()
        self._put(webhook, hold)

    def _put(self, webhook: Webhook, delay: float) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, self._ready.put_nowait, webhook)
        else:
            self._ready.put_nowait(webhook)

    async def _send_for_ever(self, line: Line) -> None:
        while True:
            webhook = await self._ready.get()
            again = await webhook.send(line)
            if again is not None:
                self._put(webhook, again)
                continue
            self._pending -= 1
            if not self._pending:
                self._idle.set()
