"""The stand-ins as the demo steers and reads them: the routes below ``/_sandbox`` over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import httpx

Json = dict[str, Any]

#: A step of business time with thousands of calls takes seconds of the machine's.
_TIMEOUT_SECONDS = 60.0


class SandboxError(Exception):
    """The stand-ins did not do what the demo asked for, in their own words."""


@dataclass(frozen=True, slots=True)
class Deliveries:
    """What became of the webhooks so far; see sandbox.delivery.Delivery.counts."""

    pending: int
    stripe: dict[str, int]
    twilio: dict[str, int]

    def count(self, name: str) -> int:
        """Of both providers together: sent, delivered, refused, dropped, lost, given_up."""
        return self.stripe.get(name, 0) + self.twilio.get(name, 0)


class Sandbox:
    """Both stand-ins behind one address: that of Stripe's. Closes its connection when the block is left."""

    def __init__(self, stripe_address: str, twilio_address: str, stripe_api_key: str) -> None:
        self._client = httpx.Client(base_url=stripe_address, timeout=_TIMEOUT_SECONDS)
        self._twilio_address = twilio_address
        self._stripe_headers = {"Authorization": f"Bearer {stripe_api_key}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # Time and traffic

    def advance(self, to: datetime) -> datetime | None:
        """Move business time; returns the next instant at which the pipeline must be given time."""
        stop = self._post("/_sandbox/advance", {"to": to.isoformat()})["next_stop"]
        return datetime.fromisoformat(stop) if stop else None

    def deliveries(self) -> Deliveries:
        return Deliveries(**self._get("/_sandbox/deliveries"))

    def populate(self, businesses: list[Json], start: datetime, end: datetime, seed: int) -> None:
        """Plan the calls of these businesses; see sandbox.traffic.Business."""
        about = {"businesses": businesses, "start": start.isoformat(), "end": end.isoformat(), "seed": seed}
        self._post("/_sandbox/populate", about)

    def place_call_without_callback(self, number: str, at: datetime, seconds: int) -> None:
        """Plan a call that Twilio tells nobody about; only its list of calls has it."""
        about = {"number": number, "at": at.isoformat(), "seconds": seconds, "events": []}
        self._post(f"{self._twilio_address}/_sandbox/twilio/calls", about)

    def set_faults(self, **rates: float) -> None:
        self._post("/_sandbox/faults", rates)

    def take_down_stripe(self, seconds: float) -> None:
        """Let Stripe's API drop every connection for so many seconds of the machine's time."""
        self._post("/_sandbox/faults", {"down": {"stripe": seconds}})

    # What somebody would set up in Stripe

    def create_meter(self, event_name: str) -> None:
        self._post("/_sandbox/stripe/meters", {"event_name": event_name})

    def create_webhook_endpoint(self, url: str) -> None:
        """Name the address that webhooks go to anyway, where the API lists its endpoints."""
        self._post("/_sandbox/stripe/webhook-endpoints", {"url": url, "enabled_events": ["*"]})

    def create_plan_prices(self, code: str, flat_cents: int, included: int, overage_cents: str) -> list[str]:
        """The ids of a plan's two prices."""
        about = {
            "plan": code,
            "flat_cents": flat_cents,
            "included_minutes": included,
            "overage_cents_decimal": overage_cents,
        }
        prices = self._post("/_sandbox/stripe/plan-prices", about)
        return [prices["flat"], prices["metered"]]

    def create_customer(self, name: str, business_id: int) -> str:
        about = {"name": name, "metadata": {"business_id": str(business_id)}}
        customer: str = self._post("/_sandbox/stripe/customers", about)
        return customer

    def create_subscription(self, customer: str, prices: list[str], start: datetime) -> None:
        about = {"customer": customer, "prices": prices, "start": start.isoformat()}
        self._post("/_sandbox/stripe/subscriptions", about)

    # Their own record of what happened

    def ledger(self) -> list[Json]:
        """Every call so far; see sandbox.twilio_account.TwilioAccount.ledger."""
        return self._list(f"{self._twilio_address}/_sandbox/twilio/ledger")

    def invoices(self) -> list[Json]:
        return self._list("/_sandbox/stripe/invoices")

    def meter_events(self) -> list[Json]:
        return self._list("/_sandbox/stripe/meter_events")

    def summary(self, customer: str) -> Json:
        """What Stripe's meters hold for a customer; see StripeAccount.summary."""
        return self._get(f"/_sandbox/stripe/summary?customer={customer}")

    def meter_sum(self, customer: str, start: datetime, end: datetime) -> int:
        """What Stripe's own summaries tell of a customer in ``[start, end)``, on whole minutes. Wants faults off."""
        (meter,) = self._get("/v1/billing/meters", None, self._stripe_headers)["data"]
        query = {"customer": customer, "start_time": f"{start.timestamp():.0f}", "end_time": f"{end.timestamp():.0f}"}
        path = f"/v1/billing/meters/{meter['id']}/event_summaries"
        return sum(int(row["aggregated_value"]) for row in self._get(path, query, self._stripe_headers)["data"])

    def delivered_events(self) -> Iterator[str]:
        """The ids of the snapshot events that were answered 2xx. Wants faults to be off."""
        query = {"delivery_success": "true", "limit": "100"}
        while True:
            page = self._get("/v1/events", query, self._stripe_headers)
            yield from (event["id"] for event in page["data"])
            if not page["has_more"]:
                return
            query["starting_after"] = page["data"][-1]["id"]

    def _post(self, path: str, body: Json) -> Any:
        return _read(self._client.post(path, json=body))

    def _get(self, path: str, query: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Json:
        answer: Json = _read(self._client.get(path, params=query, headers=headers))
        return answer

    def _list(self, address: str) -> list[Json]:
        answer: list[Json] = _read(self._client.get(address))
        return answer


def _read(answer: httpx.Response) -> Any:
    if answer.status_code != 200:
        raise SandboxError(f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}")
    return answer.json()
