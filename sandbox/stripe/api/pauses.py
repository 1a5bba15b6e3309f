"""The API's pausing and resuming of subscriptions."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.state import Object
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import missing
from sandbox.stripe.api.lists import found
from sandbox.stripe.api.params import Params
from sandbox.stripe.api.subscriptions import PRORATIONS, read_from_now


class PausesApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, billing: Billing) -> None:
        self._state = billing.state
        self._pauses = billing.pauses

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("POST", "/v1/subscriptions/{id}/pause", self.pause_subscription),
            door.route("POST", "/v1/subscriptions/{id}/resume", self.resume_subscription),
        ]

    def _subscription(self, call: Call) -> Object:
        return found(self._state.subscriptions, "subscription", call.ids["id"])

    async def pause_subscription(self, call: Call) -> Object:
        subscription, params = self._subscription(call), call.params
        params.choice("type", "subscription")
        behavior = params.choice("invoicing_behavior", "invoice", "pending_invoice_item")
        bill_for = params.below("bill_for")
        usage = _kind(bill_for, "outstanding_usage_through", "now", "none")
        unused = _kind(bill_for, "unused_time_from", "now", "none", "item_current_period_start")
        if bill_for is not None:
            bill_for.refuse_unread()
        params.refuse_unread()
        self._pauses.pause(subscription, bills_usage=usage == "now", unused_from=unused, invoices=behavior == "invoice")
        return subscription

    async def resume_subscription(self, call: Call) -> Object:
        """From now, unless ``billing_cycle_anchor`` says ``unchanged``."""
        subscription, params = self._subscription(call), call.params
        from_now = read_from_now(params) or "billing_cycle_anchor" not in params
        params.choice("payment_behavior", "resume_on_payment_attempt")
        proration = params.choice("proration_behavior", *PRORATIONS) or "create_prorations"
        params.refuse_unread()
        self._pauses.resume(subscription, from_now=from_now, proration=proration)
        return subscription


def _kind(params: Params | None, name: str, *kinds: str) -> str:
    """The ``type`` of an object below; ``now`` is everybody's default."""
    below = None if params is None else params.below(name)
    if below is None:
        return "now"
    kind = below.choice("type", *kinds)
    below.refuse_unread()
    if kind is None:
        raise missing(f"bill_for[{name}][type]")
    return kind
