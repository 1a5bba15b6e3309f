"""A Stripe that is asked but not told: what a change would send is noted, and only what is read is really read."""

from collections.abc import Mapping
from typing import Any

from pipeline.providers.stripe_api import Json, StripeApi
from pipeline.shared.settings import StripeSettings


class Rehearsal(StripeApi):
    """As StripeApi, but requests that would change something stand in ``sent``: method, path, parameters."""

    def __init__(self, settings: StripeSettings) -> None:
        super().__init__(settings)
        self.sent: list[tuple[str, str, Json]] = []

    def preview_invoice(self, subscription: str, details: Mapping[str, Any]) -> Json:
        """A POST that changes nothing: really asked."""
        real = StripeApi(self._settings)
        return real.preview_invoice(subscription, details)

    def create_schedule(self, subscription: str, idempotency_key: str) -> Json:
        """Noted, and answered with what it would be: one phase, of what the subscription is now."""
        super().create_schedule(subscription, idempotency_key)
        items = self.get_subscription(subscription)["items"]["data"]
        phase = {
            "items": [{"price": item["price"]["id"], "quantity": item.get("quantity")} for item in items],
            "start_date": min(item["current_period_start"] for item in items),
        }
        return {"id": "the-new-schedule", "phases": [phase]}

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,  # noqa: ARG002 - the base class's signature
    ) -> Json:
        if method == "get":
            return super()._request(method, path, params)
        self.sent.append((method.upper(), path, dict(params or {})))
        return {}
