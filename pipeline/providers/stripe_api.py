"""Stripe, as this program uses it: the only file outside the sandbox that imports ``stripe``."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import stripe

from pipeline.providers.stripe_fields import below, credited_cents
from pipeline.providers.stripe_words import InvoiceStatus
from pipeline.shared.settings import StripeSettings

# Telemetry writes a file into the home of whoever runs this, and adds headers.
stripe.enable_telemetry = False

#: To connect, and to wait for each part of an answer: short enough that a lease of 60 s outlives a call.
TIMEOUT_SECONDS = (5.0, 15.0)
#: The largest page that Stripe gives.
PAGE = 100

#: The API version of our requests, and of the webhook endpoint that suits us best.
VERSION = stripe.api_version

Json = dict[str, Any]


class StripeApiError(Exception):
    """Stripe did not do what was asked; ``words`` are Stripe's own where it answered."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words


class Refused(StripeApiError):  # noqa: N818 - the four read as what Stripe answered
    """Refused for good: the same request will be refused again (400, 401, 402, 403, 404, idempotency_error)."""

    def __init__(self, status: int, code: str | None, words: str) -> None:
        super().__init__(words)
        self.status = status
        self.code = code

    def __str__(self) -> str:
        return f"{self.status} {self.code or ''}: {self.words}".replace(" :", ":")


class AccountFault(Refused):  # a case of its own: nothing that is sent will fare better until somebody has repaired it
    """Refused for the key or the account, whatever was asked: 401, 403, or no active meter."""


class Limited(StripeApiError):  # noqa: N818 - as above
    """Not now: 429, or 409 while another request with this key is being worked on. The same key later."""


class ServerError(StripeApiError):
    """5xx: v1 stores it under the idempotency key for 24 h, so that only a new key is worked on."""


class Unreachable(StripeApiError):  # noqa: N818 - as above
    """No answer, or none that can be read: whether Stripe did it is unknown. The same key again."""


