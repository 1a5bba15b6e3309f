"""The API's meters: what they are told, and the sums that can be read back."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.meters import LONGEST_NAME, Meters
from sandbox.stripe.account.state import Object, State, new_id
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid, missing, no_such
from sandbox.stripe.api.lists import check_customer, paged


class MetersApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, state: State, meters: Meters) -> None:
        self._state = state
        self._meters = meters

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("POST", "/v1/billing/meter_events", self.create_meter_event),
            door.route("GET", "/v1/billing/meters", self.list_meters),
            door.route("POST", "/v1/billing/meters", self.create_meter),
            door.route("GET", "/v1/billing/meters/{id}", self.get_meter),
            door.route("POST", "/v1/billing/meters/{id}/deactivate", self.deactivate_meter),
            door.route("POST", "/v1/billing/meters/{id}/reactivate", self.reactivate_meter),
            door.route("GET", "/v1/billing/meters/{id}/event_summaries", self.list_summaries),
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

    async def reactivate_meter(self, call: Call) -> Object:
        call.params.refuse_unread()
        meter = self._meter(call)
        self._meters.reactivate(meter)
        return meter

    async def list_summaries(self, call: Call) -> Object:
        meter = self._meter(call)
        customer = call.params.required("customer")
        start, end = call.params.whole("start_time"), call.params.whole("end_time")
        window = call.params.choice("value_grouping_window", "hour", "day")
        if start is None or end is None:
            raise missing("start_time" if start is None else "end_time")
        check_customer(self._state, customer)
        rows = self._meters.summaries(meter, customer, start, end, window)
        return paged(rows[::-1], call.params, call.path)
