"""A metered price that is swapped in the stand-in's dashboard: what becomes of the usage before it."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.stripe_stand_in import START, StandIn, seconds

SWAP = datetime(2026, 11, 20, 8, 30, 15, tzinfo=UTC)
END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


class Swap:
    """A Starter business with 510 minutes whose metered price somebody changes at ``SWAP``."""

    def __init__(self, it: StandIn, **options: Any) -> None:
        self.it = it
        self.old, self.new = it.plan(), it.plan(2000, "10", 14900, "professional")
        self.customer = it.customer()
        self.subscription = it.subscribe(self.customer, self.old)
        self.before = it.client.v1.subscriptions.retrieve(self.subscription)
        it.report(self.customer, "510", "before")
        it.run(it.timeline.advance(SWAP))
        prices = {"old": self.old["metered"], "new": self.new["metered"]}
        it.control("/stripe/change-price", subscription=self.subscription, **prices, **options)

    def lines(self) -> list[tuple[str, float, int, int, int]]:
        """Of the newest invoice: price, quantity, cents, and the line's period."""
        invoice = self.it.client.v1.invoices.list({"subscription": self.subscription}).data[0].to_dict(for_json=True)
        return [
            (
                line["pricing"]["price_details"]["price"],
                line["quantity"],
                line["amount"],
                line["period"]["start"],
                line["period"]["end"],
            )
            for line in invoice["lines"]["data"]
        ]


def test_a_swap_keeps_the_item_and_the_period_and_is_told(it):
    swap = Swap(it)
    after = it.client.v1.subscriptions.retrieve(swap.subscription)
    assert [item.id for item in after.items.data] == [item.id for item in swap.before.items.data]
    assert [item.price.id for item in after.items.data] == [swap.old["flat"], swap.new["metered"]]
    assert {item.current_period_start for item in after.items.data} == {seconds(START)}
    event = it.events[-1]
    assert (event["type"], event["created"]) == ("customer.subscription.updated", seconds(SWAP))
    assert event["request"] == {"id": None, "idempotency_key": None}
    old = event["data"]["previous_attributes"]["items"]["data"]
    assert [item["price"]["id"] for item in old] == [swap.old["flat"], swap.old["metered"]]


def test_usage_before_a_swap_waits_for_the_renewal_as_it_was_known_and_with_its_own_period(it):
    swap = Swap(it)
    assert len(it.look("invoices")) == 1
    it.report(swap.customer, "7", "late", SWAP - timedelta(seconds=1))
    it.report(swap.customer, "3", "after", SWAP)
    it.run(it.timeline.advance(END))
    old, new, start, swapped, end = (
        swap.old["metered"],
        swap.new["metered"],
        seconds(START),
        seconds(SWAP),
        seconds(END),
    )
    assert swap.lines()[:3] == [
        (old, 500, 0, start, swapped),
        (old, 10, 120, start, swapped),
        (new, 3, 0, swapped, end),
    ]
    invoice = it.client.v1.invoices.list({"subscription": swap.subscription}).data[0].to_dict(for_json=True)
    marks = [line["parent"]["subscription_item_details"]["proration"] for line in invoice["lines"]["data"]]
    assert marks == [True, True, False, False]


def test_usage_before_a_swap_is_lost_without_prorations(it):
    swap = Swap(it, proration_behavior="none")
    it.report(swap.customer, "3", "after")
    it.run(it.timeline.advance(END))
    assert [(price, quantity) for price, quantity, *_ in swap.lines()] == [
        (swap.new["metered"], 3),
        (swap.old["flat"], 1),
    ]


def test_usage_before_a_swap_can_be_invoiced_at_once(it):
    swap = Swap(it, proration_behavior="always_invoice")
    old, start, swapped = swap.old["metered"], seconds(START), seconds(SWAP)
    assert swap.lines() == [(old, 500, 0, start, swapped), (old, 10, 120, start, swapped)]
    (_, bill) = it.client.v1.invoices.list({"subscription": swap.subscription}).data[::-1]
    assert (bill.status, bill.billing_reason, bill.amount_paid) == ("paid", "subscription_update", 120)


