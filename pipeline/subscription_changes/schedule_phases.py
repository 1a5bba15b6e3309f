"""A phase of a schedule as a request says it: what is the customer's is sent back, or Stripe would reset it.

Docs: "Update a schedule" (docs.stripe.com/api/subscription_schedules/update). A discount is kept by its id, since its
coupon would make a new one; ``add_invoice_items`` would be charged again; metadata of ours is no customer's.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pipeline.providers.stripe_fields import below, identifier

Json = Mapping[str, Any]

#: Ours begin so.
OURS: Final = "altiora_"

#: Sent back as they are shown.
_PLAIN: Final = (
    "application_fee_percent",
    "billing_thresholds",
    "collection_method",
    "description",
    "transfer_data",
)
#: Shown as an object, or as its id; named by that.
_BY_ID: Final = ("default_payment_method", "on_behalf_of")
#: Of the phase itself, which the request says anew; and what Stripe shows of past charges.
_OF_THE_PHASE: Final = (
    "add_invoice_items",
    "billing_cycle_anchor",
    "currency",
    "end_date",
    "items",
    "proration_behavior",
    "start_date",
    "trial_end",
)
_KNOWN: Final = frozenset(
    (
        *_PLAIN,
        *_BY_ID,
        *_OF_THE_PHASE,
        "automatic_tax",
        "default_tax_rates",
        "discounts",
        "invoice_settings",
        "metadata",
    )
)
_KNOWN_OF_ITEMS: Final = frozenset(("billing_thresholds", "discounts", "metadata", "price", "quantity", "tax_rates"))
#: Shown for old shapes' sake: it says what ``price`` says.
_SHADOWS: Final = frozenset(("plan", "trial"))


class PhaseError(Exception):
    """The phase has something that can't be kept; the message names it."""


def current_phase(schedule: Json) -> Json:
    """The phase that runs now: earlier ones are shown too. Raises PhaseError where the schedule has not begun."""
    start = below(schedule, "current_phase", "start_date")
    for phase in schedule["phases"]:
        if start is None or phase["start_date"] == start:
            found: Json = phase
            return found
    raise PhaseError(f"schedule {schedule['id']} has no phase that runs now")


def see_that_it_is_ours(schedule: Json) -> None:
    """Raises PhaseError for a schedule that says what comes next and is not of ours: somebody else planned that."""
    start = current_phase(schedule)["start_date"]
    planned = [phase for phase in schedule["phases"] if phase["start_date"] > start]
    ours = any(str(key).startswith(OURS) for key in schedule.get("metadata") or {})
    if not ours and (planned or schedule.get("end_behavior") == "cancel"):
        raise PhaseError(
            f"the subscription is under schedule {schedule['id']}, which somebody else has made: it says what comes"
            " next. Change or release it in Stripe's dashboard"
        )


def sent_back(phase: Json) -> dict[str, Any]:
    """The present phase, whole. Raises PhaseError for what we don't know how to keep."""
    return {**customers_own(phase), "items": [kept_item(item) for item in phase["items"]]} | {
        name: phase[name] for name in ("trial_end",) if phase.get(name) is not None
    }


def customers_own(phase: Json) -> dict[str, Any]:
    """What of a phase is the customer's, and so holds in the one after it too."""
    _refuse_unknown(phase, _KNOWN, "its phase")
    own: dict[str, Any] = {name: phase[name] for name in _PLAIN if phase.get(name) is not None}
    own |= {name: identifier(phase[name]) for name in _BY_ID if phase.get(name) is not None}
    own["discounts"] = _discounts(phase) or ""
    own["default_tax_rates"] = _ids(phase.get("default_tax_rates")) or ""
    own["metadata"] = _metadata(phase)
    settings = phase.get("invoice_settings")
    if settings is not None:
        own["invoice_settings"] = {name: value for name, value in settings.items() if value is not None}
    if below(phase, "automatic_tax", "enabled") is not None:
        own["automatic_tax"] = {"enabled": phase["automatic_tax"]["enabled"]}
    return {name: value for name, value in own.items() if value not in ({}, None)}


def kept_item(item: Json, price: str | None = None, quantity: int | None = None) -> dict[str, Any]:
    """One item of a phase, with another price where one is given, and what else it has."""
    _refuse_unknown(item, _KNOWN_OF_ITEMS | _SHADOWS, "an item")
    kept: dict[str, Any] = {"price": price or identifier(item["price"])}
    count = quantity if price is not None else item.get("quantity")
    if count is not None:
        kept["quantity"] = count
    own = {
        "discounts": _discounts(item),
        "tax_rates": _ids(item.get("tax_rates")),
        "metadata": _metadata(item),
        "billing_thresholds": item.get("billing_thresholds"),
    }
    return kept | {name: value for name, value in own.items() if value}


def _refuse_unknown(holder: Json, known: Iterable[str], what: str) -> None:
    seen = {name for name, value in holder.items() if value not in (None, [], {})}
    odd = sorted(seen - {*known, *_SHADOWS})
    if odd:
        raise PhaseError(f"{what} has {', '.join(odd)}, which can't be kept: change the plan in Stripe's dashboard")


def _discounts(holder: Json) -> list[dict[str, str]]:
    kept = []
    for each in holder.get("discounts") or ():
        discount = identifier(each.get("discount")) if isinstance(each, Mapping) else identifier(each)
        if discount is None:
            raise PhaseError("it has a coupon that is no discount yet, which would be given anew: wait for its invoice")
        kept.append({"discount": discount})
    return kept


def _ids(rates: Any) -> list[str]:
    return [found for each in rates or () if (found := identifier(each)) is not None]


def _metadata(holder: Json) -> dict[str, str]:
    return {key: value for key, value in (holder.get("metadata") or {}).items() if not key.startswith(OURS)}
