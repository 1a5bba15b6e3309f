"""The API's subscription schedules; each is made from a subscription that is there."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.items import read_priced
from sandbox.stripe.account.schedules import NewPhase
from sandbox.stripe.account.state import Object
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid, missing
from sandbox.stripe.api.lists import created_filter, found, paged
from sandbox.stripe.api.params import Params
from sandbox.stripe.api.subscriptions import PRORATIONS

UNSETTABLE = ("default_settings", "end_behavior", "pause_schedules", "phases", "start_date")
"""What a request can't set together with ``from_subscription``."""


def _own(row: Params, rates: str) -> Object:
    """Discounts by their ids, tax rates and metadata, of a phase or of one of its items."""
    own: Object = {}
    if row.raw("discounts") not in (None, ""):
        discounts = [each.text("discount") for each in row.rows("discounts")]
        if None in discounts:
            raise invalid("discounts", "This stand-in takes discounts by their ids.")
        own["discounts"] = [{"coupon": None, "discount": each, "promotion_code": None} for each in discounts]
    if row.raw(rates) != "":
        own[rates] = [{"id": each, "object": "tax_rate"} for each in row.texts(rates)]
    own["metadata"] = row.metadata({})
    return own


class SchedulesApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, billing: Billing) -> None:
        self._state = billing.state
        self._schedules = billing.schedules

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("GET", "/v1/subscription_schedules", self.list_schedules),
            door.route("POST", "/v1/subscription_schedules", self.create_schedule),
            door.route("GET", "/v1/subscription_schedules/{id}", self.get_schedule),
            door.route("POST", "/v1/subscription_schedules/{id}", self.update_schedule),
            door.route("POST", "/v1/subscription_schedules/{id}/release", self.release_schedule),
            door.route("POST", "/v1/subscription_schedules/{id}/cancel", self.cancel_schedule),
        ]

    async def list_schedules(self, call: Call) -> Object:
        customer, created = call.params.text("customer"), created_filter(call.params)
        rows = [row for row in self._state.schedules.values() if customer in {None, row["customer"]} and created(row)]
        return paged(rows, call.params, call.path)

    async def create_schedule(self, call: Call) -> Object:
        source, metadata = call.params.text("from_subscription"), call.params.metadata({})
        if source is None:
            raise missing("from_subscription")
        for name in UNSETTABLE:
            if name in call.params:
                raise invalid(name, f"You cannot set `{name}` if `from_subscription` is set.")
        call.params.refuse_unread()
        subscription = found(self._state.subscriptions, "subscription", source, "from_subscription")
        return self._schedules.create(subscription, metadata)

    def _schedule(self, call: Call) -> Object:
        return found(self._state.schedules, "subscription_schedule", call.ids["id"])

    async def get_schedule(self, call: Call) -> Object:
        call.params.refuse_unread()
        return self._schedule(call)

    async def update_schedule(self, call: Call) -> Object:
        schedule, params = self._schedule(call), call.params
        metadata = params.metadata(schedule["metadata"])
        phases = [self._phase(row) for row in params.rows("phases")]
        end_behavior = params.choice("end_behavior", "cancel", "release")
        proration = params.choice("proration_behavior", *PRORATIONS) or "create_prorations"
        params.refuse_unread()
        self._schedules.update(schedule, phases, end_behavior, proration, metadata)
        return schedule

    def _phase(self, row: Params) -> NewPhase:
        """A phase of an update. What it leaves out is reset, and not kept as it was."""
        items = row.rows("items")
        own = _own(row, "default_tax_rates")
        for name in ("collection_method", "default_payment_method", "description"):
            if name in row:
                own[name] = row.text(name)
        if "trial_end" in row:
            own["trial_end"] = row.whole("trial_end")
        phase = NewPhase(
            read_priced(self._state, items, of_phase=True),
            row.whole("start_date"),
            row.whole("end_date"),
            row.choice("proration_behavior", *PRORATIONS) or "create_prorations",
            own,
            [_own(item, "tax_rates") for item in items],
        )
        for each in (row, *items):
            each.refuse_unread()
        return phase

    async def release_schedule(self, call: Call) -> Object:
        schedule = self._schedule(call)
        call.params.refuse_unread()
        self._schedules.release(schedule)
        return schedule

    async def cancel_schedule(self, call: Call) -> Object:
        """Unlike the end of a subscription by itself, this one invoices open usage unless told not to."""
        schedule = self._schedule(call)
        invoice_now, prorate = call.params.flag("invoice_now"), call.params.flag("prorate")
        call.params.refuse_unread()
        if prorate is not False:
            raise invalid("prorate", "This stand-in gives no credit on cancellation; send prorate=false.")
        self._schedules.cancel(schedule, invoice_now=invoice_now is not False)
        return schedule
