"""`altiora doctor` on an account with one business of each kind that can cost minutes or money: a line for each."""

import pytest

from pipeline.usage import unbilled_plans
from tests.worlds.works import Works


@pytest.fixture
def account(altiora, engine, host, tmp_path, monkeypatch):
    """The books of a stand-in that our commands ask too, and what makes a business with a subscription there."""
    with host.fresh(tmp_path) as stripe:
        monkeypatch.setenv("ALTIORA_STRIPE_API_BASE", stripe.url)
        monkeypatch.setenv("ALTIORA_STRIPE_API_KEY", "sk_test_doctor")
        works = Works(engine, stripe, tmp_path / "clock")
        works.at(stripe.timeline.now)

        def business(*subscriptions, customers=1):
            """Each subscription: its prices, and what else is said of it."""
            with engine.begin() as connection:
                business_id = connection.exec_driver_sql(
                    "insert into businesses (name, time_zone, plan_id, created_at)"
                    " select 'A business', 'UTC', id, now() from subscription_plans where code = 'starter'"
                    " returning id"
                ).scalar_one()
            about = {"name": "A business", "metadata": {"business_id": str(business_id)}}
            ids = [stripe.control("/stripe/customers", **about) for _ in range(customers)]
            for place, (prices, more) in enumerate(subscriptions):
                wanted = {"customer": ids[place % customers], "items": [{"price": price} for price in prices], **more}
                made = stripe.client.v1.subscriptions.create({k: v for k, v in wanted.items() if k != "pause"})
                if "pause" in more:
                    stripe.client.v1.subscriptions.update(made.id, {"pause_collection": {"behavior": more["pause"]}})
            return business_id

        yield stripe, works, business


def test_each_is_one_line_that_says_what_to_do(altiora, account):
    stripe, works, business = account
    starter, professional = stripe.plan(), stripe.plan(2000, "12", 14900, "professional")
    both = list(starter.values())
    yearly = stripe.price("Support", unit_amount=12000, recurring={"interval": "year"})
    weekly = stripe.price(
        "Minutes by the week",
        unit_amount=9,
        metadata={"altiora_plan": "starter"},
        recurring={"interval": "week", "usage_type": "metered", "meter": stripe.meter},
    )
    business((both, {}))  # nothing is wrong with this one
    business((both, {"billing_mode": {"type": "classic"}}))
    business(([*both, yearly], {}))
    business(([starter["flat"], weekly], {}))
    business(([*both, professional["flat"]], {}))
    business((both, {}), ([professional["metered"]], {}))
    business((both, {"pause": "void"}))
    business(([starter["flat"]], {}))
    business((both, {}), (both, {}), customers=2)
    works.tell(*stripe.events)
    works.refresh()
    unbilled_plans.check_all_billing(works.engine, works.clock.now())
    rows = altiora.json("doctor", status=1)
    said = [row["finding"] for row in rows if row["what"] == "database" and row["level"] == "warn"]
    for beginning in (
        "1 subscription in classic billing mode: a change of price in Stripe's dashboard gives its usage away;",
        "1 subscription with an add-on of another interval than its minutes: an upgrade begins a new period",
        "1 subscription whose minutes are not billed by the month: its own periods make the records",
        "1 difference second-plan: remove all but one in Stripe",
        "1 difference second-metered-subscription: cancel all but one in Stripe",
        "1 difference collection-given-away: resume collection in Stripe",
        "1 difference second-customer: cancel one of the two in Stripe",
    ):
        assert [words for words in said if words.startswith(beginning)], (beginning, said)
    assert any("paid-plan-unbilled: make its subscription in Stripe" in words for words in said), said
    assert len(said) == 8, said
