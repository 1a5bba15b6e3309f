"""What a price gives and costs, by its tiers: minutes that cost nothing, and the cents of any number of minutes.

Tiers are Stripe's, graduated: each prices the minutes between the end of the one before and its own. Amounts are in the
currency's smallest unit (cents, yen).
"""

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final

from pipeline.providers.stripe_fields import Tier

#: The included minutes of a price whose every tier costs nothing.
UNLIMITED: Final = 2**31 - 1


def tariffs_document(tariffs: Mapping[str, Sequence[Tier]]) -> dict[str, Any]:
    """Tiers by currency as they are stored: ``{"usd": {"included": 5, "tiers": [[5, "0", "0"], [null, "9", "0"]]}}``"""
    return {
        currency: {
            "included": included_minutes(tiers),
            "tiers": [[tier.up_to, str(tier.unit_amount), str(tier.flat_amount)] for tier in tiers],
        }
        for currency, tiers in tariffs.items()
    }


def stored_tiers(document: Sequence[Sequence[Any]]) -> tuple[Tier, ...]:
    """Tiers as they are stored with a price or a record."""
    return tuple(Tier(up_to, Decimal(unit), Decimal(flat)) for up_to, unit, flat in document)


def included_minutes(tiers: Sequence[Tier]) -> int:
    """The minutes of a period that cost nothing: those of the leading tiers without a price; UNLIMITED for all."""
    included = 0
    for tier in tiers:
        if tier.unit_amount or tier.flat_amount:
            return included
        included = UNLIMITED if tier.up_to is None else min(tier.up_to, UNLIMITED)
    return included


def cost(tiers: Sequence[Tier], minutes: int) -> int:
    """What so many minutes of one period cost. Stripe rounds each tier's share to whole units, half up."""
    total, below = Decimal(0), 0
    for place, tier in enumerate(tiers):
        top = minutes if tier.up_to is None else min(minutes, tier.up_to)
        if place > 0 and top <= below:
            break
        share = (max(0, top - below) * tier.unit_amount).quantize(Decimal(1), ROUND_HALF_UP)
        total, below = total + share + tier.flat_amount.quantize(Decimal(1), ROUND_HALF_UP), top
    return int(total)
