"""Changes of the plan leave what else a customer has: add-ons, whatever the order of items, and quantities (48)."""

import random
from datetime import timedelta
from typing import Any

import pytest

from pipeline.subscription_changes import sending
from tests.worlds.breaking import breaks
from tests.worlds.lives import Life
from tests.worlds.stripe_stand_in import START, StandIn
from tests.worlds.works import Works

PERIOD_END = START.replace(month=12)
ORDERS = {
    "the plan's first": ("metered", "flat", "number", "sms"),
    "the plan's last": ("sms", "number", "flat", "metered"),
    "mixed": ("number", "metered", "sms", "flat"),
}


class Account:
    """A business with an extra number and SMS beside its plan, three times the fee."""

    def __init__(self, works: Works, stripe: StandIn, plan: str, order: tuple[str, ...]) -> None:
        self.works, self.stripe = works, stripe
        self.life = Life(stripe, works.business_id, random.Random(1))
        meter = stripe.control("/stripe/meters", event_name="sms_sent")
        number = stripe.price("Number", unit_amount=200)
        # Its metadata names a plan, as somebody may copy it: what is metered elsewhere is an add-on all the same.
        metered = {"interval": "month", "usage_type": "metered", "meter": meter}
        sms = stripe.price("SMS", unit_amount=2, recurring=metered, metadata={"altiora_plan": "professional"})
        self.add_ons = {number: 2, sms: None}
        of = {"number": number, "sms": sms} | self.life.prices[plan]
        quantities = {"number": {"quantity": 2}, "flat": {"quantity": 3}}
        items: list[Any] = [{"price": of[name], **quantities.get(name, {})} for name in order]
        stripe.client.v1.subscriptions.create({"customer": self.life.customer, "items": items})
        works.follow(self.life)

    def items(self) -> dict[str, int | None]:
        return {item["price"]["id"]: item.get("quantity") for item in self.life.subscription["items"]["data"]}

    def plan(self, plan: str) -> dict[str, int | None]:
        return {self.life.prices[plan]["metered"]: None, self.life.prices[plan]["flat"]: 3}

    def go_to(self, days: float) -> None:
        self.stripe.run(self.stripe.timeline.advance(START + timedelta(days=days)))
        self.works.follow(self.life)


@pytest.fixture
def account(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:

        def make(plan, order):
            works = Works(engine, stripe, tmp_path / "our-clock")
            works.at(START)
            return Account(works, stripe, plan, ORDERS[order])

        yield make


@breaks(
    "pipeline/subscription_changes/change_requests.py",
    'return {} if item.quantity is None else {"quantity": item.quantity}',
    "return {}",
)
@pytest.mark.parametrize("order", ORDERS)
def test_48_an_upgrade_keeps_add_ons_and_the_fees_quantity(account, order):
    it = account("starter", order)
    assert it.items() == it.plan("starter") | it.add_ons
    it.go_to(3)
    it.works.change("upgrade", "professional")
    it.go_to(3.1)
    assert it.items() == it.plan("professional") | it.add_ons
    assert it.works.drifts() == []
    assert it.works.rows("select code from businesses b join subscription_plans p on p.id = b.plan_id") == [
        ("professional",)
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_48_a_downgrade_keeps_add_ons_and_the_fees_quantity(account, order):
    it = account("professional", order)
    it.works.change("downgrade", "starter")
    it.go_to(3)
    assert it.items() == it.plan("professional") | it.add_ons
    it.stripe.run(it.stripe.timeline.advance(PERIOD_END + timedelta(hours=2)))
    it.works.follow(it.life)
    assert it.items() == it.plan("starter") | it.add_ons
    assert it.works.drifts() == []


def test_48_an_item_that_is_not_known_yet_is_fetched_before_anything_is_changed(account):
    it = account("starter", "mixed")
    it.works.change("upgrade", "professional")
    price = it.stripe.price("Support", unit_amount=100)
    it.stripe.client.v1.subscriptions.update(it.life.subscription["id"], {"items": [{"price": price}]})
    before = it.items()
    assert sending.send_due_changes(it.works.engine, it.works.api, it.life.now) == {"limited": 1}
    assert it.items() == before
    assert ("subscription", "unknown-price") in it.works.rows(
        "select kind, reason from refreshes where mark > fetched_mark"
    )
    it.works.follow(it.life)  # the change waits a moment
    it.works.follow(it.life)
    assert it.items() == it.plan("professional") | it.add_ons | {price: 1}
