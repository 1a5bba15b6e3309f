"""What a new subscription, item, invoice or customer looks like in API version 2026-10-28.endive."""

import copy

from sandbox.stripe_state import Object, new_id


def new_customer(name: str | None, email: str | None, metadata: dict[str, str], now: int) -> Object:
    return {
        "id": new_id("cus"),
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": now,
        "currency": None,
        "delinquent": False,
        "description": None,
        "email": email,
        "livemode": False,
        "metadata": metadata,
        "name": name,
        "phone": None,
        "shipping": None,
        "test_clock": None,
    }


def new_subscription(customer: str, currency: str, metadata: dict[str, str], start: int, now: int) -> Object:
    """Periods are on the items only; billing is flexible, the default since 2025-09-30."""
    identifier = new_id("sub")
    return {
        "id": identifier,
        "object": "subscription",
        "application": None,
        "automatic_tax": {"disabled_reason": None, "enabled": False, "liability": None},
        "billing_cycle_anchor": start,
        "billing_cycle_anchor_config": None,
        "billing_mode": {
            "flexible": {"proration_discounts": "included"},
            "type": "flexible",
            "updated_at": now,
        },
        "billing_thresholds": None,
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "cancellation_details": {"comment": None, "feedback": None, "reason": None},
        "collection_method": "charge_automatically",
        "created": now,
        "currency": currency,
        "customer": customer,
        "days_until_due": None,
        "default_payment_method": None,
        "description": None,
        "discounts": [],
        "ended_at": None,
        "items": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/subscription_items?subscription={identifier}",
        },
        "latest_invoice": None,
        "livemode": False,
        "metadata": metadata,
        "pause_collection": None,
        "pending_update": None,
        "schedule": None,
        "start_date": start,
        "status": "active",
        "test_clock": None,
        "trial_end": None,
        "trial_start": None,
    }


def new_item(subscription: str, price: Object, bounds: tuple[int, int], now: int) -> Object:
    """A subscription item; a licensed one also gets its ``quantity``."""
    return {
        "id": new_id("si"),
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": now,
        "current_period_end": bounds[1],
        "current_period_start": bounds[0],
        "discounts": [],
        "metadata": {},
        "price": price,
        "subscription": subscription,
        "tax_rates": [],
    }


def new_invoice(
    subscription: Object, *, reason: str, period: tuple[int, int], grace_seconds: int | None, now: int
) -> Object:
    """A draft without lines; ``grace_seconds`` None: nothing finalises it by itself."""
    identifier = new_id("in")
    return {
        "id": identifier,
        "object": "invoice",
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": grace_seconds is not None,
        "automatically_finalizes_at": None if grace_seconds is None else now + grace_seconds,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": now,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "default_tax_rates": [],
        "description": None,
        "discounts": [],
        "due_date": None,
        "effective_at": None,
        "ending_balance": None,
        "hosted_invoice_url": None,
        "lines": {"object": "list", "data": [], "has_more": False, "url": f"/v1/invoices/{identifier}/lines"},
        "livemode": False,
        "metadata": {},
        "next_payment_attempt": None,
        "number": None,
        "parent": {
            "quote_details": None,
            "subscription_details": {
                "metadata": copy.deepcopy(subscription["metadata"]),
                "subscription": subscription["id"],
            },
            "type": "subscription_details",
        },
        "period_end": period[1],
        "period_start": period[0],
        "status": "draft",
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_taxes": [],
    }
