"""The lines of an invoice, as the API shows what it charges for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from sandbox.stripe.account.charges import Charge
from sandbox.stripe.account.prices import Share
from sandbox.stripe.account.state import Object, new_id


@dataclass
class Sources:
    """What an invoice's lines are made from. A line keeps its id while its draft moves."""

    charges: Sequence[Charge]
    line_ids: dict[tuple[int, int], str] = field(default_factory=dict)

    def lines(self, invoice: Object, *, per_tier: bool) -> list[Object]:
        """The lines of this moment; ``per_tier`` gives a graduated price one for each tier that it reaches."""
        return [
            _line(invoice, self.line_ids.setdefault((place, share.tier), new_id("il")), charge, share)
            for place, charge in enumerate(self.charges)
            for share in _shares(charge, per_tier=per_tier)
        ]


def _shares(charge: Charge, *, per_tier: bool) -> list[Share]:
    parts = charge.parts()
    if per_tier or len(parts) == 1:
        return parts
    quantity = sum((part.quantity for part in parts), Decimal(0))
    return [Share(1, quantity, sum((Decimal(part.cents) for part in parts), Decimal(0)) / quantity)]


def _line(invoice: Object, line_id: str, charge: Charge, share: Share) -> Object:
    price = charge.price
    details = {
        "invoice_item": None,
        "proration": charge.proration,
        "proration_details": {"credited_items": None},
        "subscription": invoice["parent"]["subscription_details"]["subscription"],
        "subscription_item": charge.item,
    }
    return {
        "id": line_id,
        "object": "line_item",
        "amount": share.cents,
        "currency": invoice["currency"],
        "description": f"{share.quantity} x {price['nickname'] or price['id']} (tier {share.tier})"
        if charge.metered
        else price["nickname"],
        "discount_amounts": [],
        "discountable": True,
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": {},
        "parent": {
            "invoice_item_details": None,
            "subscription_item_details": details,
            "type": "subscription_item_details",
        },
        "period": {"end": charge.end, "start": charge.start},
        "pretax_credit_amounts": [],
        "pricing": {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": f"{share.unit.normalize():f}",
        },
        "quantity": int(share.quantity),
        "quantity_decimal": str(share.quantity),
        "subtotal": share.cents,
        "taxes": [],
    }
