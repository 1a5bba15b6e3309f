"""The stand-in's subscriptions whose first payment fails, and those in the classic billing mode."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import START, StandIn


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def make(it: StandIn, route: str = "fail-payment", **params: Any) -> stripe.Subscription:
    prices, customer = it.plan(), it.customer()
    it.control(f"/stripe/{route}", customer=customer)
    items = [{"price": price} for price in prices.values()]
    asked: Any = {"customer": customer, "items": items, **params}
    return it.client.v1.subscriptions.create(asked)


def retrieve(it: StandIn, subscription: stripe.Subscription) -> stripe.Subscription:
    return it.client.v1.subscriptions.retrieve(subscription.id)


def first(it: StandIn, subscription: stripe.Subscription) -> stripe.Invoice:
    (invoice,) = it.client.v1.invoices.list({"subscription": subscription.id}).data
    return invoice


@pytest.mark.parametrize("route", ["fail-payment", "break-payment", "remove-payment-method"])
def test_a_first_payment_that_fails_leaves_the_subscription_incomplete(it, route):
    made = make(it, route)
    assert made.status == "incomplete"
    created = it.of_kind("customer.subscription.created")[0]["data"]["object"]
    assert created["status"] == "incomplete"
    invoice = first(it, made)
    assert (invoice.status, invoice.attempt_count, invoice.next_payment_attempt) == ("open", 1, None)
    (failed,) = it.of_kind("invoice.payment_failed")
    assert failed["data"]["object"]["billing_reason"] == "subscription_create"


def test_a_first_payment_within_23_hours_makes_it_active(it):
    made = make(it)
    it.run(it.timeline.advance(START + timedelta(hours=22, minutes=59)))
    it.client.v1.invoices.pay(str(first(it, made).id))
    assert retrieve(it, made).status == "active"
    changed = it.of_kind("customer.subscription.updated")[-1]["data"]["previous_attributes"]
    assert changed == {"status": "incomplete"}
    it.advance(2026, 12, 6)
    assert retrieve(it, made).status == "active"
    assert len(it.client.v1.invoices.list({"subscription": made.id}).data) == 2


def test_without_a_first_payment_it_expires(it):
    made = make(it, "break-payment")
    with pytest.raises(stripe.CardError):
        it.client.v1.invoices.pay(str(first(it, made).id))
    deadline = START + timedelta(hours=23)
    assert it.timeline.next_stop() == deadline
    it.run(it.timeline.advance(deadline))
    expired = retrieve(it, made)
    assert (expired.status, expired.ended_at) == ("incomplete_expired", int(deadline.timestamp()))
    assert first(it, made).status == "void"
    assert it.kinds()[-2:] == ["invoice.voided", "customer.subscription.updated"]
    it.advance(2027, 2, 1)
    assert first(it, made).status == "void"
    update = it.client.v1.subscriptions.update
    with pytest.raises(stripe.InvalidRequestError):
        update(made.id, {"cancel_at_period_end": True})
    for act in (it.client.v1.subscriptions.cancel, it.client.v1.subscriptions.pause):
        with pytest.raises(stripe.InvalidRequestError):
            act(made.id)
    listed = it.client.v1.subscriptions.list
    assert [each.id for each in listed({"status": "ended"}).data] == [made.id]
    assert [each.id for each in listed({"status": "incomplete_expired"}).data] == [made.id]


def test_voiding_its_invoice_ends_an_incomplete_subscription(it):
    made = make(it)
    it.client.v1.invoices.void_invoice(str(first(it, made).id))
    assert retrieve(it, made).status == "incomplete_expired"


def test_a_first_invoice_of_nothing_needs_no_payment(it):
    assert make(it, "break-payment", trial_period_days=5).status == "trialing"
    metered = it.subscribe(it.customer(), {"metered": it.plan()["metered"]})
    assert it.client.v1.subscriptions.retrieve(metered).status == "active"


def test_an_incomplete_subscription_has_no_schedule(it):
    made = make(it)
    with pytest.raises(stripe.InvalidRequestError, match="incomplete"):
        it.client.v1.subscription_schedules.create({"from_subscription": made.id})


@pytest.mark.parametrize(("mode", "used"), [("classic", [0]), ("flexible", [500, 10, 0])])
@pytest.mark.parametrize("how", ["api", "dashboard"])
def test_in_the_classic_mode_usage_before_a_swap_is_never_billed(it, mode, used, how):
    prices, bigger, customer = it.plan(), it.plan(2000, "10", 14900, "professional"), it.customer()
    items: Any = [{"price": price} for price in prices.values()]
    made = it.client.v1.subscriptions.create({"customer": customer, "items": items, "billing_mode": {"type": mode}})
    assert made.billing_mode.type == mode
    it.report(customer, "510", "i1")
    it.advance(2026, 11, 20)
    if how == "api":
        swapped: Any = [{"id": made.items.data[1].id, "price": bigger["metered"]}]
        it.client.v1.subscriptions.update(made.id, {"items": swapped, "proration_behavior": "create_prorations"})
    else:
        it.control("/stripe/change-price", subscription=made.id, old=prices["metered"], new=bigger["metered"])
    it.advance(2026, 12, 5, 10, 24)
    renewal = it.client.v1.invoices.list({"subscription": made.id}).data[0]
    assert [line.quantity for line in renewal.lines.data] == [*used, 1]


def test_an_upgrade_from_now_in_the_classic_mode_loses_its_usage(it):
    prices, bigger, customer = it.plan(), it.plan(2000, "10", 14900, "professional"), it.customer()
    items: Any = [{"price": price} for price in prices.values()]
    made = it.client.v1.subscriptions.create(
        {"customer": customer, "items": items, "billing_mode": {"type": "classic"}}
    )
    it.report(customer, "510", "i1")
    it.advance(2026, 11, 20)
    flat, minutes = made.items.data
    swapped: Any = [{"id": flat.id, "price": bigger["flat"]}, {"id": minutes.id, "price": bigger["metered"]}]
    change: Any = {"items": swapped, "billing_cycle_anchor": {"type": "now"}}
    it.client.v1.subscriptions.update(made.id, change)
    bill = it.client.v1.invoices.list({"subscription": made.id}).data[0]
    old = prices["metered"]
    assert old not in [line.pricing.price_details.price for line in bill.lines.data if line.pricing]
