"""The API's meters, meter events, subscriptions and invoices."""

import copy

from starlette.routing import BaseRoute

from sandbox.stripe_door import Call, Door
from sandbox.stripe_errors import StripeError, invalid, missing, no_such
from sandbox.stripe_events import Events
from sandbox.stripe_invoices import Invoices
from sandbox.stripe_lists import created_filter, paged
from sandbox.stripe_meters import LONGEST_NAME, Meters
from sandbox.stripe_params import Params
from sandbox.stripe_state import Object, State, new_id
from sandbox.stripe_subscriptions import ItemChange, Subscriptions

PAUSES = ("keep_as_draft", "mark_uncollectible", "void")
PRORATIONS = ("create_prorations", "always_invoice", "none")
STATUSES = ("active", "all", "canceled", "ended", "incomplete", "past_due", "paused", "trialing", "unpaid")


class BillingApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(
        self, state: State, events: Events, meters: Meters, invoices: Invoices, subscriptions: Subscriptions
    ) -> None:
        self._state = state
        self._events = events
        self._meters = meters
        self._invoices = invoices
        self._subscriptions = subscriptions

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("POST", "/v1/billing/meter_events", self.create_meter_event),
            door.route("GET", "/v1/billing/meters", self.list_meters),
            door.route("POST", "/v1/billing/meters", self.create_meter),
            door.route("GET", "/v1/billing/meters/{id}", self.get_meter),
            door.route("POST", "/v1/billing/meters/{id}/deactivate", self.deactivate_meter),
            door.route("GET", "/v1/billing/meters/{id}/event_summaries", self.list_summaries),
            door.route("GET", "/v1/subscriptions", self.list_subscriptions),
            door.route("POST", "/v1/subscriptions", self.create_subscription),
            door.route("GET", "/v1/subscriptions/{id}", self.get_subscription),
            door.route("POST", "/v1/subscriptions/{id}", self.update_subscription),
            door.route("DELETE", "/v1/subscriptions/{id}", self.cancel_subscription),
            door.route("GET", "/v1/invoices", self.list_invoices),
            door.route("GET", "/v1/invoices/{id}", self.get_invoice),
            door.route("GET", "/v1/invoices/{id}/lines", self.list_lines),
        ]

    async def create_meter_event(self, call: Call) -> Object:
        event_name = call.params.required("event_name", longest=LONGEST_NAME)
        payload = call.params.raw("payload")
        if not payload:
            raise missing("payload")
        if not isinstance(payload, dict) or not all(isinstance(value, str) for value in payload.values()):
            raise invalid("payload", "Invalid payload: must be a set of key-value pairs of strings")
        identifier = call.params.text("identifier", longest=LONGEST_NAME) or new_id("ident")
        at = call.params.whole("timestamp")
        call.params.refuse_unread()
        return await self._meters.record(event_name, payload, identifier, at)

    async def list_meters(self, call: Call) -> Object:
        status = call.params.choice("status", "active", "inactive")
        rows = [row for row in self._state.meters.values() if status in {None, row["status"]}]
        return paged(rows, call.params, call.path)

    async def create_meter(self, call: Call) -> Object:
        params = call.params
        event_name, display_name = params.required("event_name", longest=LONGEST_NAME), params.required("display_name")
        aggregation = params.below("default_aggregation")
        formula = None if aggregation is None else aggregation.choice("formula", "sum", "count", "last")
        if formula is None:
            raise missing("default_aggregation[formula]")
        mapping, values = params.below("customer_mapping"), params.below("value_settings")
        if mapping is not None and mapping.required("type") != "by_id":
            raise invalid("customer_mapping[type]", "Invalid customer_mapping[type]: must be by_id")
        customer_key = "stripe_customer_id" if mapping is None else mapping.required("event_payload_key")
        value_key = "value" if values is None else values.required("event_payload_key")
        params.refuse_unread()
        return self._meters.create(event_name, display_name, formula, customer_key, value_key)

    def _meter(self, call: Call) -> Object:
        try:
            return self._state.meters[call.ids["id"]]
        except KeyError:
            raise no_such("billing.meter", call.ids["id"]) from None

    async def get_meter(self, call: Call) -> Object:
        call.params.refuse_unread()
        return self._meter(call)

    async def deactivate_meter(self, call: Call) -> Object:
        call.params.refuse_unread()
        meter = self._meter(call)
        self._meters.deactivate(meter)
        return meter

    async def list_summaries(self, call: Call) -> Object:
        meter = self._meter(call)
        customer = call.params.required("customer")
        start, end = call.params.whole("start_time"), call.params.whole("end_time")
        window = call.params.choice("value_grouping_window", "hour", "day")
        if start is None or end is None:
            raise missing("start_time" if start is None else "end_time")
        self._known_customer(customer)
        rows = self._meters.summaries(meter, customer, start, end, window)
        return paged(rows[::-1], call.params, call.path)

    def _known_customer(self, customer: str) -> None:
        if self._state.customers.get(customer, {"deleted": True}).get("deleted"):
            raise no_such("customer", customer, "customer")

    async def list_subscriptions(self, call: Call) -> Object:
        """Without ``status``, canceled ones are left out: a sweep must ask for ``all``."""
        customer, price = call.params.text("customer"), call.params.text("price")
        status, created = call.params.choice("status", *STATUSES), created_filter(call.params)
        rows = [
            row
            for row in self._state.subscriptions.values()
            if customer in {None, row["customer"]}
            and (price is None or any(item["price"]["id"] == price for item in row["items"]["data"]))
            and _has_status(row, status)
            and created(row)
        ]
        return paged(rows, call.params, call.path)

    async def create_subscription(self, call: Call) -> Object:
        customer, metadata = call.params.required("customer"), call.params.metadata({})
        start = call.params.whole("backdate_start_date")
        rows = call.params.rows("items")
        if not rows:
            raise missing("items")
        priced = []
        for row in rows:
            price, quantity = self._price(row.required("price")), row.whole("quantity")
            row.refuse_unread()
            priced.append((price, 1 if quantity is None else quantity))
        call.params.refuse_unread()
        return self.add_subscription(customer, priced, metadata, self._state.now if start is None else start)

    def add_subscription(
        self, customer: str, priced: list[tuple[Object, int]], metadata: dict[str, str], start: int
    ) -> Object:
        """A new subscription with these prices and quantities whose first period begins at ``start``."""
        self._known_customer(customer)
        if start > self._state.now:
            raise invalid("backdate_start_date", "backdate_start_date must be in the past.")
        if len({price["id"] for price, _ in priced}) < len(priced):
            raise invalid("items", "You cannot add multiple subscription items with the same price.")
        if any(price["recurring"] is None or not price["active"] for price, _ in priced):
            raise invalid("items", "A subscription takes active recurring prices only.")
        if any(quantity < 1 for _, quantity in priced):
            raise invalid("items", "This stand-in takes quantities of at least 1.")
        return self._subscriptions.create(customer, priced, metadata, start)

    def _price(self, price: str) -> Object:
        try:
            return self._state.prices[price]
        except KeyError:
            raise no_such("price", price, "items[0][price]") from None

    def _subscription(self, call: Call) -> Object:
        try:
            return self._state.subscriptions[call.ids["id"]]
        except KeyError:
            raise no_such("subscription", call.ids["id"]) from None

    async def get_subscription(self, call: Call) -> Object:
        call.params.refuse_unread()
        return self._subscription(call)

    async def update_subscription(self, call: Call) -> Object:
        subscription, params = self._subscription(call), call.params
        metadata = params.metadata(subscription["metadata"])
        cancels = params.flag("cancel_at_period_end")
        changes = [self._item_change(row) for row in params.rows("items")]
        proration = params.choice("proration_behavior", *PRORATIONS) or "create_prorations"
        from_now = _from_now(params)
        clears = params.raw("pause_collection") == ""
        pause = None if clears else params.below("pause_collection")
        behavior = None if pause is None else pause.choice("behavior", *PAUSES)
        resumes_at = None if pause is None else pause.whole("resumes_at")
        if pause is not None:
            if behavior is None:
                raise missing("pause_collection[behavior]")
            pause.refuse_unread()
        params.refuse_unread()
        if subscription["status"] == "canceled" and (changes or clears or pause or from_now or cancels is not None):
            raise StripeError(
                400, "A canceled subscription can only update its cancellation_details and metadata.", executed=True
            )
        before = copy.deepcopy(subscription)
        if changes or from_now:
            self._subscriptions.change_items(subscription, changes, proration=proration, from_now=from_now)
        subscription["metadata"] = metadata
        if cancels is not None:
            self._subscriptions.set_cancel_at_period_end(subscription, cancels=cancels)
        if clears or pause is not None:
            self._subscriptions.set_pause_collection(subscription, behavior, resumes_at)
        self._events.emit_change("customer.subscription.updated", before, subscription)
        return subscription

    def _item_change(self, row: Params) -> ItemChange:
        price = row.text("price")
        quantity = row.whole("quantity")
        change = ItemChange(
            row.text("id"), None if price is None else self._price(price), quantity, row.flag("deleted") or False
        )
        row.refuse_unread()
        if quantity is not None and quantity < 1:
            raise invalid("items", "This stand-in takes quantities of at least 1.")
        return change

    async def cancel_subscription(self, call: Call) -> Object:
        subscription = self._subscription(call)
        invoice_now, prorate = call.params.flag("invoice_now"), call.params.flag("prorate")
        call.params.refuse_unread()
        if prorate:
            raise invalid("prorate", "This stand-in gives no credit on cancellation; send prorate=false or nothing.")
        self._subscriptions.cancel(subscription, invoice_now=bool(invoice_now))
        return subscription

    async def list_invoices(self, call: Call) -> Object:
        customer, subscription = call.params.text("customer"), call.params.text("subscription")
        status = call.params.choice("status", "draft", "open", "paid", "uncollectible", "void")
        created = created_filter(call.params)
        rows = [
            row
            for row in self._state.invoices.values()
            if customer in {None, row["customer"]}
            and subscription in {None, row["parent"]["subscription_details"]["subscription"]}
            and status in {None, row["status"]}
            and created(row)
        ]
        page = paged(rows, call.params, call.path)
        for invoice in page["data"]:
            self._invoices.view(invoice)
        return page

    def _invoice(self, call: Call) -> Object:
        try:
            return self._invoices.view(self._state.invoices[call.ids["id"]])
        except KeyError:
            raise no_such("invoice", call.ids["id"]) from None

    async def get_invoice(self, call: Call) -> Object:
        call.params.refuse_unread()
        return self._invoice(call)

    async def list_lines(self, call: Call) -> Object:
        return paged(self._invoice(call)["lines"]["data"][::-1], call.params, call.path)


def _has_status(subscription: Object, status: str | None) -> bool:
    if status is None:
        return bool(subscription["status"] != "canceled")
    return status in {"all", subscription["status"]} or (status == "ended" and subscription["status"] == "canceled")


def _from_now(params: Params) -> bool:
    """``billing_cycle_anchor`` of an update: an object since 2026-09-30, and no longer a string."""
    anchor = params.below("billing_cycle_anchor")
    if anchor is None:
        return False
    kind = anchor.choice("type", "now", "unchanged")
    anchor.refuse_unread()
    if kind is None:
        raise missing("billing_cycle_anchor[type]")
    return kind == "now"
