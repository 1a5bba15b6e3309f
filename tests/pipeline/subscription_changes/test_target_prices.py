"""Which prices of a plan take the place of a subscription's: like those that are there, or a person says which (49)."""

import random
from typing import Any

import pytest

from pipeline.subscription_changes import planning
from pipeline.subscription_changes.change_requests import ChangeKind
from pipeline.subscription_changes.target_prices import ChangeError
from tests.worlds.breaking import breaks
from tests.worlds.lives import Life
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works

PLAN = {"altiora_plan": "professional"}
MONTHLY = {"interval": "month"}


class Account:
    """A business on Starter, monthly and in dollars; Professional has more than one price of a kind."""

    def __init__(self, works: Works, life: Life) -> None:
        self.works, self.life, self.stripe = works, life, life.stripe
        self.professional = life.prices["professional"]
        self.metered = {"interval": "month", "usage_type": "metered", "meter": life.stripe.meter}

    def add(self, **params) -> str:
        """Another price of Professional's, of the product of the first."""
        product = self.stripe.sandbox.state.prices[self.professional["flat"]]["product"]
        usual: Any = {"currency": "usd", "product": product, "metadata": PLAN, "recurring": MONTHLY}
        made = str(self.stripe.client.v1.prices.create(usual | params).id)
        self.works.follow(self.life)
        return made

    def targets(self) -> dict[str, str]:
        with self.works.engine.begin() as connection:
            wanted = planning.intend(connection, self.works.business_id, ChangeKind.UPGRADE, "professional")
        prices: dict[str, str] = wanted.params["prices"]
        return prices

    @property
    def first(self) -> dict[str, str]:
        return {"licensed": self.professional["flat"], "metered": self.professional["metered"]}


@pytest.fixture
def account(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        life.step("subscribe")
        works.follow(life)
        yield Account(works, life)


def test_49_the_same_currency_interval_and_meter(account):
    account.add(unit_amount=13_900, currency="eur")
    account.add(unit_amount=149_000, recurring={"interval": "year"})
    account.add(unit_amount=40_000, recurring={"interval": "month", "interval_count": 3})
    account.add(unit_amount=11, recurring=account.metered, currency="eur")
    sms = account.stripe.control("/stripe/meters", event_name="sms_sent")
    account.add(unit_amount=2, recurring=account.metered | {"meter": sms})
    assert account.targets() == account.first


def test_49_what_can_not_be_sold_any_more_is_not_taken(account):
    new = account.add(unit_amount=15_900)
    account.stripe.client.v1.prices.update(account.professional["flat"], {"active": False})
    account.works.follow(account.life)
    assert account.targets() == account.first | {"licensed": new}


@breaks(
    "pipeline/subscription_changes/target_prices.py",
    "        if len(chosen) == 1:",
    "        if chosen:",
)
@pytest.mark.parametrize("kind", ["licensed", "metered"])
def test_49_of_several_the_one_with_the_plans_lookup_key_else_a_refusal_that_names_them(account, kind):
    recurring = MONTHLY if kind == "licensed" else account.metered
    new = account.add(unit_amount=15_900, recurring=recurring)
    with pytest.raises(ChangeError) as refused:
        account.targets()
    assert {new, account.first[kind]} <= set(str(refused.value).replace(",", " ").replace(".", " ").split())
    suffix = {"licensed": "flat", "metered": "minutes"}[kind]
    account.stripe.client.v1.prices.update(new, {"lookup_key": f"altiora_professional_{suffix}"})
    account.works.follow(account.life)
    assert account.targets() == account.first | {kind: new}


def test_49_of_several_fees_the_default_of_the_product(account):
    new = account.add(unit_amount=15_900)
    product = account.stripe.sandbox.state.prices[new]["product"]
    account.stripe.client.v1.products.update(product, {"default_price": new})
    account.works.follow(account.life)
    assert account.targets() == account.first | {"licensed": new}


def test_49_without_a_fee_like_the_present_one_nothing_is_changed(account):
    account.stripe.client.v1.prices.update(account.professional["flat"], {"active": False})
    account.add(unit_amount=149_000, recurring={"interval": "year"})
    with pytest.raises(ChangeError, match="no fee of plan professional takes the place"):
        account.targets()
