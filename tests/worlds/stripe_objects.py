"""Objects as Stripe shows them in 2026-10-28.endive, and the older shapes that they had, for tests of the mirror."""

from datetime import datetime
from typing import Any

from tests.worlds.world import PERIOD_END, PERIOD_START

Json = dict[str, Any]


def price(
    price_id: str = "price_starter",
    plan: str | None = "starter",
    usage_type: str = "metered",
    meter: str = "mtr_minutes",
) -> Json:
    return {
        "id": price_id,
        "object": "price",
        "active": True,
        "currency": "usd",
        "lookup_key": None,
        "metadata": {"altiora_plan": plan} if plan else {},
        "product": "prod_minutes",
        "recurring": {"interval": "month", "meter": meter if usage_type == "metered" else None}
        | {"usage_type": usage_type},
        "type": "recurring",
    }


def subscription(
    stripe_id: str = "sub_new",
    customer: str = "cus_B",
    *,
    prices: list[Json] | None = None,
    start: datetime = PERIOD_START,
    end: datetime = PERIOD_END,
    **fields: Any,
) -> Json:
    made = {
        "id": stripe_id,
        "object": "subscription",
        "billing_cycle_anchor": _seconds(start),
        "cancel_at_period_end": False,
        "canceled_at": None,
        "created": _seconds(start),
        "customer": customer,
        "ended_at": None,
        "items": {
            "object": "list",
            "data": [
                {
                    "id": f"si_{each['id']}",
                    "object": "subscription_item",
                    "current_period_start": _seconds(start),
                    "current_period_end": _seconds(end),
                    "price": each,
                }
                for each in ([price()] if prices is None else prices)
            ],
            "has_more": False,
        },
        "metadata": {},
        "pause_collection": None,
        "start_date": _seconds(start),
        "status": "active",
        "trial_end": None,
    }
    return made | fields


def in_the_shape_of_2020(subscription: Json) -> Json:
    """The period at the top, and a plan beside each price."""
    items = [dict(item) for item in subscription["items"]["data"]]
    periods = [(item.pop("current_period_start"), item.pop("current_period_end")) for item in items]
    for item in items:
        item["plan"] = {"id": item["price"]["id"], "usage_type": item["price"]["recurring"]["usage_type"]}
    return subscription | {
        "items": {"object": "list", "data": items, "has_more": False},
        "current_period_start": periods[0][0],
        "current_period_end": periods[0][1],
    }


def line(price_id: str = "price_starter", quantity: Any = 0, start: datetime = PERIOD_START, end: Any = None) -> Json:
    return {
        "id": f"il_{price_id}_{quantity}",
        "object": "line_item",
        "period": {"start": _seconds(start), "end": _seconds(end or PERIOD_END)},
        "parent": {"type": "subscription_item_details", "subscription_item_details": {"subscription": "sub_new"}},
        "pricing": {"price_details": {"price": price_id, "product": "prod_minutes"}, "type": "price_details"},
        "quantity": int(float(quantity)),
        "quantity_decimal": str(quantity),
    }


def invoice(invoice_id: str = "in_1", subscription_id: str = "sub_new", customer: str = "cus_B", **fields: Any) -> Json:
    made = {
        "id": invoice_id,
        "object": "invoice",
        "amount_due": 4900,
        "automatically_finalizes_at": _seconds(PERIOD_END) + 3600,
        "billing_reason": "subscription_cycle",
        "created": _seconds(PERIOD_END),
        "currency": "usd",
        "customer": customer,
        "lines": {"object": "list", "data": [line()], "has_more": False},
        "parent": {
            "subscription_details": {"metadata": {}, "subscription": subscription_id},
            "type": "subscription_details",
        },
        "period_start": _seconds(PERIOD_START),
        "period_end": _seconds(PERIOD_END),
        "status": "draft",
    }
    return made | fields


def lines(*rows: Json, has_more: bool = False) -> Json:
    return {"object": "list", "data": list(rows), "has_more": has_more}


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())
