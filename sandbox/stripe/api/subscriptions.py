"""The API's subscriptions."""

import copy

from starlette.routing import BaseRoute

from sandbox.stripe.account.billing import Billing
from sandbox.stripe.account.items import check_priced, read_changes, read_priced
from sandbox.stripe.account.lifecycle import ENDED, refuse_if_ended
from sandbox.stripe.account.periods import boundary
from sandbox.stripe.account.reductions import redeem
from sandbox.stripe.account.schedules import refuse_direct_ending
from sandbox.stripe.account.state import Object, instant
from sandbox.stripe.account.subscriptions import NewSubscription, interval
from sandbox.stripe.api.door import Call, Door
from sandbox.stripe.api.errors import invalid, missing
from sandbox.stripe.api.lists import check_customer, created_filter, found, paged
from sandbox.stripe.api.params import Params

MOST_TRIAL_DAYS = 730
PAUSES = ("keep_as_draft", "mark_uncollectible", "void")
PRORATIONS = ("create_prorations", "always_invoice", "none")
STATUSES = (
    "active",
    "all",
    "canceled",
    "ended",
    "incomplete",
    "incomplete_expired",
    "past_due",
    "paused",
    "trialing",
    "unpaid",
)


class SubscriptionsApi:
    """Handlers; each reads its parameters, refuses what is wrong, and only then changes anything."""

    def __init__(self, billing: Billing) -> None:
        self._billing = billing
        self._state = billing.state
        self._events = billing.events
        self._subscriptions = billing.subscriptions

    def routes(self, door: Door) -> list[BaseRoute]:
        return [
            door.route("GET", "/v1/subscriptions", self.list_subscriptions),
            door.route("POST", "/v1/subscriptions", self.create_subscription),
            door.route("GET", "/v1/subscriptions/{id}", self.get_subscription),
            door.route("POST", "/v1/subscriptions/{id}", self.update_subscription),
            door.route("DELETE", "/v1/subscriptions/{id}", self.cancel_subscription),
            door.route("POST", "/v1/subscriptions/{id}/migrate", self.migrate_subscription),
            door.route("GET", "/v1/subscription_items", self.list_items),
        ]

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

    async def list_items(self, call: Call) -> Object:
        subscription = found(self._state.subscriptions, "subscription", call.params.required("subscription"))
        return paged(subscription["items"]["data"], call.params, call.path)

    async def create_subscription(self, call: Call) -> Object:
        params = call.params
        customer, metadata = params.required("customer"), params.metadata({})
        start, anchor = params.whole("backdate_start_date"), params.whole("billing_cycle_anchor")
        new = NewSubscription(
            customer,
            read_priced(self._state, params.rows("items")),
            self._state.now if start is None else start,
            metadata,
            anchor,
            params.choice("proration_behavior", "create_prorations", "none") != "none",
            self._trial_end(params),
            _missing_payment_method(params),
            _billing_mode(params),
            _coupons(params) or [],
            self._tax_rates(params) or [],
        )
        params.refuse_unread()
        return self.add(new)

    def _tax_rates(self, params: Params) -> list[Object] | None:
        if params.raw("default_tax_rates") == "":
            return []
        rates = params.texts("default_tax_rates")
        return [found(self._state.tax_rates, "tax_rate", each, "default_tax_rates") for each in rates] or None

    def _trial_end(self, params: Params) -> int | None:
        """``trial_end`` or ``trial_period_days``; None: there is no trial."""
        days = params.whole("trial_period_days")
        if days is not None and "trial_end" in params:
            raise invalid("trial_end", "You can give only one of trial_end and trial_period_days.")
        if days is not None:
            if not 0 <= days <= MOST_TRIAL_DAYS:
                raise invalid("trial_period_days", f"trial_period_days must be between 0 and {MOST_TRIAL_DAYS}.")
            return self._state.now + days * 24 * 3600 if days else None
        if params.raw("trial_end") == "now":
            return None
        end = params.whole("trial_end")
        if end is not None and end <= self._state.now:
            raise invalid("trial_end", "trial_end must be an integer Unix timestamp in the future")
        return end

    def add(self, new: NewSubscription) -> Object:
        """Check what concerns more than one parameter, and make it."""
        check_customer(self._state, new.customer)
        check_priced(new.priced)
        intervals = {interval(price) for price, _ in new.priced}
        if len(intervals) > 1 and new.billing_mode == "classic":
            raise invalid("items", "Prices of several intervals need the billing mode `flexible`.")
        now = self._state.now
        if new.trial_end is not None and (new.anchor is not None or new.start != now):
            raise invalid("trial_end", "This stand-in starts a trial now, and the billing cycle with the trial's end.")
        if new.start > now:
            raise invalid("backdate_start_date", "backdate_start_date must be in the past.")
        if new.anchor is not None:
            latest = min(
                int(boundary(instant(new.start), 1, price["recurring"]).timestamp()) for price, _ in new.priced
            )
            if new.anchor <= now:
                raise invalid("billing_cycle_anchor", "billing_cycle_anchor must be in the future.")
            if new.anchor > latest:
                raise invalid(
                    "billing_cycle_anchor",
                    f"billing_cycle_anchor cannot be later than next natural billing date ({latest}) for plan",
                )
        return self._subscriptions.create(new)

    def _subscription(self, call: Call) -> Object:
        return found(self._state.subscriptions, "subscription", call.ids["id"])

    async def get_subscription(self, call: Call) -> Object:
        call.params.refuse_unread()
        return self._subscription(call)

    async def update_subscription(self, call: Call) -> Object:
        subscription, params = self._subscription(call), call.params
        metadata = params.metadata(subscription["metadata"])
        cancels, cancel_at = params.flag("cancel_at_period_end"), params.text("cancel_at")
        changes = read_changes(self._state, params.rows("items"))
        proration = params.choice("proration_behavior", *PRORATIONS) or "create_prorations"
        from_now = read_from_now(params)
        coupons, tax_rates = _coupons(params), self._tax_rates(params)
        clears = params.raw("pause_collection") == ""
        pause = None if clears else params.below("pause_collection")
        behavior = None if pause is None else pause.choice("behavior", *PAUSES)
        resumes_at = None if pause is None else pause.whole("resumes_at")
        if pause is not None:
            if behavior is None:
                raise missing("pause_collection[behavior]")
            pause.refuse_unread()
        params.refuse_unread()
        ends = cancels is not None or cancel_at is not None
        if changes or clears or pause or from_now or ends or coupons is not None or tax_rates is not None:
            refuse_if_ended(subscription)
        if ends:
            refuse_direct_ending(subscription)
        if cancels is not None and cancel_at is not None:
            raise invalid("cancel_at", "You may only specify one of these parameters: cancel_at_period_end, cancel_at.")
        until = None if cancel_at is None else _ending(subscription, cancel_at)
        if from_now and subscription["cancel_at"] is not None and not subscription["cancel_at_period_end"]:
            raise invalid("billing_cycle_anchor", "This stand-in moves no period of what ends at an instant.")
        before = copy.deepcopy(subscription)
        if coupons is not None:
            subscription["discounts"] = redeem(self._state, coupons, subscription)
        if tax_rates is not None:
            subscription["default_tax_rates"] = copy.deepcopy(tax_rates)
        if changes or from_now:
            self._billing.changes.apply(subscription, changes, proration=proration, from_now=from_now)
        subscription["metadata"] = metadata
        if cancels is not None:
            self._subscriptions.set_cancel_at_period_end(subscription, cancels=cancels)
        if cancel_at is not None:
            self._subscriptions.set_cancel_at(subscription, until)
        if clears or pause is not None:
            self._subscriptions.set_pause_collection(subscription, behavior, resumes_at)
        self._events.emit_change("customer.subscription.updated", before, subscription)
        return subscription

    async def migrate_subscription(self, call: Call) -> Object:
        """Into flexible billing mode; there is no way back."""
        subscription = self._subscription(call)
        if _billing_mode(call.params) != "flexible":
            raise invalid("billing_mode[type]", "You can only migrate a subscription to flexible billing mode.")
        call.params.refuse_unread()
        refuse_if_ended(subscription)
        if subscription["billing_mode"]["type"] == "flexible":
            raise invalid("billing_mode[type]", "This subscription already uses flexible billing mode.")
        before = copy.deepcopy(subscription)
        subscription["billing_mode"] = {
            "flexible": {"proration_discounts": "included"},
            "type": "flexible",
            "updated_at": self._state.now,
        }
        self._events.emit_change("customer.subscription.updated", before, subscription)
        return subscription

    async def cancel_subscription(self, call: Call) -> Object:
        subscription = self._subscription(call)
        invoice_now, prorate = call.params.flag("invoice_now"), call.params.flag("prorate")
        call.params.refuse_unread()
        if prorate:
            raise invalid("prorate", "This stand-in gives no credit on cancellation; send prorate=false or nothing.")
        self._subscriptions.cancel(subscription, invoice_now=bool(invoice_now))
        return subscription


