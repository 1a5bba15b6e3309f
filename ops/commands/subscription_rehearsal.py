"""A Stripe that is asked but not told: what a change would send is noted, and only what is read is really read."""

from collections.abc import Mapping
from typing import Any

from pipeline.subscription_changes.stripe_port import Json, StripePort


class Rehearsal(StripePort):
    """Reads from ``stripe``. What would change something stands in ``sent`` instead: method, path, parameters.

    The requests are StripeApi's own, word for word, which a test holds.
    """

    def __init__(self, stripe: StripePort) -> None:
        self._stripe = stripe
        self.sent: list[tuple[str, str, Json]] = []

    def get_subscription(self, subscription: str) -> Json:
        return self._stripe.get_subscription(subscription)

    def get_schedule(self, schedule: str) -> Json:
        return self._stripe.get_schedule(schedule)

    def list_drafts(self, subscription: str) -> list[Json]:
        return self._stripe.list_drafts(subscription)

    def modify_subscription(self, subscription: str, params: Mapping[str, Any], idempotency_key: str) -> Json:  # noqa: ARG002 - the port's signature
        return self._note("POST", f"/v1/subscriptions/{subscription}", params)

    def migrate_subscription(self, subscription: str, idempotency_key: str) -> Json:  # noqa: ARG002 - the port's signature
        return self._note("POST", f"/v1/subscriptions/{subscription}/migrate", {"billing_mode": {"type": "flexible"}})

    def preview_invoice(self, subscription: str, details: Mapping[str, Any]) -> Json | None:
        """Read, unless it is to be migrated first: of what that comes to nobody can say anything before it is done."""
        if any(path.endswith("/migrate") for _, path, _ in self.sent):
            return None
        return self._stripe.preview_invoice(subscription, details)

    def cancel_subscription(self, subscription: str) -> Json:
        return self._note("DELETE", f"/v1/subscriptions/{subscription}", {"invoice_now": "true", "prorate": "false"})

    def create_schedule(self, subscription: str, idempotency_key: str) -> Json:  # noqa: ARG002 - the port's signature
        """Noted, and answered with what it would be: one phase, of what the subscription is now."""
        self._note("POST", "/v1/subscription_schedules", {"from_subscription": subscription})
        it = self.get_subscription(subscription)
        items = it["items"]["data"]
        kept = ("discounts", "tax_rates", "metadata")
        phase = {
            "items": [
                {"price": item["price"]["id"], "quantity": item.get("quantity")}
                | {name: item.get(name) for name in kept}
                for item in items
            ],
            "start_date": min(item["current_period_start"] for item in items),
        } | {name: it.get(name) for name in ("discounts", "default_tax_rates", "trial_end")}
        return {"id": "the-new-schedule", "phases": [phase]}

    def update_schedule(self, schedule: str, params: Mapping[str, Any], idempotency_key: str) -> Json:  # noqa: ARG002 - the port's signature
        return self._note("POST", f"/v1/subscription_schedules/{schedule}", params)

    def release_schedule(self, schedule: str, idempotency_key: str) -> Json:  # noqa: ARG002 - the port's signature
        return self._note("POST", f"/v1/subscription_schedules/{schedule}/release", {})

    def update_invoice(self, invoice: str, params: Mapping[str, Any], idempotency_key: str) -> Json:  # noqa: ARG002 - the port's signature
        return self._note("POST", f"/v1/invoices/{invoice}", params)

    def _note(self, method: str, path: str, params: Mapping[str, Any]) -> Json:
        self.sent.append((method, path, dict(params)))
        return {}
