"""The API's customers, products, prices, events and webhook endpoints."""

import copy
from collections.abc import Awaitable, Callable

from starlette.routing import BaseRoute

from sandbox.stripe.account.events import Events
from sandbox.stripe.account.lifecycle import ENDED
from sandbox.stripe.account.prices import Prices, read_amount, read_recurring, read_tiers
from sandbox.stripe.account.state import Object, State
from sandbox.stripe.account.subscriptions import Subscriptions
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid, missing, no_such
from sandbox.stripe.api.lists import created_filter, found, paged
from sandbox.stripe.api.shapes import new_customer

MOST_TYPES = 20


class CatalogueApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, state: State, events: Events, prices: Prices, subscriptions: Subscriptions) -> None:
        self._state = state
        self._events = events
        self._prices = prices
        self._subscriptions = subscriptions

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("GET", "/v1/customers", self.list_customers),
            door.route("POST", "/v1/customers", self.create_customer),
            door.route("GET", "/v1/customers/{id}", self.get_customer),
            door.route("POST", "/v1/customers/{id}", self.update_customer),
            door.route("DELETE", "/v1/customers/{id}", self.delete_customer),
            door.route("GET", "/v1/products", self.list_products),
            door.route("POST", "/v1/products", self.create_product),
            door.route("GET", "/v1/products/{id}", _getter(self._state.products, "product")),
            door.route("POST", "/v1/products/{id}", self.update_product),
            door.route("GET", "/v1/prices", self.list_prices),
            door.route("POST", "/v1/prices", self.create_price),
            door.route("GET", "/v1/prices/{id}", _getter(self._state.prices, "price")),
            door.route("POST", "/v1/prices/{id}", self.update_price),
            door.route("GET", "/v1/webhook_endpoints", self.list_webhook_endpoints),
            door.route("GET", "/v1/events", self.list_events),
            door.route("GET", "/v1/events/{id}", _getter(self._state.events, "event")),
            door.route("GET", "/v2/core/events/{id}", _getter(self._state.thin_events, "event")),
        ]

    async def list_customers(self, call: Call) -> Object:
        email, created = call.params.text("email"), created_filter(call.params)
        rows = [
            row
            for row in self._state.customers.values()
            if not row.get("deleted") and email in {None, row["email"]} and created(row)
        ]
        return paged(rows, call.params, call.path)

    async def create_customer(self, call: Call) -> Object:
        name, email, metadata = call.params.text("name"), call.params.text("email"), call.params.metadata({})
        call.params.refuse_unread()
        return self.add_customer(name, email, metadata)

    def add_customer(self, name: str | None, email: str | None, metadata: dict[str, str]) -> Object:
        customer = new_customer(name, email, metadata, self._state.now)
        self._state.customers[customer["id"]] = customer
        self._events.emit("customer.created", customer)
        return customer

    async def get_customer(self, call: Call) -> Object:
        """A deleted customer is still answered, as ``{"id", "object", "deleted": true}``."""
        call.params.refuse_unread()
        return found(self._state.customers, "customer", call.ids["id"])

    async def update_customer(self, call: Call) -> Object:
        customer = self._living(call)
        changes: Object = {"metadata": call.params.metadata(customer["metadata"])}
        changes |= _texts(call, "name", "email", "description")
        call.params.refuse_unread()
        return self._change("customer.updated", customer, changes)

    async def delete_customer(self, call: Call) -> Object:
        customer = self._living(call)
        call.params.refuse_unread()
        for subscription in list(self._state.subscriptions.values()):
            if subscription["customer"] == customer["id"] and subscription["status"] not in ENDED:
                self._subscriptions.cancel(subscription, invoice_now=False)
        self._events.emit("customer.deleted", customer)
        deleted = {"id": customer["id"], "object": "customer", "deleted": True}
        self._state.customers[customer["id"]] = deleted
        return deleted

    def _living(self, call: Call) -> Object:
        customer = found(self._state.customers, "customer", call.ids["id"])
        if customer.get("deleted"):
            raise no_such("customer", customer["id"])
        return customer

    def _change(self, kind: str, stored: Object, changes: Object) -> Object:
        before = copy.deepcopy(stored)
        stored.update(changes)
        self._events.emit_change(kind, before, stored)
        return stored

    async def list_products(self, call: Call) -> Object:
        active = call.params.flag("active")
        rows = [row for row in self._state.products.values() if active in {None, row["active"]}]
        return paged(rows, call.params, call.path)

    async def create_product(self, call: Call) -> Object:
        name, product_id, metadata = call.params.required("name"), call.params.text("id"), call.params.metadata({})
        call.params.refuse_unread()
        return self._prices.create_product(name, metadata, product_id)

    async def update_product(self, call: Call) -> Object:
        product = found(self._state.products, "product", call.ids["id"])
        changes: Object = {"metadata": call.params.metadata(product["metadata"])} | _texts(call, "name", "description")
        active = call.params.flag("active")
        default = call.params.text("default_price")
        call.params.refuse_unread()
        if default is not None:
            if found(self._state.prices, "price", default, "default_price")["product"] != product["id"]:
                raise invalid("default_price", "The default price must be one of this product's.")
            changes["default_price"] = default
        return self._change("product.updated", product, changes | ({} if active is None else {"active": active}))

    async def list_prices(self, call: Call) -> Object:
        keys, product = call.params.texts("lookup_keys"), call.params.text("product")
        active, kind = call.params.flag("active"), call.params.choice("type", "one_time", "recurring")
        rows = [
            row
            for row in self._state.prices.values()
            if (not keys or row["lookup_key"] in keys)
            and product in {None, row["product"]}
            and active in {None, row["active"]}
            and kind in {None, row["type"]}
        ]
        return paged(rows, call.params, call.path)

    async def create_price(self, call: Call) -> Object:
        params = call.params
        product, named = params.text("product"), params.below("product_data")
        if (product is None) == (named is None):
            raise missing("product")
        if product is not None and product not in self._state.products:
            raise no_such("product", product, "product")
        name = None if named is None else named.required("name")
        price: Object = {
            "currency": params.required("currency"),
            "lookup_key": params.text("lookup_key"),
            "metadata": params.metadata({}),
            "nickname": params.text("nickname"),
            "recurring": read_recurring(params.below("recurring")),
        }
        meter = (price["recurring"] or {}).get("meter")
        if meter is not None and meter not in self._state.meters:
            raise no_such("billing.meter", meter, "recurring[meter]")
        self._check_lookup_key(price["lookup_key"])
        tiers = None
        if params.choice("billing_scheme", "per_unit", "tiered") == "tiered":
            tiers = read_tiers(params)
            price |= {"unit_amount": None, "unit_amount_decimal": None}
        else:
            price["unit_amount"], price["unit_amount_decimal"] = read_amount(params)
        params.refuse_unread()
        if name is not None:
            product = self._prices.create_product(name, {})["id"]
        return self._prices.create_price(price | {"product": product}, tiers)

    def _check_lookup_key(self, key: str | None) -> None:
        if key is not None and any(row["lookup_key"] == key for row in self._state.prices.values()):
            raise invalid("lookup_key", f"A price already uses the lookup key {key}.")

    async def update_price(self, call: Call) -> Object:
        price = found(self._state.prices, "price", call.ids["id"])
        changes: Object = {"metadata": call.params.metadata(price["metadata"])} | _texts(call, "nickname", "lookup_key")
        active = call.params.flag("active")
        call.params.refuse_unread()
        if changes.get("lookup_key") != price["lookup_key"]:
            self._check_lookup_key(changes.get("lookup_key"))
        return self._change("price.updated", price, changes | ({} if active is None else {"active": active}))

    async def list_webhook_endpoints(self, call: Call) -> Object:
        return paged(self._state.webhook_endpoints.values(), call.params, call.path)

    async def list_events(self, call: Call) -> Object:
        """``delivery_success=false`` gives those that are not known to have been answered 2xx."""
        kind, kinds = call.params.text("type"), call.params.texts("types")
        delivered, created = call.params.flag("delivery_success"), created_filter(call.params)
        if kind is not None and kinds:
            raise invalid("types", "You can give only one of type and types.")
        if len(kinds) > MOST_TYPES:
            raise invalid("types", f"You can give at most {MOST_TYPES} types.")
        wanted = set(kinds) | ({kind} if kind else set())
        rows = [
            row
            for row in self._state.events.values()
            if (not wanted or row["type"] in wanted)
            and created(row)
            and (delivered is None or delivered == (row["pending_webhooks"] == 0))
        ]
        return paged(rows, call.params, call.path)


def _getter(table: dict[str, Object], kind: str) -> Callable[[Call], Awaitable[Object]]:
    async def get(call: Call) -> Object:
        call.params.refuse_unread()
        return found(table, kind, call.ids["id"])

    return get


def _texts(call: Call, *names: str) -> Object:
    """Those of the named texts that the request gives; an empty one unsets its field."""
    return {name: call.params.text(name) or None for name in names if name in call.params}
