"""The kinds of subscription changes: what each wants, how a subscription looks that has it, and how Stripe is asked.

Each says how things should be, not what to do: Stripe is looked at first, so a change whose effect is there already is
done without another call, also when the answer to an earlier one was lost.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pipeline.providers.stripe_fields import Item, read_line, rows
from pipeline.providers.stripe_words import SubscriptionStatus, UsageType
from pipeline.subscription_changes.schedule_phases import (
    OURS,
    current_phase,
    customers_own,
    kept_item,
    see_that_it_is_ours,
    sent_back,
)
from pipeline.subscription_changes.stripe_port import StripePort
from pipeline.subscription_changes.subscription_look import SubscriptionLook as Look

Json = Mapping[str, Any]


class ChangeKind(StrEnum):
    """What can be wanted of a subscription."""

    CANCEL_AT_PERIOD_END = "cancel-at-period-end"
    KEEP = "keep"
    """Undoes a cancellation or a downgrade that has not come yet."""
    CANCEL_NOW = "cancel-now"
    UPGRADE = "upgrade"
    """To a dearer plan, now."""
    DOWNGRADE = "downgrade"
    """To a cheaper plan, when the present period ends."""
    PAUSE_COLLECTION = "pause-collection"
    """Drafts are kept: nothing is collected, and nothing is given away either."""
    RESUME_COLLECTION = "resume-collection"
    METADATA = "metadata"
    """What Altiora knows, for whoever looks at the subscription in Stripe's dashboard."""


class UsageLostError(Exception):
    """The change would give minutes away that Stripe has; the message says how many, and what can be done instead."""


@dataclass(frozen=True, slots=True)
class ChangeBehaviour:
    """What one kind does. ``wanted`` is the change's own ``params``; ``look`` the subscription as Stripe shows it now.

    Each may raise UnknownItemError; ``ask`` UsageLostError and PhaseError.
    """

    in_effect: Callable[[StripePort, Look, Json], bool]
    ask: Callable[[StripePort, Look, Json, str], None]
    """Given the idempotency key of the request that brings the effect; those before it have keys that begin so."""
    after_last_push: bool = False
    """Stripe counts nothing more for the present period once it is done: what is unsent must have arrived before."""
    preview: Callable[[Look, Json], dict[str, Any] | None] = lambda _look, _wanted: {}
    """How Stripe is asked what the change would bill (``subscription_details`` of a preview); None: it can't be."""


def _leave_schedule(api: StripePort, it: Json, key: str) -> None:
    """A subscription that is managed by a schedule can't be changed beside it."""
    if it.get("schedule"):
        api.release_schedule(_id(it["schedule"]), f"{key}-release")


def _id(value: Any) -> str:
    return str(value["id"] if isinstance(value, Mapping) else value)


def _unmanaged(look: Look, details: dict[str, Any]) -> dict[str, Any] | None:
    """A preview that a schedule would make Stripe refuse, or show as the schedule has it."""
    return None if look.it.get("schedule") else details


def _modify(params: Mapping[str, Any]) -> Callable[[StripePort, Look, Json, str], None]:
    def ask(api: StripePort, look: Look, _wanted: Json, key: str) -> None:
        api.modify_subscription(look.it["id"], params, key)

    return ask


def _cancel_at_period_end(api: StripePort, look: Look, _wanted: Json, key: str) -> None:
    _leave_schedule(api, look.it, key)
    api.modify_subscription(look.it["id"], {"cancel_at_period_end": True}, key)


def _ends_with_its_period(_api: StripePort, look: Look, _wanted: Json) -> bool:
    """Whoever asked for it: the customer portal sets the instant at which the latest of its items' periods ends."""
    it, until = look.it, look.it.get("cancel_at")
    ends = max((item["current_period_end"] for item in it["items"]["data"]), default=0)
    return (
        it["status"] == SubscriptionStatus.CANCELED
        or bool(it["cancel_at_period_end"])
        or (until is not None and until <= ends)
    )


def _kept(_api: StripePort, look: Look, _wanted: Json) -> bool:
    it = look.it
    ends = it["cancel_at_period_end"] or it.get("cancel_at") or it.get("schedule")
    return it["status"] != SubscriptionStatus.CANCELED and not ends