class StripeApi:
    """The calls we make, each with plain dicts in and out. No retries: the outboxes and the refreshes retry.

    Every call may raise one of the StripeApiErrors. May be shared by threads.
    """

    def __init__(self, settings: StripeSettings) -> None:
        self._settings = settings
        self._answers = threading.local()
        self._client = stripe.StripeClient(
            settings.stripe_api_key.get_secret_value(),
            base_addresses={"api": settings.stripe_api_base},
            max_network_retries=0,
            http_client=stripe.RequestsClient(timeout=TIMEOUT_SECONDS),
        )

    @property
    def answered_at(self) -> datetime | None:
        """When this thread's last answer was given, by Stripe's clock, to the second; None where it did not say."""
        at: datetime | None = getattr(self._answers, "at", None)
        return at

    def create_meter_event(
        self,
        *,
        event_name: str,
        customer: str,
        value: int,
        identifier: str,
        timestamp: datetime,
        idempotency_key: str,
    ) -> Json:
        """Tell the meter ``value`` minutes. A 2xx says received; what is wrong with it may be reported later."""
        body = {
            "event_name": event_name,
            "payload": {"stripe_customer_id": customer, "value": str(value)},
            "identifier": identifier,
            "timestamp": int(timestamp.timestamp()),
        }
        return self._request("post", "/v1/billing/meter_events", body, idempotency_key)

    def modify_subscription(self, subscription: str, params: Mapping[str, Any], idempotency_key: str) -> Json:
        """Change a subscription; an empty string unsets a parameter, None would be dropped unseen."""
        return self._request("post", f"/v1/subscriptions/{_path(subscription)}", params, idempotency_key)

    def migrate_subscription(self, subscription: str, idempotency_key: str) -> Json:
        """Put it into flexible billing mode. There is no way back, and Stripe may refuse."""
        path = f"/v1/subscriptions/{_path(subscription)}/migrate"
        return self._request("post", path, {"billing_mode": {"type": "flexible"}}, idempotency_key)

    def cancel_subscription(self, subscription: str) -> Json:
        """End it now, with its open usage on a last invoice; without ``invoice_now`` that would be given away."""
        path = f"/v1/subscriptions/{_path(subscription)}"
        return self._request("delete", path, {"invoice_now": "true", "prorate": "false"})

    def create_schedule(self, subscription: str, idempotency_key: str) -> Json:
        """Put a subscription under a schedule, whose one phase is the present period."""
        body = {"from_subscription": subscription}
        return self._request("post", "/v1/subscription_schedules", body, idempotency_key)

    def get_schedule(self, schedule: str) -> Json:
        return self._request("get", f"/v1/subscription_schedules/{_path(schedule)}")

    def update_schedule(self, schedule: str, params: Mapping[str, Any], idempotency_key: str) -> Json:
        return self._request("post", f"/v1/subscription_schedules/{_path(schedule)}", params, idempotency_key)

    def release_schedule(self, schedule: str, idempotency_key: str) -> Json:
        """Let a subscription go on as it is, without its schedule."""
        return self._request("post", f"/v1/subscription_schedules/{_path(schedule)}/release", {}, idempotency_key)

    def preview_invoice(self, subscription: str, details: Mapping[str, Any]) -> Json:
        """The invoice that a change (``subscription_details``) would make now; without one, the one to come.

        Nothing changes by it.
        """
        body: Json = {"subscription": subscription} | ({"subscription_details": details} if details else {})
        return self._request("post", "/v1/invoices/create_preview", body)

    def update_invoice(self, invoice: str, params: Mapping[str, Any], idempotency_key: str) -> Json:
        return self._request("post", f"/v1/invoices/{_path(invoice)}", params, idempotency_key)

    def list_credit_notes(self, invoice: str) -> list[Json]:
        """All credit notes of an invoice, void ones too, newest first."""
        return list(self._pages("/v1/credit_notes", {"invoice": invoice}))

    def preview_credit_note(self, wanted: Mapping[str, Any]) -> Json:
        """What this credit note would come to, with taxes and discounts, and how much of it has been paid."""
        return self._request("get", "/v1/credit_notes/preview", wanted)

    def create_credit_note(self, wanted: Mapping[str, Any], idempotency_key: str) -> Json:
        """Give lines of a final invoice back."""
        return self._request("post", "/v1/credit_notes", wanted, idempotency_key)

    def list_balance_transactions(self, customer: str) -> list[Json]:
        """All that was booked on a customer's balance, newest first."""
        return list(self._pages(f"/v1/customers/{_path(customer)}/balance_transactions", {}))

    def create_balance_transaction(self, customer: str, wanted: Mapping[str, Any], idempotency_key: str) -> Json:
        """Book on a customer's balance; an amount below zero lowers the next invoice."""
        path = f"/v1/customers/{_path(customer)}/balance_transactions"
        return self._request("post", path, wanted, idempotency_key)

    def list_drafts(self, subscription: str) -> list[Json]:
        return list(self._pages("/v1/invoices", {"subscription": subscription, "status": InvoiceStatus.DRAFT}))

    def all_customers(self) -> Iterator[Json]:
        """Every customer of the account, but for those that were deleted."""
        return self._pages("/v1/customers", {})

    def all_subscriptions(self) -> Iterator[Json]:
        """Every subscription of the account, cancelled ones too: the default leaves those out."""
        return self._pages("/v1/subscriptions", {"status": "all"})

    def undelivered_events(self, types: Sequence[str], since: datetime) -> Iterator[Json]:
        """Snapshot events since then that some endpoint has not answered 2xx; of at most 20 types, newest first."""
        wanted = {"types": list(types), "delivery_success": "false", "created": {"gte": int(since.timestamp())}}
        return self._pages("/v1/events", wanted)

    def get_subscription(self, subscription: str) -> Json:
        """A subscription with all its items."""
        return self._with_all_items(self._request("get", f"/v1/subscriptions/{_path(subscription)}"))

    def list_subscriptions(self, customer: str) -> list[Json]:
        """All subscriptions of a customer, cancelled ones too, newest first, each with all its items."""
        listed = self._pages("/v1/subscriptions", {"customer": customer, "status": "all"})
        return [self._with_all_items(subscription) for subscription in listed]

    def get_customer(self, customer: str) -> Json:
        """A customer; a deleted one has ``deleted`` and little else."""
        return self._request("get", f"/v1/customers/{_path(customer)}")

    def get_invoice(self, invoice: str) -> Json:
        """An invoice with all its lines, and its ``credit_notes`` where it has any."""
        return self._whole_invoice(self._request("get", f"/v1/invoices/{_path(invoice)}"))

    def get_paid_back(self, invoice: str) -> Json:
        """The ``refunds`` and ``disputes`` of an invoice's payments, which it does not show itself, newest first."""
        refunds: list[Json] = []
        disputes: list[Json] = []
        for paid in self._pages("/v1/invoice_payments", {"invoice": invoice, "status": "paid"}):
            intent = below(paid, "payment", "payment_intent")
            if intent is not None:
                refunds.extend(self._pages("/v1/refunds", {"payment_intent": intent}))
                disputes.extend(self._pages("/v1/disputes", {"payment_intent": intent}))
        return {"refunds": refunds, "disputes": disputes}

    def invoices_paid_by(self, payment_intent: str) -> list[str]:
        """The invoices that a payment was for; none where it was for something else."""
        payment = {"type": "payment_intent", "payment_intent": payment_intent}
        return [str(paid["invoice"]) for paid in self._pages("/v1/invoice_payments", {"payment": payment})]

    def list_invoices(self, subscription: str, *, limit: int) -> list[Json]:
        """The newest invoices of a subscription, each with all its lines, and ``credit_notes`` where it has any."""
        listed = self._request("get", "/v1/invoices", {"subscription": subscription, "limit": limit})
        return [self._whole_invoice(invoice) for invoice in listed["data"]]

    def get_price(self, price: str) -> Json:
        """A price with its product, whose metadata may name the plan, and its tiers in each of its currencies."""
        wanted = {"expand": ["product", "tiers", "currency_options"]}
        return self._request("get", f"/v1/prices/{_path(price)}", wanted)

    def list_prices(self) -> list[Json]:
        """The recurring prices that can still be sold, each with its product and its tiers."""
        wanted = {"active": "true", "type": "recurring", "expand": ["data.product", "data.tiers"]}
        return list(self._pages("/v1/prices", wanted))

    def get_event_v2(self, event: str) -> Json:
        """A thin event with its data, which the notification lacks."""
        return self._request("get", f"/v2/core/events/{_path(event)}")

    def get_meter(self, meter: str) -> Json:
        return self._request("get", f"/v1/billing/meters/{_path(meter)}")

    def meters(self) -> list[Json]:
        return list(self._pages("/v1/billing/meters", {}))

    def event_summaries(self, meter: str, *, customer: str, start: datetime, end: datetime) -> list[Json]:
        """What a meter has summed up for a customer in ``[start, end)``, both on whole minutes; right eventually."""
        window = {"customer": customer, "start_time": int(start.timestamp()), "end_time": int(end.timestamp())}
        return list(self._pages(f"/v1/billing/meters/{_path(meter)}/event_summaries", window))

    def webhook_endpoints(self) -> list[Json]:
        return list(self._pages("/v1/webhook_endpoints", {}))

    def _whole_invoice(self, invoice: Json) -> Json:
        notes = self.list_credit_notes(invoice["id"]) if credited_cents(invoice) else []
        return self._with_all_lines(invoice) | {"credit_notes": notes}

    def _with_all_lines(self, invoice: Json) -> Json:
        lines = invoice["lines"]
        if not lines["has_more"]:
            return invoice
        everything = list(self._pages(f"/v1/invoices/{_path(invoice['id'])}/lines", {}))
        return {**invoice, "lines": {**lines, "data": everything, "has_more": False}}

    def _with_all_items(self, subscription: Json) -> Json:
        items = subscription["items"]
        if not items["has_more"]:
            return subscription
        everything = list(self._pages("/v1/subscription_items", {"subscription": subscription["id"]}))
        return {**subscription, "items": {**items, "data": everything, "has_more": False}}

    def _pages(self, path: str, params: Mapping[str, Any]) -> Iterator[Json]:
        after: dict[str, str] = {}
        while True:
            page = self._request("get", path, {**params, "limit": PAGE, **after})
            yield from page["data"]
            if not page["has_more"]:
                return
            after = {"starting_after": page["data"][-1]["id"]}

    def _request(
        self, method: str, path: str, params: Mapping[str, Any] | None = None, idempotency_key: str | None = None
    ) -> Json:
        options = {"idempotency_key": idempotency_key} if idempotency_key is not None else {}
        try:
            answer = self._client.raw_request(method, path, **(params or {}), **options)
        except stripe.APIConnectionError as error:
            raise Unreachable(error.user_message or "no connection") from error
        except stripe.StripeError as error:
            raise _own_error(error) from error
        self._answers.at = _date(answer.headers)
        data: Json = answer.data
        return data


def _date(headers: Mapping[str, str]) -> datetime | None:
    try:
        return parsedate_to_datetime(headers["Date"])
    except (KeyError, ValueError):
        return None


def _path(identifier: str) -> str:
    """An id as one segment of a path: what a webhook's body named must not choose another address."""
    if identifier in {"", ".", ".."}:
        raise Refused(404, "resource_missing", f"{identifier!r} is no id of Stripe's")
    return quote(identifier, safe="")


def _own_error(error: stripe.StripeError) -> StripeApiError:
    status = error.http_status or 0
    words = error.user_message or f"HTTP status {status} without words"
    if status in {409, 429}:
        return Limited(words)
    if status >= 500:
        return ServerError(words)
    if status < 400:
        return Unreachable(f"the answer can't be read: {words}")
    kind = AccountFault if status in {401, 403} else Refused
    # error.code is empty for some classes; error.error.code is not when Stripe gave one, and absent when not.
    return kind(status, getattr(error.error, "code", None), words)
