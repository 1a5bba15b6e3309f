"""Subscription schedules: phases that change a subscription's prices at set times, and what comes after the last."""

import copy
import functools
from dataclasses import dataclass, field
from typing import Any

from sandbox.stripe.account.changes import Changes
from sandbox.stripe.account.charges import period
from sandbox.stripe.account.events import Events
from sandbox.stripe.account.items import Priced, changes_to
from sandbox.stripe.account.lifecycle import RENEWING
from sandbox.stripe.account.periods import next_boundary
from sandbox.stripe.account.state import Object, State, instant
from sandbox.stripe.account.subscriptions import Subscriptions
from sandbox.stripe.api.errors import StripeError
from sandbox.stripe.api.shapes import new_phase, new_schedule


@dataclass
class NewPhase:
    """One phase of an update. Without a start it follows the one before, without an end it lasts one period."""

    priced: list[Priced]
    start: int | None
    end: int | None
    proration: str
    own: dict[str, Any] = field(default_factory=dict)
    """What else the request says of the phase; what it leaves out is reset."""
    items: list[dict[str, Any]] = field(default_factory=list)
    """What else it says of each item, in their order."""


class Schedules:
    """The subscription schedules of the account."""

    def __init__(self, state: State, events: Events, subscriptions: Subscriptions, changes: Changes) -> None:
        self._state = state
        self._events = events
        self._subscriptions = subscriptions
        self._changes = changes
        subscriptions.on_renewal = self._on_renewal

    def create(self, subscription: Object, metadata: dict[str, str]) -> Object:
        """A schedule whose one phase is the subscription's current period."""
        if subscription["schedule"] is not None:
            raise StripeError(
                400,
                "You cannot migrate a subscription that is already attached to a schedule: "
                f"`{subscription['schedule']}`.",
                executed=True,
            )
        if subscription["status"] not in RENEWING:
            raise StripeError(
                400, f"You cannot migrate a subscription that is `{subscription['status']}`.", executed=True
            )
        priced = [(item["price"], item.get("quantity", 1)) for item in subscription["items"]["data"]]
        phase = new_phase(subscription, priced, *period(subscription), "create_prorations")
        for item, shown in zip(subscription["items"]["data"], phase["items"], strict=True):
            shown |= {"tax_rates": item["tax_rates"], "metadata": item["metadata"]}
            shown["discounts"] = [
                {"coupon": None, "discount": each, "promotion_code": None} for each in item["discounts"]
            ]
        schedule = new_schedule(subscription, phase, metadata, self._state.now)
        if subscription["cancel_at_period_end"]:
            schedule["end_behavior"] = "cancel"
        self._state.schedules[schedule["id"]] = schedule
        before = copy.deepcopy(subscription)
        subscription.update(schedule=schedule["id"], cancel_at_period_end=False)
        self._plan(schedule)
        self._events.emit("subscription_schedule.created", schedule)
        self._events.emit_change("customer.subscription.updated", before, subscription)
        return schedule

    def update(
        self,
        schedule: Object,
        phases: list[NewPhase],
        end_behavior: str | None,
        proration: str,
        metadata: dict[str, str],
    ) -> None:
        """Put new phases in place of the current one and those after it, and change the items if the current did."""
        self._must_be_active(schedule, "update", "updated")
        subscription = self._state.subscriptions[schedule["subscription"]]
        planned = self._phases(schedule, subscription, phases) if phases else None
        before, managed = copy.deepcopy(schedule), copy.deepcopy(subscription)
        if planned is not None:
            changes = changes_to(subscription, phases[0].priced, keep_items=self._state.rules.phases_keep_items)
            if changes:
                self._changes.apply(subscription, changes, proration=proration, from_now=False)
            current = schedule["current_phase"]["start_date"]
            past = [phase for phase in schedule["phases"] if phase["end_date"] <= current]
            schedule["phases"] = [*past, *planned]
            schedule["current_phase"]["end_date"] = planned[0]["end_date"]
        schedule.update(end_behavior=end_behavior or schedule["end_behavior"], metadata=metadata)
        self._plan(schedule)
        self._events.emit_change("subscription_schedule.updated", before, schedule)
        self._events.emit_change("customer.subscription.updated", managed, subscription)

    def release(self, schedule: Object) -> None:
        """Leave the subscription as it is, to itself."""
        self._must_be_active(schedule, "release", "released")
        subscription = self._state.subscriptions[schedule["subscription"]]
        before = copy.deepcopy(subscription)
        self._released(schedule, subscription)
        self._events.emit_change("customer.subscription.updated", before, subscription)

    def cancel(self, schedule: Object, *, invoice_now: bool) -> None:
        """End the schedule and, at once, its subscription."""
        self._must_be_active(schedule, "cancel", "canceled")
        self._subscriptions.cancel(self._state.subscriptions[schedule["subscription"]], invoice_now=invoice_now)

    def _must_be_active(self, schedule: Object, verb: str, done: str) -> None:
        if schedule["status"] != "active":
            raise StripeError(
                400,
                f"You cannot {verb} a subscription schedule that is currently in the `{schedule['status']}` status. "
                f"It must be in `not_started`, `active` status to be {done}.",
                executed=True,
            )

    def _phases(self, schedule: Object, subscription: Object, phases: list[NewPhase]) -> list[Object]:
        if phases[0].start is None:
            raise StripeError(
                400,
                "The subscription schedule update is missing at least one phase with a `start_date` to anchor end "
                "dates to.",
                param="phases",
            )
        if phases[0].start != schedule["current_phase"]["start_date"]:
            raise StripeError(400, "You can not modify the start date of the current phase.", param="phases")
        anchor = instant(subscription["billing_cycle_anchor"])
        planned: list[Object] = []
        start = phases[0].start
        for place, phase in enumerate(phases):
            if phase.start not in {None, start}:
                raise StripeError(
                    400, "The start date of a phase must be the end date of the phase before it.", param="phases"
                )
            end = phase.end or int(next_boundary(anchor, instant(start)).timestamp())
            if end <= start or (place == 0 and end <= self._state.now):
                raise StripeError(400, "The end date of a phase must be after its start, and ahead.", param="phases")
            made = new_phase(subscription, phase.priced, start, end, phase.proration)
            made |= {"discounts": [], "default_tax_rates": [], "trial_end": None, **phase.own}
            for item, own in zip(made["items"], phase.items, strict=True):
                item.update(own)
            planned.append(made)
            start = end
        return planned

    def _plan(self, schedule: Object) -> None:
        """Let the phases end on the timeline, and show where the subscription ends with them, if it does."""
        last = schedule["phases"][-1]["end_date"]
        subscription = self._state.subscriptions[schedule["subscription"]]
        ends = schedule["end_behavior"] == "cancel"
        subscription["cancel_at"] = last if ends else None
        subscription["canceled_at"] = (subscription["canceled_at"] or self._state.now) if ends else None
        for phase in schedule["phases"]:
            at = phase["end_date"]
            if at > self._state.now:
                act = functools.partial(self._end_phase_in_time, schedule["id"], at)
                self._state.timeline.at(instant(at), act, stop=True)

    async def _end_phase_in_time(self, schedule_id: str, at: int) -> None:
        self.end_phase(self._state.schedules[schedule_id], at)
        await self._events.flush()

    def end_phase(self, schedule: Object, at: int) -> None:
        """End the phase that ends at ``at``, if that is the current one: the next begins, or the schedule ends."""
        if schedule["status"] != "active" or schedule["current_phase"]["end_date"] != at:
            return
        subscription = self._state.subscriptions[schedule["subscription"]]
        if period(subscription)[1] == at:
            self._subscriptions.renew(subscription, at)
        elif subscription["cancel_at"] == at:
            self._subscriptions.cancel(subscription, invoice_now=True)
        else:
            before = copy.deepcopy(subscription)
            self._enter_next(schedule, subscription, at, renews=False)
            self._events.emit_change("customer.subscription.updated", before, subscription)

    def _on_renewal(self, subscription: Object, at: int) -> None:
        schedule = self._state.schedules.get(subscription["schedule"] or "")
        if schedule is not None and schedule["current_phase"]["end_date"] == at:
            self._enter_next(schedule, subscription, at, renews=True)

    def _enter_next(self, schedule: Object, subscription: Object, at: int, *, renews: bool) -> None:
        phase = next((each for each in schedule["phases"] if each["start_date"] == at), None)
        if phase is None:
            self._released(schedule, subscription)
            return
        priced = [(self._state.prices[item["price"]], item.get("quantity", 1)) for item in phase["items"]]
        changes = changes_to(subscription, priced, keep_items=self._state.rules.phases_keep_items)
        if renews:
            self._changes.replace(subscription, changes, at)
        elif changes:
            self._changes.apply(subscription, changes, proration=phase["proration_behavior"], from_now=False)
        subscription["discounts"] = [each["discount"] for each in phase["discounts"]]
        subscription["default_tax_rates"] = copy.deepcopy(phase["default_tax_rates"])
        before = copy.deepcopy(schedule)
        schedule["current_phase"] = {"start_date": at, "end_date": phase["end_date"]}
        self._events.emit_change("subscription_schedule.updated", before, schedule)

    def _released(self, schedule: Object, subscription: Object) -> None:
        schedule.update(status="released", released_at=self._state.now, current_phase=None)
        schedule.update(released_subscription=subscription["id"], subscription=None)
        subscription.update(schedule=None)
        if schedule["end_behavior"] == "cancel":
            subscription.update(cancel_at=None, canceled_at=None)
        self._events.emit("subscription_schedule.released", schedule)


def refuse_direct_ending(subscription: Object) -> None:
    """A managed subscription ends as its schedule says, and not otherwise."""
    if subscription["schedule"] is not None:
        raise StripeError(
            400,
            f"The subscription is managed by the subscription schedule `{subscription['schedule']}`, and updating any "
            "cancelation behavior directly is not allowed. Please update the schedule instead.",
            executed=True,
        )
