"""What the simulator, a test or somebody in Stripe's dashboard does to the stand-in's account, without its API."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.charges import is_metered
from sandbox.stripe.account.events import Deliver, Events
from sandbox.stripe.account.items import ItemChange
from sandbox.stripe.account.lifecycle import ENDED
from sandbox.stripe.account.prices import Prices, monthly, tier
from sandbox.stripe.account.state import Object, Rules, State, instant, new_id, number
from sandbox.stripe.account.subscriptions import NewSubscription
from sandbox.stripe.api.catalogue import CatalogueApi
from sandbox.stripe.api.subscriptions import PRORATIONS, SubscriptionsApi
from sandbox.timeline import Timeline


class StripeAccount:
    """One Stripe account in memory, in API version 2026-10-28.endive, and what is done to it by hand.

    ``deliver`` is handed every event, snapshot or thin, in order and once; signing, repeating and losing it is
    somebody else's job. Renewals and finalisations happen on the timeline and are its stops.
    """

    def __init__(self, timeline: Timeline, deliver: Deliver, rules: Rules | None = None) -> None:
        self.state = State(timeline, rules or Rules())
        self._events = Events(self.state, deliver)
        self._prices = Prices(self.state, self._events)
        self._billing = Billing(self.state, self._events)
        self._meters = self._billing.meters
        self._catalogue = CatalogueApi(self.state, self._events, self._prices, self._billing.subscriptions)
        self._subscriptions = SubscriptionsApi(self._billing)

    async def create_meter(self, event_name: str) -> str:
        """A meter that sums the ``value`` of its events per ``stripe_customer_id``; returns its id."""
        meter = self._meters.create(event_name, event_name, "sum", "stripe_customer_id", "value")
        return await self._made(meter)

    async def create_plan_prices(
        self, plan: str, flat_cents: int, included_minutes: int, overage_cents_decimal: str
    ) -> dict[str, str]:
        """A monthly price in advance, and a graduated one of the first meter in arrears: ``{"flat", "metered"}``.

        The first ``included_minutes`` of a period cost nothing, each further one ``overage_cents_decimal`` cents.
        Raises ValueError before the first meter.
        """
        meter = next(iter(self.state.meters), None)
        if meter is None:
            raise ValueError("there is no meter to count by yet: call create_meter first")
        metadata = {"altiora_plan": plan}
        product = self._prices.create_product(f"Altiora {plan}", metadata)["id"]
        common: Object = {"currency": "usd", "lookup_key": None, "metadata": metadata, "product": product}
        flat = self._prices.create_price(
            common
            | {
                "nickname": f"{plan} monthly",
                "recurring": monthly("licensed", None),
                "unit_amount": flat_cents,
                "unit_amount_decimal": str(flat_cents),
            },
            None,
        )
        overage = Decimal(overage_cents_decimal)
        cents = int(overage) if overage == overage.to_integral_value() else None
        metered = self._prices.create_price(
            common
            | {
                "nickname": f"{plan} minutes",
                "recurring": monthly("metered", meter),
                "unit_amount": None,
                "unit_amount_decimal": None,
            },
            [tier(included_minutes, 0, "0"), tier(None, cents, overage_cents_decimal)],
        )
        await self._events.flush()
        return {"flat": flat["id"], "metered": metered["id"]}

    async def create_customer(self, metadata: dict[str, str], name: str) -> str:
        return await self._made(self._catalogue.add_customer(name, None, metadata))

    async def create_subscription(
        self,
        customer: str,
        prices: list[str],
        start: datetime,
        metadata: dict[str, str],
        billing_mode: str = "flexible",
    ) -> str:
        """A subscription to these prices whose first period begins at ``start``, now or earlier; returns its id."""
        priced = [(self.state.prices[price], 1) for price in prices]
        new = NewSubscription(customer, priced, int(start.timestamp()), metadata, billing_mode=billing_mode)
        return await self._made(self._subscriptions.add(new))

    async def cancel_subscription(
        self, subscription: str, *, at_period_end: bool = False, invoice_now: bool = False
    ) -> None:
        """End it now, or at the end of its period, as somebody in Stripe's dashboard would."""
        stored = self.state.subscriptions[subscription]
        if at_period_end:
            self._billing.subscriptions.schedule_end(stored)
        else:
            self._billing.subscriptions.cancel(stored, invoice_now=invoice_now)
        await self._events.flush()

    async def cancel_in_portal(self, subscription: str) -> None:
        """End it when its period does, as its customer would in the portal."""
        self._billing.subscriptions.end_in_portal(self.state.subscriptions[subscription])
        await self._events.flush()

    async def keep_in_portal(self, subscription: str) -> None:
        """Let it go on after all, as its customer would in the portal."""
        self._billing.subscriptions.keep_in_portal(self.state.subscriptions[subscription])
        await self._events.flush()

    async def change_card(self, customer: str, *, pays: bool) -> None:
        """Another card, which pays what is open at once, or is declined from now on."""
        self.add_payment_method(customer)
        if pays:
            self.repair_payment(customer)
            await self.pay(customer)
        else:
            self.break_payment(customer)

    async def change_price(self, subscription: str, old: str, new: str, proration: str = "create_prorations") -> None:
        """Put the price ``new`` on the item that has ``old``, as somebody in Stripe's dashboard would.

        The period stays. What was used under a metered ``old`` is on the next renewal's invoice, as known now and with
        its own period (``create_prorations``), on an invoice of its own (``always_invoice``), or lost (``none``).
        Raises ValueError where no item has the old price, and for another ``proration``.
        """
        if proration not in PRORATIONS:
            raise ValueError(f"{proration}: proration_behavior is one of {', '.join(PRORATIONS)}")
        stored = self.state.subscriptions[subscription]
        item = next((item["id"] for item in stored["items"]["data"] if item["price"]["id"] == old), None)
        if item is None:
            raise ValueError(f"{subscription} has no item with the price {old}")
        change = ItemChange(item, self.state.prices[new], None)
        self._billing.changes.apply_by_hand(stored, [change], proration)
        await self._events.flush()

    async def fail_refund(self, refund: str) -> None:
        """Let the customer's bank not take a refund, days after it was made."""
        self._billing.refunds.fail(self.state.refunds[refund])
        await self._events.flush()

    async def dispute(self, invoice: str, status: str) -> str:
        """Let the customer's bank take back what was paid of an invoice, or ask about it; returns the dispute's id."""
        payments = self.state.invoice_payments.values()
        payment = next((each for each in payments if each["invoice"] == invoice), None)
        if payment is None:
            raise ValueError(f"nothing was paid of {invoice} that could be disputed")
        return await self._made(self._billing.refunds.dispute(payment, status))

    async def close_dispute(self, dispute: str, status: str) -> None:
        self._billing.refunds.close(self.state.disputes[dispute], status)
        await self._events.flush()

    def fail_payment(self, customer: str) -> None:
        """Let this customer's next payment fail: its subscription becomes past due."""
        self.state.payment_fails.add(customer)

    def break_payment(self, customer: str) -> None:
        """Let all of this customer's payments fail until ``repair_payment``."""
        self.state.payment_broken.add(customer)

    def repair_payment(self, customer: str) -> None:
        """Let this customer's payments succeed again, from the next attempt on."""
        self.state.payment_broken.discard(customer)

    def remove_payment_method(self, customer: str) -> None:
        """Let this customer have no payment method: payments fail, and a trial's end does what was set for that."""
        self.state.without_payment_method.add(customer)

    def add_payment_method(self, customer: str) -> None:
        self.state.without_payment_method.discard(customer)

    async def pay(self, customer: str) -> None:
        """Let this customer try to pay all its open invoices: its subscription becomes active again."""
        for invoice in self.state.invoices.values():
            if invoice["customer"] == customer and invoice["status"] == "open":
                self._billing.payments.collect(invoice, by_hand=True)
        await self._events.flush()

    async def _made(self, created: Object) -> str:
        await self._events.flush()
        return str(created["id"])

    def add_webhook_endpoint(self, url: str, enabled_events: list[str]) -> str:
        """List an endpoint in GET /v1/webhook_endpoints; what is delivered, and where, is not decided by it."""
        endpoint: Object = {
            "id": new_id("we"),
            "object": "webhook_endpoint",
            "api_version": self.state.rules.webhook_api_version,
            "application": None,
            "created": self.state.now,
            "description": None,
            "enabled_events": enabled_events,
            "livemode": False,
            "metadata": {},
            "status": "enabled",
            "url": url,
        }
        self.state.webhook_endpoints[endpoint["id"]] = endpoint
        return str(endpoint["id"])

    def mark_delivered(self, event: str) -> None:
        """Say that this snapshot event was answered 2xx: ``delivery_success`` filters by that."""
        self.state.events[event]["pending_webhooks"] = 0

    def summary(self, customer: str) -> Object:
        """All that Stripe's meters were told of this customer, and what each of its periods made of it.

        A period's ``arrived`` is what its meter holds by now, ``quantity`` what its invoice bills: they differ by
        what came after the finalisation, and by negative totals. ``open`` periods, of each metered item, have no
        invoice yet.
        """
        periods = [
            {"invoice": invoice["id"], "status": invoice["status"], **row}
            for invoice in self.state.invoices.values()
            if invoice["customer"] == customer
            for row in self._billing.invoices.metered(invoice)
        ]
        events = [row for row in self.meter_events() if row["customer"] == customer]
        opened = [
            {
                "subscription": row["id"],
                "price": item["price"]["id"],
                "period_start": item["current_period_start"],
                "period_end": item["current_period_end"],
                "arrived": self._arrived(customer, item),
            }
            for row in self.state.subscriptions.values()
            if row["customer"] == customer and row["status"] not in ENDED
            for item in row["items"]["data"]
            if is_metered(item)
        ]
        total = sum((Decimal(str(row["value"])) for row in events), Decimal(0))
        return {"customer": customer, "events": len(events), "total": number(total), "periods": periods, "open": opened}

    def _arrived(self, customer: str, item: Object) -> int | float:
        meter, bounds = item["price"]["recurring"]["meter"], (item["current_period_start"], item["current_period_end"])
        return number(sum((event.value for event in self._meters.used(meter, customer, *bounds)), Decimal(0)))

    def invoices(self) -> list[Object]:
        """All invoices, oldest first, each with ``metered``: quantity, price and period of what it bills of usage."""
        return [
            {**self._billing.invoices.view(invoice), "metered": self._billing.invoices.metered(invoice)}
            for invoice in self.state.invoices.values()
        ]

    def meter_events(self) -> list[dict[str, Any]]:
        """All accepted meter events, oldest first; times are business times."""
        rows = [event for events in self.state.meter_events.values() for event in events]
        return [
            {
                "meter": event.meter,
                "customer": event.customer,
                "identifier": event.identifier,
                "value": number(event.value),
                "timestamp": event.at,
                "received": instant(event.received).isoformat(),
            }
            for event in sorted(rows, key=lambda event: event.received)
        ]