def _ending(subscription: Object, cancel_at: str) -> int | None:
    """When it is to end: an empty string unsets it; ``min_period_end`` and ``max_period_end`` are of its items."""
    ends = [int(item["current_period_end"]) for item in subscription["items"]["data"]]
    named = {"": None, "min_period_end": min(ends), "max_period_end": max(ends)}
    if cancel_at in named:
        return named[cancel_at]
    if cancel_at not in {str(end) for end in ends}:
        raise invalid("cancel_at", "This stand-in ends subscriptions with their period: send the end of an item's.")
    return int(cancel_at)


def _has_status(subscription: Object, status: str | None) -> bool:
    if status is None:
        return bool(subscription["status"] != "canceled")
    return status in {"all", subscription["status"]} or (status == "ended" and subscription["status"] in ENDED)


def read_from_now(params: Params) -> bool:
    """``billing_cycle_anchor`` of an update or a preview: an object since 2026-09-30, and no longer a string."""
    anchor = params.below("billing_cycle_anchor")
    if anchor is None:
        return False
    kind = anchor.choice("type", "now", "unchanged")
    anchor.refuse_unread()
    if kind is None:
        raise missing("billing_cycle_anchor[type]")
    return kind == "now"


def _missing_payment_method(params: Params) -> str:
    """``trial_settings[end_behavior][missing_payment_method]``."""
    settings = params.below("trial_settings")
    behavior = None if settings is None else settings.below("end_behavior")
    chosen = None
    if behavior is not None:
        chosen = behavior.choice("missing_payment_method", "cancel", "create_invoice", "pause")
        behavior.refuse_unread()
    if settings is not None:
        settings.refuse_unread()
    return chosen or "create_invoice"


def _coupons(params: Params) -> list[str] | None:
    """The coupons of ``discounts``; an empty string takes all discounts away. None: they stay as they are."""
    if params.raw("discounts") == "":
        return []
    coupons = []
    for row in params.rows("discounts"):
        coupons.append(row.required("coupon"))
        row.refuse_unread()
    return coupons or None


def _billing_mode(params: Params) -> str:
    mode = params.below("billing_mode")
    if mode is None:
        return "flexible"
    kind = mode.choice("type", "classic", "flexible")
    mode.refuse_unread()
    if kind is None:
        raise missing("billing_mode[type]")
    return kind
