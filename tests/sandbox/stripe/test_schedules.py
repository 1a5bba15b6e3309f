"""The stand-in's subscription schedules: what they are made from, what each phase's end does, what is refused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import START, StandIn, seconds

END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)
NEXT = datetime(2027, 1, 5, 10, 23, 45, tzinfo=UTC)


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def phase(prices: dict[str, str], **more: Any) -> dict[str, Any]:
    return {"items": [{"price": prices["flat"]}, {"price": prices["metered"]}], **more}


class Downgrade:
    """A Professional business that goes down to Starter at ``END``."""

    def __init__(self, it: StandIn, **update: Any) -> None:
        self.it = it
        self.professional, self.starter = it.plan(2000, "10", 14900, "professional"), it.plan()
        self.customer = it.customer()
        self.subscription = it.subscribe(self.customer, self.professional)
        self.items = [item.id for item in self.retrieve().items.data]
        self.schedule = it.client.v1.subscription_schedules.create({"from_subscription": self.subscription})
        self.updated = it.client.v1.subscription_schedules.update(self.schedule.id, self.phases(**update))  # type: ignore[arg-type]  # a dict

    def phases(self, **more: Any) -> dict[str, Any]:
        current = phase(self.professional, start_date=seconds(START), end_date=seconds(END))
        return {"phases": [current, phase(self.starter)], **more}

    def retrieve(self) -> stripe.Subscription:
        return self.it.client.v1.subscriptions.retrieve(self.subscription)

    def prices(self) -> list[str]:
        return [item.price.id for item in self.retrieve().items.data]

    def again(self) -> stripe.SubscriptionSchedule:
        return self.it.client.v1.subscription_schedules.retrieve(self.schedule.id)


def test_a_schedule_begins_as_the_subscription_is(it):
    prices, customer = it.plan(), it.customer()
    subscription = it.subscribe(customer, prices)
    schedule = it.client.v1.subscription_schedules.create({"from_subscription": subscription})
    assert (schedule.status, schedule.end_behavior, schedule.subscription) == ("active", "release", subscription)
    assert schedule.current_phase is not None
    assert (schedule.current_phase.start_date, schedule.current_phase.end_date) == (seconds(START), seconds(END))
    (only,) = schedule.phases
    assert [(item.price, getattr(item, "quantity", None)) for item in only.items] == [
        (prices["flat"], 1),
        (prices["metered"], None),
    ]
    assert it.client.v1.subscriptions.retrieve(subscription).schedule == schedule.id
    assert it.kinds()[-2:] == ["subscription_schedule.created", "customer.subscription.updated"]
    listed = it.client.v1.subscription_schedules.list
    assert [each.id for each in listed({"customer": customer}).data] == [schedule.id]
    assert listed({"customer": it.customer()}).data == []


def test_the_next_phase_takes_over_at_the_periods_end_and_usage_before_it_is_billed_at_the_old_price(it):
    down = Downgrade(it)
    it.report(down.customer, "2010", "before")
    it.run(it.timeline.advance(END + timedelta(minutes=10)))
    assert down.prices() == [down.starter["flat"], down.starter["metered"]]
    assert [item.id for item in down.retrieve().items.data] == down.items
    it.report(down.customer, "5", "after", END)
    draft = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
    lines = [
        (line.pricing.price_details.price, line.quantity, line.amount, line.period.start, line.period.end)
        for line in draft.lines.data
    ]
    old, start, end = down.professional["metered"], seconds(START), seconds(END)
    assert lines == [
        (old, 2000, 0, start, end),
        (old, 10, 100, start, end),
        (down.starter["flat"], 1, 4900, end, seconds(NEXT)),
    ]
    updated = it.of_kind("customer.subscription.updated")[-1]["data"]
    before = [item["price"]["id"] for item in updated["previous_attributes"]["items"]["data"]]
    assert before == [down.professional["flat"], old]
    entered = it.of_kind("subscription_schedule.updated")[-1]["data"]["object"]
    assert entered["current_phase"] == {"start_date": end, "end_date": seconds(NEXT)}
    it.run(it.timeline.advance(NEXT))
    draft = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
    assert [line.quantity for line in draft.lines.data] == [5, 1]


def test_after_the_last_phase_the_subscription_goes_on_by_itself(it):
    down = Downgrade(it)
    it.run(it.timeline.advance(NEXT))
    done = down.again()
    assert (done.status, done.released_at, done.released_subscription) == ("released", seconds(NEXT), down.subscription)
    assert (done.subscription, done.current_phase) == (None, None)
    assert (down.retrieve().schedule, down.retrieve().status) == (None, "active")
    assert down.prices() == [down.starter["flat"], down.starter["metered"]]
    assert len(it.of_kind("subscription_schedule.released")) == 1
    it.advance(2027, 3, 1)
    assert down.retrieve().items.data[0].current_period_start == seconds(datetime(2027, 2, 5, 10, 23, 45, tzinfo=UTC))


def test_after_the_last_phase_the_subscription_ends_if_that_was_asked_for(it):
    down = Downgrade(it, end_behavior="cancel")
    assert down.retrieve().cancel_at == seconds(NEXT)
    it.report(down.customer, "3", "i1")
    it.run(it.timeline.advance(END + timedelta(minutes=10)))
    it.report(down.customer, "507", "i2", END + timedelta(minutes=5))
    it.run(it.timeline.advance(NEXT + timedelta(hours=1)))
    done = down.again()
    assert (done.status, done.completed_at) == ("completed", seconds(NEXT))
    assert (down.retrieve().status, down.retrieve().ended_at) == ("canceled", seconds(NEXT))
    last = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
    assert ([line.quantity for line in last.lines.data], last.amount_paid) == ([500, 7], 84)
    assert it.of_kind("subscription_schedule.canceled") == []
    assert len(it.of_kind("subscription_schedule.completed")) == 1


def test_a_phase_that_ends_inside_a_period_changes_the_items_by_its_own_proration(it):
    down = Downgrade(it)
    middle = seconds(datetime(2026, 11, 20, tzinfo=UTC))
    current = phase(down.professional, start_date=seconds(START), end_date=middle)
    for behavior in ("create_prorations", "none"):
        params: Any = {"phases": [current, phase(down.starter, proration_behavior=behavior, end_date=seconds(END))]}
        again = it.client.v1.subscription_schedules.update(down.schedule.id, params)
        assert again.phases[1].proration_behavior == behavior
    it.report(down.customer, "10", "lost")
    it.advance(2026, 11, 20)
    assert down.prices() == [down.starter["flat"], down.starter["metered"]]
    assert down.retrieve().items.data[0].current_period_end == seconds(END)
    it.report(down.customer, "4", "kept", datetime(2026, 11, 20, tzinfo=UTC))
    it.run(it.timeline.advance(END))
    draft = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
    assert [(line.quantity, line.amount) for line in draft.lines.data] == [(4, 0), (1, 4900)]
    assert down.again().status == "released"


@pytest.mark.parametrize("proration", ["create_prorations", "always_invoice"])
def test_usage_before_a_phase_inside_a_period_keeps_its_own_time(it, proration):
    down = Downgrade(it)
    middle = datetime(2026, 11, 20, tzinfo=UTC)
    current = phase(down.professional, start_date=seconds(START), end_date=seconds(middle))
    params: Any = {"phases": [current, phase(down.starter, proration_behavior=proration, end_date=seconds(END))]}
    it.client.v1.subscription_schedules.update(down.schedule.id, params)
    it.report(down.customer, "10", "old")
    it.run(it.timeline.advance(middle if proration == "always_invoice" else END))
    bill = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
    used = [(line.quantity, line.period.start, line.period.end) for line in bill.lines.data if line.quantity != 1]
    assert used[0] == (10, seconds(START), seconds(middle))
    assert bill.billing_reason == ("subscription_update" if proration == "always_invoice" else "subscription_cycle")
    flats = [line.amount for line in bill.lines.data if line.period.end == seconds(END) and line.quantity == 1]
    part = (END - middle) / (END - START)
    assert flats == [-round(14900 * part), round(4900 * part)]


def test_another_price_in_the_current_phase_changes_the_items_at_once(it):
    down = Downgrade(it)
    it.report(down.customer, "10", "i1")
    it.advance(2026, 11, 10)
    params: Any = {
        "phases": [phase(down.starter, start_date=seconds(START), end_date=seconds(END))],
        "proration_behavior": "none",
    }
    it.client.v1.subscription_schedules.update(down.schedule.id, params)
    assert down.prices() == [down.starter["flat"], down.starter["metered"]]
    it.run(it.timeline.advance(END))
    draft = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
    assert [(line.quantity, line.amount) for line in draft.lines.data] == [(0, 0), (1, 4900)]


def test_a_released_schedule_leaves_the_subscription_as_it_is(it):
    down = Downgrade(it, end_behavior="cancel")
    released = it.client.v1.subscription_schedules.release(down.schedule.id)
    assert (released.status, released.released_subscription) == ("released", down.subscription)
    assert (down.retrieve().schedule, down.retrieve().cancel_at) == (None, None)
    it.run(it.timeline.advance(NEXT))
    assert down.prices() == [down.professional["flat"], down.professional["metered"]]
    assert it.client.v1.subscription_schedules.create({"from_subscription": down.subscription}).status == "active"


def test_a_canceled_schedule_ends_its_subscription_and_bills_its_usage(it):
    down = Downgrade(it)
    it.report(down.customer, "9", "i1")
    it.advance(2026, 11, 6)
    with pytest.raises(stripe.InvalidRequestError, match="prorate=false"):
        it.client.v1.subscription_schedules.cancel(down.schedule.id)
    canceled = it.client.v1.subscription_schedules.cancel(down.schedule.id, {"prorate": False})
    assert (canceled.status, canceled.canceled_at) == ("canceled", seconds(it.timeline.now))
    assert (down.retrieve().status, down.retrieve().schedule) == ("canceled", None)
    draft = it.client.v1.invoices.list({"subscription": down.subscription, "status": "draft"}).data[0]
    assert [line.quantity for line in draft.lines.data] == [9]
    it.run(it.timeline.advance(NEXT))
    assert len(it.of_kind("customer.subscription.deleted")) == 1


def test_the_end_of_a_subscription_ends_its_schedule(it):
    down = Downgrade(it)
    it.client.v1.subscriptions.cancel(down.subscription)
    assert down.again().status == "canceled"
    assert len(it.of_kind("subscription_schedule.canceled")) == 1
    with pytest.raises(stripe.InvalidRequestError, match="canceled"):
        it.client.v1.subscription_schedules.create({"from_subscription": down.subscription})


def test_the_next_phase_can_also_bring_new_items(host, tmp_path):
    with host.fresh(tmp_path, phases_keep_items=False) as it:
        down = Downgrade(it)
        it.report(down.customer, "7", "i1")
        it.run(it.timeline.advance(END))
        assert down.prices() == [down.starter["flat"], down.starter["metered"]]
        assert not set(down.items) & {item.id for item in down.retrieve().items.data}
        draft = it.client.v1.invoices.list({"subscription": down.subscription}).data[0]
        assert [line.quantity for line in draft.lines.data] == [7, 1]


def test_a_schedule_of_a_subscription_that_ends_with_its_period_ends_it_as_well(it):
    subscription = it.subscribe(it.customer(), it.plan())
    it.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    schedule = it.client.v1.subscription_schedules.create({"from_subscription": subscription})
    assert schedule.end_behavior == "cancel"
    managed = it.client.v1.subscriptions.retrieve(subscription)
    assert (managed.cancel_at_period_end, managed.cancel_at) == (False, seconds(END))
    it.run(it.timeline.advance(END))
    assert it.client.v1.subscriptions.retrieve(subscription).status == "canceled"


def test_a_managed_subscription_ends_only_as_its_schedule_says(it):
    down = Downgrade(it)
    words = (
        f"The subscription is managed by the subscription schedule `{down.schedule.id}`, and updating any cancelation "
        "behavior directly is not allowed. Please update the schedule instead."
    )
    wrong: list[Any] = [{"cancel_at_period_end": True}, {"cancel_at_period_end": False}, {"cancel_at": seconds(NEXT)}]
    for params in wrong:
        with pytest.raises(stripe.InvalidRequestError) as refused:
            it.client.v1.subscriptions.update(down.subscription, params)
        assert (refused.value.user_message, refused.value.http_status) == (words, 400)
    it.client.v1.subscriptions.update(down.subscription, {"metadata": {"a": "b"}})
    look: Any = {"subscription": down.subscription, "subscription_details": {"cancel_at_period_end": True}}
    with pytest.raises(stripe.InvalidRequestError, match="managed by the subscription schedule"):
        it.client.v1.invoices.create_preview(look)


def test_what_cannot_be_scheduled_is_refused(it):
    down = Downgrade(it)
    create, update = it.client.v1.subscription_schedules.create, it.client.v1.subscription_schedules.update
    other = it.subscribe(it.customer(), down.starter)
    wrong: list[tuple[Any, str]] = [
        ({"from_subscription": down.subscription}, "already attached to a schedule"),
        ({"from_subscription": other, "phases": [phase(down.starter)]}, "You cannot set `phases`"),
        ({"from_subscription": other, "end_behavior": "cancel"}, "You cannot set `end_behavior`"),
        ({"from_subscription": "sub_lost"}, "No such subscription"),
        ({"customer": down.customer}, "from_subscription"),
    ]
    for params, words in wrong:
        with pytest.raises(stripe.InvalidRequestError, match=words):
            create(params)
    start, end = seconds(START), seconds(END)
    wrong_phases: list[tuple[list[Any], str]] = [
        ([phase(down.starter)], "anchor end dates"),
        ([phase(down.starter, start_date=end)], "modify the start date of the current phase"),
        ([phase(down.starter, start_date=start, end_date=start)], "end date"),
        ([phase(down.starter, start_date=start, end_date=end), phase(down.starter, start_date=end + 1)], "start date"),
        ([phase(down.starter, start_date=start, iterations=2)], "unknown parameter"),
        ([{"start_date": start}], "items"),
    ]
    for phases, words in wrong_phases:
        with pytest.raises(stripe.InvalidRequestError, match=words):
            update(down.schedule.id, {"phases": phases})
    assert down.again().phases == down.updated.phases
    it.client.v1.subscription_schedules.release(down.schedule.id)
    over = [
        lambda: update(down.schedule.id, down.phases()),
        lambda: it.client.v1.subscription_schedules.release(down.schedule.id),
        lambda: it.client.v1.subscription_schedules.cancel(down.schedule.id, {"prorate": False}),
    ]
    for act in over:
        with pytest.raises(stripe.InvalidRequestError, match="currently in the `released` status"):
            act()
