"""Customers who leave and come back as another customer of Stripe's, at the stand-in (60)."""

from datetime import timedelta

import pytest

from tests.worlds.breaking import breaks
from tests.worlds.lives import Call
from tests.worlds.works import on_professional
from tests.worlds.world import sid_of


@pytest.fixture
def shop(engine, host, tmp_path):
    with host.fresh(tmp_path) as stripe:
        yield on_professional(engine, stripe, tmp_path / "our-clock")


def come_back(works, life):
    """Somebody pays again, through a checkout that makes a new customer; returns both of Stripe's ids."""
    about = {"name": "A business", "metadata": {"business_id": str(works.business_id)}}
    customer = life.stripe.control("/stripe/customers", **about)
    prices = list(life.prices["professional"].values())
    return customer, life.stripe.control("/stripe/subscriptions", customer=customer, prices=prices)


def talk(works, life):
    """A call of a minute, which ends an hour from now."""
    life.calls.append(Call(sid_of(f"call {len(life.calls)}"), life.now + timedelta(minutes=59), 60))
    life.stripe.run(life.stripe.timeline.advance(life.now + timedelta(hours=1)))
    works.follow(life)


def present_customer(works):
    ((customer,),) = works.rows("select stripe_customer_id from businesses where id = %s", works.business_id)
    return customer


def metered(works):
    return works.rows(
        "select s.stripe_id from usage_records r join subscriptions s on s.id = r.subscription_id"
        " order by r.period_start"
    )


@breaks(
    "pipeline/businesses/customer_links.py",
    "where business_id = %(business_id)s and stripe_customer_id <> %(customer)s and ended_at is null",
    "where business_id = %(business_id)s and stripe_customer_id <> %(customer)s or status = 'canceled'",
)
def test_60_who_comes_back_as_another_customer_is_linked_anew(shop):
    works, life = shop
    first, before = life.customer, life.subscription["id"]
    talk(works, life)
    life.step("cancel-now")
    works.follow(life)
    life.stripe.run(life.stripe.timeline.advance(life.now + timedelta(days=90)))
    second, again = come_back(works, life)
    talk(works, life)
    assert present_customer(works) == second
    assert metered(works) == [(before,), (again,)]
    assert works.drifts() == []
    assert works.rows("select code from subscription_plans p join businesses b on b.plan_id = p.id") == [
        ("professional",)
    ]
    assert works.rows("select count(*) from webhook_events where state = 'dead'") == [(0,)]
    # What Stripe tells of the customer before is still the business's.
    life.stripe.client.v1.invoices.list({"customer": first})
    (invoice,) = [each for each in life.stripe.look("invoices") if each["customer"] == first][:1]
    event = next(e for e in life.stripe.events if e["data"]["object"]["id"] == invoice["id"])
    works.tell({**event, "id": "evt_late", "created": int(life.now.timestamp())})
    assert works.rows("select business_id from stripe_invoices where id = %s", invoice["id"]) == [(works.business_id,)]
    assert works.rows("select state from webhook_events where key = 'evt_late'") == [("processed",)]


@pytest.mark.parametrize("who_ends", ["the first", "the second"])
def test_60_while_the_old_subscription_lives_a_second_customer_is_a_drift(shop, who_ends):
    works, life = shop
    first, before = life.customer, life.subscription["id"]
    second, again = come_back(works, life)
    works.follow(life)
    assert present_customer(works) == first
    ((subject, actual),) = works.rows(
        "select subject, actual from drifts where kind = 'second-customer' and resolved_at is null"
    )
    assert subject == f"subscription:{again}"
    assert actual == f"{second} has {again}, 149.00 USD a period, and its minutes are not counted"
    assert works.rows("select count(*) from webhook_events where state = 'dead'") == [(0,)]
    life.stripe.control("/stripe/cancel", subscription=before if who_ends == "the first" else again, invoice_now=True)
    life.stripe.run(life.stripe.timeline.advance(life.now + timedelta(hours=1)))
    works.follow(life)
    assert works.drifts() == []
    assert present_customer(works) == (second if who_ends == "the first" else first)
    if who_ends == "the first":
        talk(works, life)
        assert metered(works)[-1] == (again,)
        # Its invoices came along, although their events had been ignored.
        assert works.rows("select count(*) from stripe_invoices where stripe_subscription_id = %s", again) == [(1,)]
