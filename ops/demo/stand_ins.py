"""The stand-ins as the demo steers and reads them: the routes below ``/_sandbox`` over HTTP."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, Self

import httpx
import stripe

Json = dict[str, Any]

#: A step of business time with thousands of calls takes seconds of the machine's.
_TIMEOUT_SECONDS = 60.0


#: Numbers that a business can take.
FREE_NUMBERS = tuple(f"+141555501{place:02}" for place in range(5))


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
        self._stripe = stripe.StripeClient(stripe_api_key, base_addresses={"api": stripe_address})
        self.minutes_meter = ""
        self.minutes_prices: set[str] = set()
        """All that price minutes, of any plan and currency."""
        self.fee_prices: set[str] = set()
        """All that are the fee of a plan."""

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

    def add_free_numbers(self) -> None:
        """Have the Twilio account own some numbers that nobody holds (of those that are kept free for fiction)."""
        for number in FREE_NUMBERS:
            self._post(f"{self._twilio_address}/_sandbox/twilio/numbers", {"number": number})

    def set_faults(self, **rates: float) -> None:
        self._post("/_sandbox/faults", rates)

    def take_down_stripe(self, seconds: float) -> None:
        """Let Stripe's API drop every connection for so many seconds of the machine's time."""
        self._post("/_sandbox/faults", {"down": {"stripe": seconds}})

    # What somebody would set up in Stripe

    def create_meter(self, event_name: str) -> None:
        """The meter of the minutes."""
        self.minutes_meter = str(self._post("/_sandbox/stripe/meters", {"event_name": event_name}))

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
        self.minutes_prices.add(prices["metered"])
        self.fee_prices.add(prices["flat"])
        return [prices["flat"], prices["metered"]]

    def create_fee(self, code: str, cents: int, currency: str, interval: Literal["month", "year"]) -> str:
        """A plan's fixed price of another currency or interval."""
        price = self._stripe.v1.prices.create(
            {
                "currency": currency,
                "unit_amount": cents,
                "product_data": {"name": f"{code} fee"},
                "recurring": {"interval": interval},
                "metadata": {"altiora_plan": code},
            }
        )
        self.fee_prices.add(price.id)
        return price.id

    def create_minutes_price(self, code: str, included: int, overage_cents: str, currency: str) -> str:
        """A plan's price of minutes in another currency."""
        price = self._stripe.v1.prices.create(
            {
                "currency": currency,
                "product_data": {"name": f"{code} minutes"},
                "billing_scheme": "tiered",
                "tiers_mode": "graduated",
                "tiers": [
                    {"up_to": included, "unit_amount": 0},
                    {"up_to": "inf", "unit_amount_decimal": Decimal(overage_cents)},
                ],
                "recurring": {"interval": "month", "usage_type": "metered", "meter": self.minutes_meter},
                "metadata": {"altiora_plan": code},
            }
        )
        self.minutes_prices.add(price.id)
        return price.id

    def create_customer(self, name: str, business_id: int) -> str:
        about = {"name": name, "metadata": {"business_id": str(business_id)}}
        customer: str = self._post("/_sandbox/stripe/customers", about)
        return customer

    def create_subscription(self, customer: str, prices: list[str], start: datetime, billing_mode: str) -> str:
        about = {"customer": customer, "prices": prices, "start": start.isoformat(), "billing_mode": billing_mode}
        return str(self._post("/_sandbox/stripe/subscriptions", about))

    def add_text_messages(self, subscription: str, customer: str) -> None:
        """An item that counts text messages on a meter of its own, and 250 of them."""
        client, name = self._stripe.v1, "text_messages"
        meter = client.billing.meters.create(
            {"display_name": "Text messages", "event_name": name, "default_aggregation": {"formula": "sum"}}
        )
        self._add_item(
            subscription, "Text message", 2, {"interval": "month", "usage_type": "metered", "meter": meter.id}
        )
        payload = {"value": "250", "stripe_customer_id": customer}
        client.billing.meter_events.create({"event_name": name, "payload": payload})

    def add_number(self, subscription: str) -> None:
        """An item with a fixed price of a month."""
        self._add_item(subscription, "A number more", 200, {"interval": "month"})

    def add_coupon(self, subscription: str, percent_off: int) -> None:
        coupon = self._stripe.v1.coupons.create({"percent_off": percent_off, "duration": "forever"})
        self._stripe.v1.subscriptions.update(subscription, {"discounts": [{"coupon": coupon.id}]})

    def leave_in_portal(self, subscription: str) -> None:
        self._post("/_sandbox/stripe/portal/cancel", {"subscription": subscription})

    def _add_item(self, subscription: str, name: str, cents: int, recurring: Any) -> None:
        price = self._stripe.v1.prices.create(
            {"currency": "usd", "unit_amount": cents, "product_data": {"name": name}, "recurring": recurring}
        )
        items: Any = [{"price": price.id}]
        self._stripe.v1.subscriptions.update(subscription, {"items": items, "proration_behavior": "none"})

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
        query = {"customer": customer, "start_time": f"{start.timestamp():.0f}", "end_time": f"{end.timestamp():.0f}"}
        path = f"/v1/billing/meters/{self.minutes_meter}/event_summaries"
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
