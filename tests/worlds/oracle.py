"""What a subscription's life should have cost, told from the stand-in's own record and the calls alone.

It imports nothing of ours: whatever the books say is held against this. A span is the time of one price of minutes in
one period; its true minutes are those of the calls that ended in it, and its true money is what its price makes of
them. Amounts are in the currency's smallest unit, before discounts and taxes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import Enum
from typing import Any


class Fate(Enum):
    """What has become of a span's minutes at Stripe."""

    INVOICED = "invoiced"
    """A final invoice has a line for it."""
    FREE = "free"
    """Of a trial."""
    LOST = "lost"
    """On no invoice: dropped by a swap, or by an end without a last invoice."""
    VOID = "void"
    """Its invoice is void."""


@dataclass(frozen=True)
class Span:
    """Seconds since the epoch, half-open; ``minutes`` and ``worth`` are true, ``billed`` and ``charged`` Stripe's."""

    subscription: str
    price: str
    start: int
    end: int
    fate: Fate
    minutes: int
    worth: int
    billed: int
    charged: int


def cost(tiers: Sequence[Mapping[str, Any]], minutes: int) -> int:
    """What so many minutes cost at a graduated price, each tier rounded half up."""
    total, below = 0, 0
    for place, tier in enumerate(tiers):
        end = minutes if tier["up_to"] is None else min(minutes, tier["up_to"])
        if place and end <= below:
            break
        units = Decimal(max(0, end - below)) * Decimal(tier["unit_amount_decimal"] or 0)
        total += int(units.quantize(Decimal(1), ROUND_HALF_UP)) + (tier["flat_amount"] or 0)
        below = end
    return total


def spans_of(
    events: Iterable[Mapping[str, Any]],
    invoices: Sequence[Mapping[str, Any]],
    tiers: Mapping[str, Sequence[Mapping[str, Any]]],
    meter: str,
    minutes_in: Callable[[int, int], int],
) -> list[Span]:
    """All spans that are over, by start. ``events``: the snapshots as they left; ``minutes_in``: of calls."""
    found = []
    for subscription, stretches in _stretches(events, meter).items():
        for price, start, end, trial in stretches:
            lines = [
                (invoice, row)
                for invoice in invoices
                for row in invoice["metered"]
                if row["price"] == price
                and row["period_start"] == start < row["period_end"]
                and _of(invoice) == subscription
                and invoice["status"] != "draft"
            ]
            final = [(invoice, row) for invoice, row in lines if invoice["status"] != "void"]
            fate = Fate.FREE if trial else Fate.INVOICED if final else Fate.VOID if lines else Fate.LOST
            minutes = minutes_in(start, end)
            charged = sum(
                line["amount"]
                for invoice, row in final
                for line in invoice["lines"]["data"]
                if line["pricing"]["price_details"]["price"] == price and line["period"]["start"] == start
            )
            found.append(
                Span(
                    subscription,
                    price,
                    start,
                    end,
                    fate,
                    minutes,
                    0 if trial else cost(tiers[price], minutes),
                    sum(int(row["quantity"]) for _, row in final),
                    charged,
                )
            )
    return sorted(found, key=lambda span: span.start)


def _of(invoice: Mapping[str, Any]) -> str:
    return str(invoice["parent"]["subscription_details"]["subscription"])


def _stretches(events: Iterable[Mapping[str, Any]], meter: str) -> dict[str, list[tuple[str, int, int, bool]]]:
    """By subscription: the price of minutes, from when until when it counted, and whether that was a trial's time."""
    found: dict[str, list[tuple[str, int, int, bool]]] = {}
    open_: dict[str, tuple[str, int, int, bool]] = {}  # price, start, the period's start, trial
    for event in events:
        it = event["data"]["object"]
        if not event["type"].startswith("customer.subscription.") or it["status"] == "incomplete":
            continue
        item = next((each for each in it["items"]["data"] if each["price"]["recurring"]["meter"] == meter), None)
        ended = it["ended_at"]
        if it["id"] in open_:
            price, start, period, trial = open_[it["id"]]
            if item is None or ended is not None:
                until = event["created"] if ended is None else ended
            elif item["current_period_start"] != period:
                until = item["current_period_start"]
            elif item["price"]["id"] != price:
                until = event["created"]
            else:
                continue
            del open_[it["id"]]
            if start < until:
                found.setdefault(it["id"], []).append((price, start, until, trial))
            start = until
        elif item is not None and ended is None:
            start = item["current_period_start"]
        if item is not None and ended is None:
            trial = it["status"] == "trialing"
            open_[it["id"]] = (item["price"]["id"], start, item["current_period_start"], trial)
    return found
