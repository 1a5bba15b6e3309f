"""The stand-in for Stripe on a loopback port, with the real stripe client against it and a business clock to move."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
import stripe
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.faults import Faults
from sandbox.stripe.account.state import Rules
from sandbox.stripe.stand_in import StripeSandbox
from sandbox.timeline import Timeline
from tests.worlds.asgi_server import serving

stripe.enable_telemetry = False  # it would leave a file in the home of whoever runs the tests

T = TypeVar("T")
#: For clients of servers on loopback, which speak none: making one takes 20 ms, so all of them share it.
TLS = ssl.create_default_context()
START = datetime(2026, 11, 5, 10, 23, 45, tzinfo=UTC)


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())


class StandIn:
    """What a test sees: ``client`` (stripe's own), ``http`` for what it can't say, ``events`` as they left."""

    def __init__(self, url: str, loop: asyncio.AbstractEventLoop, folder: Path, start: datetime, rules: Rules) -> None:
        self.events: list[dict[str, Any]] = []
        self.faults = Faults()
        self.timeline = Timeline(start, folder / "clock")
        self.sandbox = StripeSandbox(self.timeline, self._deliver, self.faults, rules)
        self.client = stripe.StripeClient("sk_test_stand_in", base_addresses={"api": url}, max_network_retries=0)
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": "Bearer sk_test_stand_in"}, timeout=30, verify=TLS
        )
        self.url = url
        self._loop = loop

    async def _deliver(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def advance(self, *moment: int) -> None:
        """Let the business time pass to this UTC moment: year, month, day, hour …"""
        self.run(self.timeline.advance(datetime(*moment, tzinfo=UTC)))  # type: ignore[arg-type, misc]  # the numbers of a datetime

    def control(self, path: str, **body: Any) -> Any:
        answer = self.http.post(f"/_sandbox{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def look(self, path: str, **query: str) -> Any:
        return self.http.get(f"/_sandbox/stripe/{path}", params=query).json()

    def meter_of(self, event_name: str) -> str:
        """The meter of this event, made if there is none; its id."""
        meters = self.sandbox.state.meters.values()
        had = next((each["id"] for each in meters if each["event_name"] == event_name), None)
        return str(had or self.control("/stripe/meters", event_name=event_name))

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def plan(self, minutes: int = 500, overage: str = "12", flat: int = 4900, plan: str = "starter") -> dict[str, str]:
        """A meter ``call_minutes`` (the first time) and the two prices of a plan."""
        if not self.sandbox.state.meters:
            self.control("/stripe/meters", event_name="call_minutes")
        return dict(
            self.control(
                "/stripe/plan-prices",
                plan=plan,
                flat_cents=flat,
                included_minutes=minutes,
                overage_cents_decimal=overage,
            )
        )

    def price(self, name: str, **params: Any) -> str:
        """A price of a product of its own, in dollars a month unless told otherwise; returns its id."""
        usual: Any = {"currency": "usd", "recurring": {"interval": "month"}, "product_data": {"name": name}}
        return str(self.client.v1.prices.create(usual | params).id)

    def customer(self) -> str:
        return str(self.control("/stripe/customers", name="A business", metadata={"business_id": "b1"}))

    def subscribe(self, customer: str, prices: dict[str, str]) -> str:
        return str(self.control("/stripe/subscriptions", customer=customer, prices=list(prices.values())))

    def report(self, customer: str, minutes: str, identifier: str, at: datetime | None = None, **options: Any) -> Any:
        moment = at or self.timeline.now
        return self.client.v1.billing.meter_events.create(
            {
                "event_name": "call_minutes",
                "payload": {"stripe_customer_id": customer, "value": minutes},
                "identifier": identifier,
                "timestamp": int(moment.timestamp()),
            },
            options=options,  # type: ignore[arg-type]  # the tests' own words
        )

    def wait_until(self, true: Callable[[], object]) -> None:
        """Look again and again, for at most ten seconds."""
        for _ in range(1000):
            if true():
                return
            time.sleep(0.01)
        raise AssertionError("what was waited for did not come")

    @property
    def meter(self) -> str:
        return next(iter(self.sandbox.state.meters))

    def summed(self, customer: str, start: datetime, end: datetime) -> float:
        params: Any = {"customer": customer, "start_time": int(start.timestamp()), "end_time": int(end.timestamp())}
        rows = self.client.v1.billing.meters.event_summaries.list(self.meter, params)
        return sum(row.aggregated_value for row in rows.data)


class Host:
    """One server in a thread with an event loop of its own, for one stand-in after the other."""

    def __init__(self) -> None:
        self.url = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._app: ASGIApp | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None, "a request came before the first stand-in"
        await self._app(scope, receive, send)

    async def serve(self) -> None:
        async with serving(self) as self.url:
            self._loop = asyncio.get_running_loop()
            self._ready.set()
            await self._stop.wait()

    @contextmanager
    def in_thread(self) -> "Iterator[Host]":
        thread = threading.Thread(target=asyncio.run, args=(self.serve(),))
        thread.start()
        try:
            assert self._ready.wait(20), "the stand-in's server did not start"
            yield self
        finally:
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._stop.set)
            thread.join(20)

    @contextmanager
    def fresh(self, folder: Path, start: datetime = START, **rules: Any) -> Iterator[StandIn]:
        """A new account, whose business clock stands at ``start``."""
        assert self._loop is not None
        it = StandIn(self.url, self._loop, folder, start, Rules(**{"report_seconds": 0.05, **rules}))
        self._app = it.sandbox.app
        with it.http:
            yield it
