"""What a test, the demo or the simulator does to the stand-in over HTTP, beside Stripe's own API: ``/_sandbox``."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.control import instant_of
from sandbox.faults import Faults
from sandbox.stripe.api.errors import StripeError
from sandbox.stripe.by_hand import StripeAccount

PREFIX = "/_sandbox"
Body = dict[str, Any]


def control_routes(stripe: StripeAccount, faults: Faults) -> list[BaseRoute]:
    """The routes. Bodies and answers are JSON; a wrong one is answered 400 with a sentence."""

    async def script(body: Body) -> Any:
        faults.script(body["request"], body["faults"])

    async def rates(body: Body) -> Any:
        """Rates by name; ``{"down": {"stripe": 5}}`` takes a service down for seconds."""
        for service, seconds in body.pop("down", {}).items():
            faults.take_down(service, seconds)
        faults.set_rates(**body)

    async def machine_time(body: Body) -> Any:
        stripe.state.machine_ahead += body["seconds"]

    async def rules(body: Body) -> Any:
        for name, value in body.items():
            if not hasattr(stripe.state.rules, name):
                raise ValueError(f"{name} is no rule of the stand-in")
            setattr(stripe.state.rules, name, value)

    async def meters(body: Body) -> Any:
        return await stripe.create_meter(body["event_name"])

    async def plan_prices(body: Body) -> Any:
        return await stripe.create_plan_prices(
            body["plan"], body["flat_cents"], body["included_minutes"], body["overage_cents_decimal"]
        )

    async def customers(body: Body) -> Any:
        return await stripe.create_customer(body.get("metadata", {}), body["name"])

    async def subscriptions(body: Body) -> Any:
        start = instant_of(body["start"]) if "start" in body else stripe.state.timeline.now
        return await stripe.create_subscription(
            body["customer"], body["prices"], start, body.get("metadata", {}), body.get("billing_mode", "flexible")
        )

    async def cancel(body: Body) -> Any:
        await stripe.cancel_subscription(
            body["subscription"],
            at_period_end=body.get("at_period_end", False),
            invoice_now=body.get("invoice_now", False),
        )

    async def cancel_in_portal(body: Body) -> Any:
        await stripe.cancel_in_portal(body["subscription"])

    async def change_price(body: Body) -> Any:
        await stripe.change_price(
            body["subscription"], body["old"], body["new"], body.get("proration_behavior", "create_prorations")
        )

    async def fail_refund(body: Body) -> Any:
        await stripe.fail_refund(body["refund"])

    async def dispute(body: Body) -> Any:
        return await stripe.dispute(body["invoice"], body.get("status", "needs_response"))

    async def close_dispute(body: Body) -> Any:
        await stripe.close_dispute(body["dispute"], body["status"])

    async def fail_payment(body: Body) -> Any:
        stripe.fail_payment(body["customer"])

    async def break_payment(body: Body) -> Any:
        stripe.break_payment(body["customer"])

    async def repair_payment(body: Body) -> Any:
        stripe.repair_payment(body["customer"])

    async def remove_payment_method(body: Body) -> Any:
        stripe.remove_payment_method(body["customer"])

    async def add_payment_method(body: Body) -> Any:
        stripe.add_payment_method(body["customer"])

    async def pay(body: Body) -> Any:
        await stripe.pay(body["customer"])

    async def webhook_endpoints(body: Body) -> Any:
        return stripe.add_webhook_endpoint(body["url"], body["enabled_events"])

    async def delivered(body: Body) -> Any:
        stripe.mark_delivered(body["event"])

    async def summary(body: Body) -> Any:
        return stripe.summary(body["customer"])

    async def invoices(_: Body) -> Any:
        return stripe.invoices()

    async def meter_events(_: Body) -> Any:
        return stripe.meter_events()

    return [
        _route("POST", "/faults/script", script),
        _route("POST", "/faults", rates),
        _route("POST", "/stripe/machine-time", machine_time),
        _route("POST", "/stripe/rules", rules),
        _route("POST", "/stripe/meters", meters),
        _route("POST", "/stripe/plan-prices", plan_prices),
        _route("POST", "/stripe/customers", customers),
        _route("POST", "/stripe/subscriptions", subscriptions),
        _route("POST", "/stripe/cancel", cancel),
        _route("POST", "/stripe/portal/cancel", cancel_in_portal),
        _route("POST", "/stripe/change-price", change_price),
        _route("POST", "/stripe/fail-refund", fail_refund),
        _route("POST", "/stripe/dispute", dispute),
        _route("POST", "/stripe/close-dispute", close_dispute),
        _route("POST", "/stripe/fail-payment", fail_payment),
        _route("POST", "/stripe/break-payment", break_payment),
        _route("POST", "/stripe/repair-payment", repair_payment),
        _route("POST", "/stripe/remove-payment-method", remove_payment_method),
        _route("POST", "/stripe/add-payment-method", add_payment_method),
        _route("POST", "/stripe/pay", pay),
        _route("POST", "/stripe/webhook-endpoints", webhook_endpoints),
        _route("POST", "/stripe/delivered", delivered),
        _route("GET", "/stripe/summary", summary),
        _route("GET", "/stripe/invoices", invoices),
        _route("GET", "/stripe/meter_events", meter_events),
    ]


def _route(method: str, path: str, act: Callable[[Body], Awaitable[Any]]) -> Route:
    async def endpoint(request: Request) -> Response:
        text = await request.body()
        try:
            body = json.loads(text) if method == "POST" and text else dict(request.query_params)
            return JSONResponse(await act(body))
        except (KeyError, TypeError, ValueError, StripeError) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=400)

    return Route(PREFIX + path, endpoint, methods=[method])
