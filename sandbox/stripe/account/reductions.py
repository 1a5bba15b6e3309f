"""Coupons, discounts and tax rates: what comes off the lines of an invoice, and what comes on top of them."""

import copy
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

from sandbox.stripe.account.state import Object, State, new_id
from sandbox.stripe.api.errors import invalid


def new_coupon(
    identifier: str | None, percent: Decimal | None, amount: int | None, currency: str | None, duration: str, now: int
) -> Object:
    return {
        "id": identifier or new_id("coupon"),
        "object": "coupon",
        "amount_off": amount,
        "created": now,
        "currency": currency,
        "duration": duration,
        "duration_in_months": None,
        "livemode": False,
        "max_redemptions": None,
        "metadata": {},
        "name": None,
        "percent_off": None if percent is None else float(percent),
        "redeem_by": None,
        "times_redeemed": 0,
        "valid": True,
    }


def new_tax_rate(name: str, percentage: Decimal, *, inclusive: bool, now: int) -> Object:
    return {
        "id": new_id("txr"),
        "object": "tax_rate",
        "active": True,
        "created": now,
        "display_name": name,
        "inclusive": inclusive,
        "livemode": False,
        "metadata": {},
        "percentage": float(percentage),
    }


def redeem(state: State, coupons: Sequence[str], subscription: Object) -> list[str]:
    """A discount of each coupon for this subscription; returns their ids."""
    made = []
    for coupon in coupons:
        if coupon not in state.coupons:
            raise invalid("discounts", f"No such coupon: '{coupon}'", "resource_missing")
        if state.coupons[coupon]["currency"] not in {None, subscription["currency"]}:
            raise invalid("discounts", "The currency of the coupon must be the subscription's.")
        discount: Object = {
            "id": new_id("di"),
            "object": "discount",
            "checkout_session": None,
            "customer": subscription["customer"],
            "end": None,
            "promotion_code": None,
            "source": {"coupon": coupon, "type": "coupon"},
            "start": state.now,
            "subscription": subscription["id"],
        }
        state.discounts[discount["id"]] = discount
        state.coupons[coupon]["times_redeemed"] += 1
        made.append(discount["id"])
    return made


def reduce_lines(state: State, invoice: Object, lines: Sequence[Object]) -> None:
    """Write on each line, and on the invoice, what its discounts take off and what its taxes add or include."""
    left = {line["id"]: line["amount"] for line in lines}
    for discount in invoice["discounts"]:
        coupon = state.coupons[state.discounts[discount]["source"]["coupon"]]
        for line, amount in zip(lines, _off(coupon, [left[line["id"]] for line in lines]), strict=True):
            line["discount_amounts"].append({"amount": amount, "discount": discount})
            left[line["id"]] -= amount
    for line in lines:
        line["taxes"] = [_tax(state.tax_rates[rate["id"]], left[line["id"]]) for rate in invoice["default_tax_rates"]]
    invoice["total_discount_amounts"] = [
        {"amount": sum(line["discount_amounts"][place]["amount"] for line in lines), "discount": discount}
        for place, discount in enumerate(invoice["discounts"])
    ]
    invoice["total_taxes"] = [
        summed([line["taxes"][place] for line in lines]) for place in range(len(invoice["default_tax_rates"])) if lines
    ]


def summed(taxes: Sequence[Object]) -> Object:
    """The same tax of several lines as one."""
    amounts = {name: sum(tax[name] for tax in taxes) for name in ("amount", "taxable_amount")}
    return {**copy.deepcopy(taxes[0]), **amounts}


def total_of(lines: Sequence[Object]) -> int:
    """What lines come to, less their discounts, with the taxes that are not in their amounts."""
    return sum(
        line["amount"]
        - sum(row["amount"] for row in line["discount_amounts"])
        + sum(tax["amount"] for tax in line["taxes"] if tax["tax_behavior"] == "exclusive")
        for line in lines
    )


def part_of(line: Object, amount: int) -> Object:
    """``amount`` of this line, with its part of the discounts and taxes: what a credit note gives back."""

    def share(value: int) -> int:
        return _rounded(Decimal(value) * amount / line["amount"]) if line["amount"] else 0

    return {
        "amount": amount,
        "discount_amounts": [{**row, "amount": share(row["amount"])} for row in line["discount_amounts"]],
        "taxes": [
            {**tax, "amount": share(tax["amount"]), "taxable_amount": share(tax["taxable_amount"])}
            for tax in line["taxes"]
        ],
    }


def _off(coupon: Object, amounts: Sequence[int]) -> list[int]:
    if coupon["percent_off"] is not None:
        return [_rounded(Decimal(amount) * Decimal(str(coupon["percent_off"])) / 100) for amount in amounts]
    whole = max(0, sum(amounts))
    off, given = min(coupon["amount_off"], whole), 0
    parts = []
    for amount in amounts:
        parts.append(_rounded(Decimal(amount) * off / whole) if whole else 0)
        given += parts[-1]
    if parts:
        parts[-1] += off - given
    return parts


def _tax(rate: Object, taxable: int) -> Object:
    percentage = Decimal(str(rate["percentage"]))
    whole = 100 + percentage if rate["inclusive"] else Decimal(100)
    return {
        "amount": _rounded(Decimal(taxable) * percentage / whole),
        "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
        "tax_rate_details": {"tax_rate": rate["id"]},
        "taxability_reason": "standard_rated",
        "taxable_amount": taxable,
        "type": "tax_rate_details",
    }


def _rounded(value: Decimal) -> int:
    return int(value.quantize(Decimal(1), ROUND_HALF_UP))
