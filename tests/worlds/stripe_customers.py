"""Businesses that pay, known to the ledger and to the stand-in for Stripe alike: for tests of sending."""

from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from pipeline.meter import push_sending
from pipeline.providers.stripe_api import StripeApi
from pipeline.shared.settings import StripeSettings
from tests.worlds.ledger import NOON, PERIOD_END, PERIOD_START, Ledger
from tests.worlds.stripe_stand_in import StandIn

METER_EVENTS = "POST /v1/billing/meter_events"


class RecordingApi(StripeApi):
    """The real client, which notes what it was asked to change."""

    def __init__(self, url: str, key: str = "sk_test_altiora") -> None:
        super().__init__(StripeSettings(stripe_api_key=SecretStr(key), stripe_api_base=url))
        self.asked: list[dict[str, Any]] = []

    def create_meter_event(self, **body: Any) -> dict[str, Any]:
        self.asked.append(body)
        return super().create_meter_event(**body)

    def modify_subscription(self, subscription: str, params: Any, idempotency_key: str) -> dict[str, Any]:
        self.asked.append({"subscription": subscription, "idempotency_key": idempotency_key})
        return super().modify_subscription(subscription, params, idempotency_key)

    @property
    def keys(self) -> list[str]:
        return [body["idempotency_key"] for body in self.asked]


class Customers:
    """The ledger, the stand-in, and what moves between them. It is noon of 20 November."""

    def __init__(self, ledger: Ledger, it: StandIn) -> None:
        self.ledger, self.it = ledger, it
        self.prices = it.plan()
        self.api = RecordingApi(it.url)
        it.advance(2026, 11, 20, 12, 0, 7)

    def paying(self, minutes: int) -> int:
        """A business on Starter with one record of so many minutes; returns the record's id."""
        customer = self.it.customer()
        start = PERIOD_START.isoformat()
        prices = list(self.prices.values())
        subscription = self.it.control("/stripe/subscriptions", customer=customer, prices=prices, start=start)
        return self.ledger.paying(minutes, customer=customer, stripe_id=subscription)

    def fail(self, *faults: str) -> None:
        """Let the next meter events meet these faults."""
        self.it.faults.script(METER_EVENTS, list(faults))

    def send(self, now: datetime = NOON) -> dict[str, int]:
        return dict(push_sending.send_due_pushes(self.ledger.engine, self.api, now))

    def send_until_quiet(self) -> None:
        for _ in range(10):
            self.ledger.make_due()
            if not self.send():
                return
        raise AssertionError("pushes are still due after ten rounds")

    def customer(self, record_id: int) -> str:
        record = self.ledger.row("usage_records", record_id)
        return str(self.ledger.row("subscriptions", record.subscription_id).stripe_customer_id)

    def summed(self, record_id: int) -> float:
        """What Stripe's own summary says of the record's period."""
        start = PERIOD_START.replace(second=0) + timedelta(minutes=1)
        return float(self.it.summed(self.customer(record_id), start, PERIOD_END.replace(second=0)))

    def invoiced(self, record_id: int) -> int:
        """The minutes on the invoice that Stripe makes of the record's period when it ends."""
        self.it.advance(2026, 12, 5, 12, 0)
        (metered,) = [
            row
            for invoice in self.it.look("invoices")
            if invoice["customer"] == self.customer(record_id) and invoice["status"] != "draft"
            for row in invoice["metered"]
        ]
        return int(metered["quantity"])
