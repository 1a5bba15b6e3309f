"""The API's coupons and tax rates."""

from starlette.routing import BaseRoute

from sandbox.stripe.account.reductions import new_coupon, new_tax_rate
from sandbox.stripe.account.state import Object, State
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid, missing
from sandbox.stripe.api.lists import found, paged


class ReductionsApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, state: State) -> None:
        self._state = state

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("GET", "/v1/coupons", self.list_coupons),
            door.route("POST", "/v1/coupons", self.create_coupon),
            door.route("GET", "/v1/coupons/{id}", self.get_coupon),
            door.route("GET", "/v1/tax_rates", self.list_tax_rates),
            door.route("POST", "/v1/tax_rates", self.create_tax_rate),
        ]

    async def list_coupons(self, call: Call) -> Object:
        return paged(self._state.coupons.values(), call.params, call.path)

    async def get_coupon(self, call: Call) -> Object:
        call.params.refuse_unread()
        return found(self._state.coupons, "coupon", call.ids["id"])

    async def create_coupon(self, call: Call) -> Object:
        params = call.params
        percent, amount, currency = params.decimal("percent_off"), params.whole("amount_off"), params.text("currency")
        identifier = params.text("id")
        duration = params.choice("duration", "forever", "once") or "once"
        params.refuse_unread()
        if (percent is None) == (amount is None):
            raise invalid("percent_off", "You must pass one of percent_off and amount_off.")
        if percent is not None and not 0 < percent <= 100:
            raise invalid("percent_off", "percent_off must be above 0 and at most 100.")
        if amount is not None and (amount <= 0 or currency is None):
            raise missing("currency") if amount > 0 else invalid("amount_off", "amount_off must be above 0.")
        if identifier in self._state.coupons:
            raise invalid("id", f"Coupon already exists: {identifier}", "resource_already_exists")
        coupon = new_coupon(
            identifier, percent, amount, currency if percent is None else None, duration, self._state.now
        )
        self._state.coupons[coupon["id"]] = coupon
        return coupon

    async def list_tax_rates(self, call: Call) -> Object:
        return paged(self._state.tax_rates.values(), call.params, call.path)

    async def create_tax_rate(self, call: Call) -> Object:
        params = call.params
        name, percentage = params.required("display_name", longest=50), params.decimal("percentage")
        inclusive = params.flag("inclusive")
        params.refuse_unread()
        if percentage is None or inclusive is None:
            raise missing("percentage" if percentage is None else "inclusive")
        if not 0 <= percentage <= 100:
            raise invalid("percentage", "percentage must be between 0 and 100.")
        rate = new_tax_rate(name, percentage, inclusive=inclusive, now=self._state.now)
        self._state.tax_rates[rate["id"]] = rate
        return rate