def test_two_swaps_wait_each_with_its_own_time(it):
    swap = Swap(it)
    it.report(swap.customer, "4", "between")
    it.run(it.timeline.advance(SWAP + timedelta(days=1)))
    back = {"old": swap.new["metered"], "new": swap.old["metered"]}
    it.control("/stripe/change-price", subscription=swap.subscription, **back)
    it.report(swap.customer, "501", "after")
    it.run(it.timeline.advance(END))
    quantities = [(price, quantity) for price, quantity, *_ in swap.lines()]
    old, new = swap.old["metered"], swap.new["metered"]
    assert quantities == [(old, 500), (old, 10), (new, 4), (old, 500), (old, 1), (swap.old["flat"], 1)]


def test_usage_that_waits_is_on_the_last_invoice_or_lost_with_an_end_at_once(it):
    swap = Swap(it)
    it.client.v1.subscriptions.update(swap.subscription, {"cancel_at_period_end": True})
    it.run(it.timeline.advance(END))
    assert [quantity for _, quantity, *_ in swap.lines()] == [500, 10, 0]
    other = it.subscribe(it.customer(), swap.old)
    it.control("/stripe/change-price", subscription=other, old=swap.old["metered"], new=swap.new["metered"])
    it.client.v1.subscriptions.cancel(other)
    assert len(it.client.v1.invoices.list({"subscription": other}).data) == 1


def test_a_flat_price_is_given_back_and_charged_by_the_rest_of_the_period(it):
    swap = Swap(it)
    it.control("/stripe/change-price", subscription=swap.subscription, old=swap.old["flat"], new=swap.new["flat"])
    it.run(it.timeline.advance(END))
    back, rest = [line for line in swap.lines() if line[3:] == (seconds(SWAP), seconds(END)) and line[1] == 1]
    part = (END - SWAP) / (END - START)
    assert (back[2], rest[2]) == (round(-4900 * part), round(14900 * part))


@pytest.mark.parametrize(
    "wrong",
    [{"old": "price_lost"}, {"new": "price_lost"}, {"subscription": "sub_lost"}, {"proration_behavior": "maybe"}],
)
def test_what_cannot_be_swapped_is_refused(it, wrong):
    prices, others = it.plan(), it.plan(2000, "10", 14900, "professional")
    right = {"subscription": it.subscribe(it.customer(), prices), "old": prices["metered"], "new": others["metered"]}
    answer = it.http.post("/_sandbox/stripe/change-price", json={**right, **wrong})
    assert answer.status_code == 400
    assert it.of_kind("customer.subscription.updated") == []


def test_nothing_is_swapped_after_the_end(it):
    swap = Swap(it)
    it.control("/stripe/cancel", subscription=swap.subscription)
    asked = {"subscription": swap.subscription, "old": swap.new["metered"], "new": swap.old["metered"]}
    answer = it.http.post("/_sandbox/stripe/change-price", json=asked)
    assert (answer.status_code, "canceled" in answer.text) == (400, True)


def test_an_end_with_the_period_moves_with_a_new_period(it):
    swap = Swap(it)
    it.client.v1.subscriptions.update(swap.subscription, {"cancel_at_period_end": True})
    params: Any = {"billing_cycle_anchor": {"type": "now"}, "proration_behavior": "none"}
    restarted = it.client.v1.subscriptions.update(swap.subscription, params)
    assert restarted.cancel_at == restarted.items.data[0].current_period_end == seconds(SWAP.replace(month=12))


def test_a_swap_that_loses_or_keeps_usage_is_the_same_over_the_api(it):
    swap = Swap(it)
    item = it.client.v1.subscriptions.retrieve(swap.subscription).items.data[1]
    params: Any = {"items": [{"id": item.id, "price": swap.old["metered"]}], "proration_behavior": "none"}
    changed = it.client.v1.subscriptions.update(swap.subscription, params)
    assert changed.items.data[1].price.id == swap.old["metered"]
    it.run(it.timeline.advance(END))
    assert [quantity for _, quantity, *_ in swap.lines()] == [500, 10, 0, 1]
