"""Changes of a subscription's items as requests name them: which item, which price, how many."""

from dataclasses import dataclass

from sandbox.stripe.account.charges import is_metered
from sandbox.stripe.account.state import Object, State
from sandbox.stripe.api.errors import StripeError, invalid, missing, no_such
from sandbox.stripe.api.params import Params

Priced = tuple[Object, int]
"""A price and how many of it; a metered price's quantity is always 1 and not shown."""


@dataclass
class ItemChange:
    """One row of ``items`` in an update. Without an ``item`` it adds one: Stripe doesn't guess which was meant."""

    item: str | None
    price: Object | None
    quantity: int | None
    deleted: bool = False


def price_of(state: State, price: str, param: str = "items[0][price]") -> Object:
    try:
        return state.prices[price]
    except KeyError:
        raise no_such("price", price, param) from None


def read_changes(state: State, rows: list[Params]) -> list[ItemChange]:
    """The ``items`` of an update."""
    changes = []
    for row in rows:
        price, quantity = row.text("price"), row.whole("quantity")
        changed = None if price is None else price_of(state, price)
        changes.append(ItemChange(row.text("id"), changed, quantity, row.flag("deleted") or False))
        row.refuse_unread()
    if any(change.quantity is not None and change.quantity < 1 for change in changes):
        raise invalid("items", "This stand-in takes quantities of at least 1.")
    return changes


def read_priced(state: State, rows: list[Params], *, of_phase: bool = False) -> list[Priced]:
    """The ``items`` of a new subscription, or of a schedule's phase, which say more that is read elsewhere."""
    if not rows:
        raise missing("items")
    priced = []
    for row in rows:
        price, quantity = price_of(state, row.required("price")), row.whole("quantity")
        if not of_phase:
            row.refuse_unread()
        if quantity is not None and is_metered({"price": price}):
            raise invalid("items", "Price is metered: you cannot specify a quantity for it.")
        priced.append((price, 1 if quantity is None else quantity))
    check_priced(priced)
    return priced


def check_priced(priced: list[Priced]) -> None:
    if len({price["id"] for price, _ in priced}) < len(priced):
        raise invalid("items", "You cannot add multiple subscription items with the same price.")
    if any(price["recurring"] is None or not price["active"] for price, _ in priced):
        raise invalid("items", "A subscription takes active recurring prices only.")
    if len({price["currency"] for price, _ in priced}) > 1:
        raise invalid("items", "All prices on a subscription must have the same `currency`.")
    if any(quantity < 1 for _, quantity in priced):
        raise invalid("items", "This stand-in takes quantities of at least 1.")


def check_changes(subscription: Object, changes: list[ItemChange]) -> None:
    """Refuse what can't be done before anything is done."""
    items = subscription["items"]["data"]
    for change in changes:
        if change.item is None and change.price is None:
            raise missing("items[0][price]")
        if change.item is not None and all(item["id"] != change.item for item in items):
            raise no_such("subscription_item", change.item, "items")
        if change.price is not None and any(
            item["price"]["id"] == change.price["id"] and item["id"] != change.item for item in items
        ):
            raise twice(change.price)
    left = len(items) - sum(change.deleted for change in changes) + sum(change.item is None for change in changes)
    if left < 1:
        raise StripeError(400, "A subscription must have at least one active item.", param="items")


def twice(price: Object) -> StripeError:
    return invalid("items", f"You cannot add multiple subscription items with the same price: {price['id']}")


def changes_to(subscription: Object, wanted: list[Priced], *, keep_items: bool) -> list[ItemChange]:
    """What makes the items have these prices. With ``keep_items`` an item takes a new price of its own kind."""
    items = {item["price"]["id"]: item for item in subscription["items"]["data"]}
    leaving = [item for price, item in items.items() if price not in {price["id"] for price, _ in wanted}]
    changes = []
    for price, quantity in wanted:
        item = items.get(price["id"])
        if item is not None:
            if not is_metered(item) and item["quantity"] != quantity:
                changes.append(ItemChange(item["id"], None, quantity))
            continue
        usage = price["recurring"]["usage_type"]
        same = (each for each in leaving if each["price"]["recurring"]["usage_type"] == usage)
        if keep_items and (item := next(same, None)) is not None:
            leaving.remove(item)
        changes.append(ItemChange(None if item is None else item["id"], price, quantity))
    return changes + [ItemChange(item["id"], None, None, deleted=True) for item in leaving]
