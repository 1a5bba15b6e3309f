"""What a new subscription, item, invoice or customer looks like in API version 2026-10-28.endive."""

import copy

from sandbox.stripe.account.state import Object, new_id


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
        "default_tax_rates": [],
        "latest_invoice": None,
        "livemode": False,
        "metadata": metadata,
        "pause_collection": None,
        "pending_update": None,
        "schedule": None,
        "start_date": start,
        "status": "active",
        "status_details": None,
        "test_clock": None,
        "trial_end": None,
        "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
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


def new_schedule(subscription: Object, phase: Object, metadata: dict[str, str], now: int) -> Object:
    """An active schedule with one phase."""
    return {
        "id": new_id("sub_sched"),
        "object": "subscription_schedule",
        "application": None,
        "billing_mode": copy.deepcopy(subscription["billing_mode"]),
        "canceled_at": None,
        "completed_at": None,
        "created": now,
        "current_phase": {"end_date": phase["end_date"], "start_date": phase["start_date"]},
        "customer": subscription["customer"],
        "default_settings": {
            "application_fee_percent": None,
            "billing_cycle_anchor": "automatic",
            "billing_thresholds": None,
            "collection_method": "charge_automatically",
            "default_payment_method": None,
            "description": None,
            "on_behalf_of": None,
            "transfer_data": None,
        },
        "end_behavior": "release",
        "livemode": False,
        "metadata": metadata,
        "pause_schedules": [],
        "phases": [phase],
        "released_at": None,
        "released_subscription": None,
        "status": "active",
        "subscription": subscription["id"],
        "test_clock": None,
    }


def new_phase(subscription: Object, priced: list[tuple[Object, int]], start: int, end: int, proration: str) -> Object:
    """A phase in which the subscription has these prices; metered ones have no quantity."""
    items = []
    for price, quantity in priced:
        item = {"billing_thresholds": None, "discounts": [], "metadata": {}, "price": price["id"], "tax_rates": []}
        items.append(item if price["recurring"]["usage_type"] == "metered" else item | {"quantity": quantity})
    return {
        "add_invoice_items": [],
        "application_fee_percent": None,
        "billing_cycle_anchor": None,
        "billing_thresholds": None,
        "collection_method": None,
        "currency": subscription["currency"],
        "default_payment_method": None,
        "default_tax_rates": copy.deepcopy(subscription["default_tax_rates"]),
        "description": None,
        "discounts": [{"coupon": None, "discount": each, "promotion_code": None} for each in subscription["discounts"]],
        "end_date": end,
        "invoice_settings": None,
        "items": items,
        "metadata": {},
        "on_behalf_of": None,
        "proration_behavior": proration,
        "start_date": start,
        "transfer_data": None,
        "trial_end": subscription["trial_end"] if start < (subscription["trial_end"] or 0) <= end else None,
    }


def new_invoice(subscription: Object, *, reason: str, period: tuple[int, int], now: int) -> Object:
    """A draft without lines, which nothing finalises by itself."""
    identifier = new_id("in")
    return {
        "id": identifier,
        "object": "invoice",
        "amount_overpaid": 0,
        "amount_paid": 0,
        "amount_shipping": 0,
        "attempt_count": 0,
        "attempted": False,
        "auto_advance": False,
        "automatically_finalizes_at": None,
        "billing_reason": reason,
        "collection_method": "charge_automatically",
        "created": now,
        "currency": subscription["currency"],
        "customer": subscription["customer"],
        "default_tax_rates": copy.deepcopy(subscription["default_tax_rates"]),
        "description": None,
        "discounts": list(subscription["discounts"]),
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
        "post_payment_credit_notes_amount": 0,
        "pre_payment_credit_notes_amount": 0,
        "starting_balance": 0,
        "status": "draft",
        "status_details": {"uncollectible": None},
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_discount_amounts": [],
        "total_taxes": [],
    }