def _keep(api: StripePort, look: Look, _wanted: Json, key: str) -> None:
    it = look.it
    _leave_schedule(api, it, key)
    # Whichever is set: the one is not cleared by the other. An empty string unsets an instant.
    by_instant = it.get("cancel_at") and not it["cancel_at_period_end"] and not it.get("schedule")
    api.modify_subscription(it["id"], {"cancel_at": ""} if by_instant else {"cancel_at_period_end": False}, key)


def _cancel_now(api: StripePort, look: Look, _wanted: Json, _key: str) -> None:
    # A DELETE has no idempotency key: the look before it is what keeps it from being done twice.
    api.cancel_subscription(look.it["id"])


def _has_prices(_api: StripePort, look: Look, wanted: Json) -> bool:
    return set(wanted["prices"].values()) <= {item.price.id for item in look.items}


def _plan_items(look: Look) -> dict[str, Item | None]:
    """The item that the wanted price of each usage type takes the place of; what is not the plan's is left alone."""
    return {UsageType.METERED: look.ours.minutes_item, UsageType.LICENSED: next(iter(look.ours.fees), None)}


def _swapped(look: Look, wanted: Json) -> list[dict[str, Any]]:
    """The plan items with the wanted prices; a fee keeps its quantity. Without its id an item would be added."""
    present = _plan_items(look)
    swapped = []
    for usage_type, price in sorted(wanted["prices"].items()):
        item = present[usage_type]
        swapped.append({"price": price} | ({} if item is None else {"id": item.id, **_quantity(item)}))
    return swapped


def _quantity(item: Item) -> dict[str, int]:
    """Stripe sets what is not said to 1; of a metered price it takes none."""
    return {} if item.quantity is None else {"quantity": item.quantity}


#: The new price's included minutes begin with a new period; what the old one counted is billed at once.
_FROM_NOW: Final = {"billing_cycle_anchor": {"type": "now"}, "proration_behavior": "always_invoice"}


def _upgrade(api: StripePort, look: Look, wanted: Json, key: str) -> None:
    it, details = look.it, {"items": _swapped(look, wanted), **_FROM_NOW}
    _leave_schedule(api, it, key)
    if look.classic:
        if wanted.get("migrate"):
            api.migrate_subscription(it["id"], f"{key}-migrate")
        _see_that_all_is_billed(api, look, details)
    api.modify_subscription(it["id"], details, key)


def _see_that_all_is_billed(api: StripePort, look: Look, details: dict[str, Any]) -> None:
    """Raises UsageLostError unless Stripe's preview bills every minute that it has of the period.

    In classic mode it drops them (docs.stripe.com/billing/subscriptions/billing-mode/compare); after a migration nobody
    says what becomes of what was reported before.
    """
    counting = look.ours.minutes_item
    preview = api.preview_invoice(look.it["id"], details)
    if preview is None or counting is None:
        return
    lines = [line for row in rows(preview.get("lines")) if (line := read_line(row)) is not None]
    billed = sum(line.quantity for line in lines if line.price_id == counting.price.id)
    if billed < look.confirmed_minutes:
        raise UsageLostError(
            f"Stripe's preview bills {billed} of {look.confirmed_minutes} minutes: the subscription is in classic"
            " billing mode, which drops usage when its price goes. `altiora subscription upgrade --migrate` puts it"
            " into flexible mode first, for good; a downgrade at the period's end bills everything"
        )


def _downgraded(api: StripePort, look: Look, wanted: Json) -> bool:
    if _has_prices(api, look, wanted):
        return True
    if not look.it.get("schedule"):
        return False
    last = api.get_schedule(_id(look.it["schedule"]))["phases"][-1]
    return set(wanted["prices"].values()) <= {_id(item["price"]) for item in last["items"]}


