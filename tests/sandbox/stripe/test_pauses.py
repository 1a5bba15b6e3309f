"""The stand-in's pauses: status ``paused``, what is billed before and after, and what can't be paused."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import START, StandIn, seconds

PAUSE = datetime(2026, 11, 15, 10, 23, 45, tzinfo=UTC)
END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


class Paused:
    """A Starter business with 510 minutes that is paused at ``PAUSE``."""

    def __init__(self, it: StandIn, **params: Any) -> None:
        self.it = it
        self.customer = it.customer()
        self.id = it.subscribe(self.customer, it.plan())
        it.report(self.customer, "510", "before")
        it.run(it.timeline.advance(PAUSE))
        asked: Any = params
        self.answer = it.client.v1.subscriptions.pause(self.id, asked)

    def retrieve(self) -> stripe.Subscription:
        return self.it.client.v1.subscriptions.retrieve(self.id)

    def resume(self, **params: Any) -> stripe.Subscription:
        asked: Any = params
        return self.it.client.v1.subscriptions.resume(self.id, asked)

    def lines(self) -> list[tuple[int | None, int]]:
        invoice = self.it.client.v1.invoices.list({"subscription": self.id}).data[0]
        return [(line.quantity, line.amount) for line in invoice.lines.data]

    def count(self) -> int:
        return len(self.it.client.v1.invoices.list({"subscription": self.id}).data)


def test_a_paused_subscription_renews_no_more(it):
    paused = Paused(it)
    assert paused.answer.status == "paused"
    assert paused.answer.status_details is not None
    why = paused.answer.status_details.paused
    assert (why.subscription.type, why.transitioned_at) == ("pause_requested", seconds(PAUSE))
    assert it.kinds()[-2:] == ["customer.subscription.updated", "customer.subscription.paused"]
    it.advance(2027, 3, 1)
    assert (paused.count(), paused.retrieve().status) == (1, "paused")
    assert paused.retrieve().items.data[0].current_period_end == seconds(END)
    assert [each.id for each in it.client.v1.subscriptions.list({"status": "paused"}).data] == [paused.id]


def test_resuming_begins_a_new_period_and_bills_what_waited(it):
    paused = Paused(it)
    it.advance(2027, 1, 10)
    it.report(paused.customer, "99", "while-paused")
    it.advance(2027, 1, 11)
    now = it.timeline.now
    resumed = paused.resume()
    assert (resumed.status, resumed.status_details) == ("active", None)
    assert {item.current_period_start for item in resumed.items.data} == {seconds(now)}
    back = -round(4900 * ((END - PAUSE) / (END - START)))
    assert paused.lines() == [(500, 0), (10, 120), (1, back), (1, 4900)]
    invoice = it.client.v1.invoices.list({"subscription": paused.id}).data[0]
    assert (invoice.status, invoice.amount_paid) == ("paid", 120 + back + 4900)
    assert "customer.subscription.resumed" in it.kinds()
    it.report(paused.customer, "2", "after")
    it.advance(2027, 2, 11, 0, 30)
    assert paused.lines() == [(2, 0), (1, 4900)]


def test_resuming_with_the_old_anchor_bills_the_rest_of_its_period(it):
    paused = Paused(it, bill_for={"outstanding_usage_through": {"type": "none"}, "unused_time_from": {"type": "none"}})
    it.advance(2026, 12, 20, 10, 23, 45)
    now, start, end = it.timeline.now, END, datetime(2027, 1, 5, 10, 23, 45, tzinfo=UTC)
    resumed = paused.resume(billing_cycle_anchor={"type": "unchanged"})
    assert resumed.billing_cycle_anchor == seconds(START)
    for item in resumed.items.data:
        assert (item.current_period_start, item.current_period_end) == (seconds(start), seconds(end))
    it.report(paused.customer, "3", "after")
    it.run(it.timeline.advance(end))
    part = round(4900 * ((end - now) / (end - start)))
    assert paused.lines() == [(1, part), (3, 0), (1, 4900)]


def test_resuming_within_the_period_renews_once(it):
    paused = Paused(it)
    it.advance(2026, 11, 20)
    paused.resume(billing_cycle_anchor={"type": "unchanged"}, proration_behavior="none")
    assert it.client.v1.invoices.list({"subscription": paused.id, "status": "draft"}).data == []
    it.run(it.timeline.advance(END + timedelta(minutes=1)))
    assert paused.count() == 2
    back = -round(4900 * ((END - PAUSE) / (END - START)))
    assert paused.lines() == [(500, 0), (10, 120), (1, back), (0, 0), (1, 4900)]


def test_a_pause_can_invoice_at_once_and_give_back_the_whole_period(it):
    paused = Paused(
        it, invoicing_behavior="invoice", bill_for={"unused_time_from": {"type": "item_current_period_start"}}
    )
    assert paused.lines() == [(500, 0), (10, 120), (1, -4900)]
    invoice = it.client.v1.invoices.list({"subscription": paused.id}).data[0]
    assert (invoice.total, invoice.amount_due, invoice.status) == (120 - 4900, 0, "paid")


def test_a_resumption_that_is_not_paid_is_past_due(it):
    paused = Paused(it)
    it.control("/stripe/break-payment", customer=paused.customer)
    assert paused.resume().status == "past_due"


def test_a_paused_subscription_can_be_canceled(it):
    paused = Paused(it)
    assert it.client.v1.subscriptions.cancel(paused.id).status == "canceled"
    with pytest.raises(stripe.InvalidRequestError, match="only resume a paused"):
        paused.resume()


def test_what_cannot_be_paused(it):
    prices = it.plan()
    create, pause = it.client.v1.subscriptions.create, it.client.v1.subscriptions.pause
    items: Any = [{"price": price} for price in prices.values()]
    classic = create({"customer": it.customer(), "items": items, "billing_mode": {"type": "classic"}})
    trialing = create({"customer": it.customer(), "items": items, "trial_period_days": 9})
    managed = create({"customer": it.customer(), "items": items})
    it.client.v1.subscription_schedules.create({"from_subscription": managed.id})
    paused = create({"customer": it.customer(), "items": items})
    pause(paused.id)
    for subscription, words in (
        (classic, "flexible"),
        (trialing, "trialing"),
        (managed, "schedule"),
        (paused, "paused"),
    ):
        with pytest.raises(stripe.InvalidRequestError, match=words) as refused:
            pause(subscription.id)
        assert refused.value.http_status == 400
    with pytest.raises(stripe.InvalidRequestError, match="only resume a paused"):
        it.client.v1.subscriptions.resume(managed.id)
    wrong: list[Any] = [
        {"type": "items"},
        {"bill_for": {"outstanding_usage_through": {"type": "later"}}},
        {"bill_for": {"outstanding_usage_through": {}, "x": "y"}},
        {"until": 1},
    ]
    for params in wrong:
        with pytest.raises(stripe.InvalidRequestError):
            pause(managed.id, params)
