"""Snapshot events in the shape of older API versions: an endpoint gets what its own version says, for ever.

Told apart are the versions before 2025-03-31.basil (periods on the subscription, ``invoice.subscription``, prices on
the lines), before 2025-06-30.basil (no ``billing_mode``), before 2026-03-25.dahlia (no ``quantity_decimal``) and
before 2026-09-30.endive (no ``status_details``, no ``pause_schedules``).
"""

import copy
from collections.abc import Mapping
from typing import Any

from sandbox.stripe.account.state import Object, difference

BASIL = "2025-03-31"
BILLING_MODE = "2025-06-30"
DAHLIA = "2026-03-25"
ENDIVE = "2026-09-30"


def reshaped(data: Object, version: str, prices: Mapping[str, Object]) -> Object:
    """An event's ``data`` as ``version`` shows it. ``previous_attributes`` may be partial, and stays so."""
    after = old_object(data["object"], version, prices)
    if "previous_attributes" not in data:
        return {"object": after}
    before = old_object(_overlaid(data["object"], data["previous_attributes"]), version, prices)
    return {"object": after, "previous_attributes": difference(before, after)}


def old_object(current: Object, version: str, prices: Mapping[str, Object]) -> Object:
    """One object as ``version`` shows it; kinds that never changed are as they are."""
    old, day = copy.deepcopy(current), version[:10]
    if day < ENDIVE:
        old.pop("status_details", None)
        old.pop("pause_schedules", None)
    if day < BILLING_MODE:
        old.pop("billing_mode", None)
    if old["object"] == "subscription" and day < BASIL:
        _old_subscription(old)
    if old["object"] == "invoice":
        for line in old["lines"]["data"]:
            _old_line(line, day, prices)
        if day < BASIL:
            _old_invoice(old)
    return old


def _overlaid(current: Object, previous: Mapping[str, Any]) -> Object:
    """The object as it was: today's with the old values put over it."""
    was = dict(current)
    for name, old in previous.items():
        now = current.get(name)
        was[name] = _overlaid(now, old) if isinstance(now, dict) and isinstance(old, dict) else old
    return was


def _old_subscription(old: Object) -> None:
    items = old["items"]["data"]
    for item in items:
        start, end = item.pop("current_period_start"), item.pop("current_period_end")
        old.update(current_period_start=start, current_period_end=end)
        item["plan"] = old_plan(item["price"])
    only = items[0] if len(items) == 1 else {}
    old.update(plan=only.get("plan"), quantity=only.get("quantity"), discount=None)


def _old_invoice(old: Object) -> None:
    details = old.pop("parent")["subscription_details"]
    old.update(
        charge=None,
        paid=old["status"] == "paid",
        payment_intent=None,
        quote=None,
        subscription=details["subscription"],
        subscription_details={"metadata": details["metadata"]},
        tax=None,
    )
    old["total_tax_amounts"] = [_old_tax(tax) for tax in old.pop("total_taxes")]


def _old_tax(tax: Object) -> Object:
    return {
        "amount": tax["amount"],
        "inclusive": tax["tax_behavior"] == "inclusive",
        "tax_rate": tax["tax_rate_details"]["tax_rate"],
        "taxability_reason": tax["taxability_reason"],
        "taxable_amount": tax["taxable_amount"],
    }


def _old_line(line: Object, day: str, prices: Mapping[str, Object]) -> None:
    if day < DAHLIA:
        line.pop("quantity_decimal")
    if day >= BASIL:
        return
    details = line.pop("parent")["subscription_item_details"]
    price = prices[line.pop("pricing")["price_details"]["price"]]
    line.pop("subtotal")
    taxes = [_old_tax(tax) for tax in line.pop("taxes")]
    line.update(
        plan=old_plan(price),
        price=price,
        proration=details["proration"],
        proration_details=details["proration_details"],
        subscription=details["subscription"],
        subscription_item=details["subscription_item"],
        tax_amounts=taxes,
        tax_rates=[],
        type="subscription",
    )


def old_plan(price: Object) -> Object:
    """The plan that stood beside a recurring price."""
    recurring = price["recurring"]
    return {
        "id": price["id"],
        "object": "plan",
        "active": price["active"],
        "aggregate_usage": None,
        "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"],
        "billing_scheme": price["billing_scheme"],
        "created": price["created"],
        "currency": price["currency"],
        "interval": recurring["interval"],
        "interval_count": recurring["interval_count"],
        "livemode": price["livemode"],
        "metadata": price["metadata"],
        "meter": recurring["meter"],
        "nickname": price["nickname"],
        "product": price["product"],
        "tiers_mode": price["tiers_mode"],
        "transform_usage": None,
        "trial_period_days": None,
        "usage_type": recurring["usage_type"],
    }