def _downgrade(api: StripePort, look: Look, wanted: Json, key: str) -> None:
    it = look.it
    if it.get("schedule"):
        schedule = api.get_schedule(_id(it["schedule"]))
    else:
        schedule = api.create_schedule(it["id"], f"{key}-schedule")
    see_that_it_is_ours(schedule)
    present, period_end = current_phase(schedule), _period_end(look)
    swapped = {item.get("id"): item for item in _swapped(look, wanted)}
    replaced = {
        item.price.id: swapped.pop(item.id) for item in _plan_items(look).values() if item and item.id in swapped
    }
    after = []
    for item in present["items"]:
        other = replaced.pop(_id(item["price"]), None)
        after.append(kept_item(item) if other is None else kept_item(item, other["price"], other.get("quantity")))
    after += [
        {name: of for name, of in item.items() if name != "id"} for item in (*replaced.values(), *swapped.values())
    ]
    phases = [
        {**sent_back(present), "start_date": present["start_date"], "end_date": period_end},
        {**customers_own(present), "items": after, "start_date": period_end},
    ]
    planned = {"phases": phases, "end_behavior": "release", "metadata": {f"{OURS}plan": wanted["plan"]}}
    api.update_schedule(schedule["id"], planned, key)


def _period_end(look: Look) -> int:
    """When the present period of its minutes ends, in seconds; where it counts none, the last of its periods."""
    counting = look.ours.minutes_item
    ends = {item["id"]: int(item["current_period_end"]) for item in look.it["items"]["data"]}
    return max(ends.values()) if counting is None else ends[counting.id]


def _resume_collection(api: StripePort, look: Look, _wanted: Json, key: str) -> None:
    """Drafts that were kept meanwhile are not collected by themselves when the pause ends: they go on first."""
    for invoice in api.list_drafts(look.it["id"]):
        if not invoice["auto_advance"]:
            api.update_invoice(invoice["id"], {"auto_advance": True}, f"{key}-{invoice['id']}")
    # An empty string unsets it; None would be dropped from the request.
    api.modify_subscription(look.it["id"], {"pause_collection": ""}, key)


def _metadata(api: StripePort, look: Look, wanted: Json, key: str) -> None:
    api.modify_subscription(look.it["id"], {"metadata": wanted["metadata"]}, key)


CHANGE_BEHAVIOURS: Final[Mapping[ChangeKind, ChangeBehaviour]] = {
    ChangeKind.CANCEL_AT_PERIOD_END: ChangeBehaviour(
        _ends_with_its_period,
        _cancel_at_period_end,
        preview=lambda look, _wanted: _unmanaged(look, {"cancel_at_period_end": True}),
    ),
    ChangeKind.KEEP: ChangeBehaviour(
        _kept,
        _keep,
        preview=lambda look, _wanted: (
            _unmanaged(look, {"cancel_at_period_end": False}) if look.it["cancel_at_period_end"] else None
        ),
    ),
    ChangeKind.CANCEL_NOW: ChangeBehaviour(
        lambda _api, look, _wanted: look.it["status"] == SubscriptionStatus.CANCELED,
        _cancel_now,
        after_last_push=True,
        preview=lambda _look, _wanted: {"cancel_now": True},
    ),
    ChangeKind.UPGRADE: ChangeBehaviour(
        _has_prices,
        _upgrade,
        after_last_push=True,
        preview=lambda look, wanted: {"items": _swapped(look, wanted), **_FROM_NOW},
    ),
    ChangeKind.DOWNGRADE: ChangeBehaviour(_downgraded, _downgrade),
    ChangeKind.PAUSE_COLLECTION: ChangeBehaviour(
        lambda _api, look, _wanted: look.it.get("pause_collection") is not None,
        _modify({"pause_collection": {"behavior": "keep_as_draft"}}),
    ),
    ChangeKind.RESUME_COLLECTION: ChangeBehaviour(
        lambda _api, look, _wanted: look.it.get("pause_collection") is None, _resume_collection
    ),
    ChangeKind.METADATA: ChangeBehaviour(
        lambda _api, look, wanted: wanted["metadata"].items() <= dict(look.it.get("metadata") or {}).items(), _metadata
    ),
}

#: Of these every later usage is counted anew.
AFTER_LAST_PUSH: Final = tuple(kind for kind, behaviour in CHANGE_BEHAVIOURS.items() if behaviour.after_last_push)
