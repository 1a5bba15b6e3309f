"""How the API finds objects, pages through them, and puts whole ones where ids stand."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

from sandbox.stripe.account.state import Object, State
from sandbox.stripe.api.errors import StripeError, invalid, no_such
from sandbox.stripe.api.params import Params

MOST = 100
USUAL = 10


def paged(objects: Iterable[Object], params: Params, url: str) -> Object:
    """One page of ``objects`` (oldest first), newest first. Reads the paging parameters and refuses unknown ones.

    ``ending_before`` gives those just before the cursor, which is why paging with it runs in the order of time.
    """
    limit = params.whole("limit")
    after, before = params.text("starting_after"), params.text("ending_before")
    params.refuse_unread()
    if limit is not None and not 1 <= limit <= MOST:
        raise invalid("limit", f"Invalid limit: {limit}; must be between 1 and {MOST}", "parameter_invalid_integer")
    if after is not None and before is not None:
        raise invalid("ending_before", "You can give only one of starting_after and ending_before.")
    rows = list(objects)[::-1]
    size = limit or USUAL
    if before is not None:
        rows = rows[: _place(rows, before, "ending_before")]
        page = rows[-size:]
    else:
        rows = rows if after is None else rows[_place(rows, after, "starting_after") + 1 :]
        page = rows[:size]
    return {"object": "list", "data": page, "has_more": len(rows) > len(page), "url": url}


def shown_in_part(node: Any) -> None:
    """Cut the lists inside an object as Stripe shows them: their first rows, and whether there are more."""
    for name, value in node.items() if isinstance(node, dict) else ():
        if isinstance(value, dict) and value.get("object") == "list" and name in {"items", "lines"}:
            value["has_more"] = len(value["data"]) > USUAL
            value["data"] = value["data"][:USUAL]
        for each in value if isinstance(value, list) else [value]:
            shown_in_part(each)


def _place(rows: list[Object], cursor: str, param: str) -> int:
    for place, row in enumerate(rows):
        if row["id"] == cursor:
            return place
    raise no_such("object", cursor, param)


def created_filter(params: Params) -> Callable[[Object], bool]:
    """Reads ``created``: a second, or bounds ``gt``, ``gte``, ``lt``, ``lte``."""
    if isinstance(params.raw("created"), str):
        exact = params.whole("created")
        return lambda row: bool(row["created"] == exact)
    bounds = params.below("created")
    if bounds is None:
        return lambda _: True
    above, least = bounds.whole("gt"), bounds.whole("gte")
    under, most = bounds.whole("lt"), bounds.whole("lte")
    bounds.refuse_unread()
    return lambda row: (
        (above is None or row["created"] > above)
        and (least is None or row["created"] >= least)
        and (under is None or row["created"] < under)
        and (most is None or row["created"] <= most)
    )


def check_customer(state: State, customer: str) -> None:
    """Refuse a customer that a parameter names and that isn't there any more, or never was."""
    if state.customers.get(customer, {"deleted": True}).get("deleted"):
        raise no_such("customer", customer, "customer")


def found(table: dict[str, Object], kind: str, identifier: str, param: str = "id") -> Object:
    """The object with this id, or Stripe's refusal."""
    try:
        return table[identifier]
    except KeyError:
        raise no_such(kind, identifier, param) from None


def expand(state: State, node: Object, path: str) -> None:
    """Put the object in place of its id at ``path`` (``data.customer``, ``items.data.price.product``, ``tiers``)."""
    name, _, rest = path.partition(".")
    if node.get("object") == "list" and name == "data" and rest:
        for row in node["data"]:
            expand(state, row, rest)
        return
    if node.get("object") == "price" and name == "tiers":
        node["tiers"] = copy.deepcopy(state.tiers.get(node["id"]))
        return
    if node.get("object") == "price" and name == "currency_options":
        shown = ("custom_unit_amount", "tax_behavior", "unit_amount", "unit_amount_decimal")
        amounts = {key: node[key] for key in shown}
        tiers = state.tiers.get(node["id"])
        node["currency_options"] = {
            node["currency"]: amounts | ({} if tiers is None else {"tiers": copy.deepcopy(tiers)})
        }
        return
    tables = {
        "customer": state.customers,
        "invoice": state.invoices,
        "latest_invoice": state.invoices,
        "price": state.prices,
        "product": state.products,
        "schedule": state.schedules,
        "subscription": state.subscriptions,
    }
    value = node.get(name)
    if isinstance(value, str) and name in tables:
        value = node[name] = copy.deepcopy(tables[name][value])
    elif value is None and name in tables and name in node:
        return
    elif not isinstance(value, dict) or not rest:
        raise StripeError(400, f"This property cannot be expanded ({name}).", param="expand")
    if rest:
        expand(state, value, rest)
