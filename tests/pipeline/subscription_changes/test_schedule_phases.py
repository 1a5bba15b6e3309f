"""What a downgrade keeps: the customer's discounts, taxes, trial and payment settings, and others' schedules (58)."""

from typing import Any

import pytest

from pipeline.subscription_changes.schedule_phases import PhaseError, current_phase, customers_own, kept_item, sent_back
from tests.worlds.breaking import breaks
from tests.worlds.works import on_professional


@pytest.fixture
def shop(engine, host, tmp_path):
    """A business on Professional, whose subscription has what a dashboard or a checkout gives it."""
    with host.fresh(tmp_path) as stripe:
        works, life = on_professional(engine, stripe, tmp_path / "our-clock")
        it = life.subscription
        client = stripe.client.v1
        coupon = client.coupons.create({"percent_off": 10, "duration": "forever"})
        vat = client.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": False})
        client.subscriptions.update(it["id"], {"discounts": [{"coupon": coupon.id}], "default_tax_rates": [vat.id]})
        flat = next(item for item in it["items"]["data"] if item["price"]["recurring"]["usage_type"] == "licensed")
        flat |= {"discounts": ["di_of_the_fee"], "tax_rates": [{"id": "txr_fee"}], "metadata": {"seat": "3"}}
        yield works, life


def phases(life):
    (schedule,) = life.stripe.sandbox.state.schedules.values()
    return schedule["phases"]


def shown(phase):
    items = {item["price"]: item for item in phase["items"]}
    return (
        [each["discount"] for each in phase["discounts"]],
        [each["id"] for each in phase["default_tax_rates"]],
        {price: [each["discount"] for each in item["discounts"]] for price, item in items.items()},
        {price: [each["id"] for each in item["tax_rates"]] for price, item in items.items()},
        {price: item["metadata"] for price, item in items.items()},
    )


@breaks(
    "pipeline/subscription_changes/change_requests.py",
    '{**customers_own(present), "items": after, "start_date": period_end},',
    '{"items": after, "start_date": period_end},',
)
def test_58_a_downgrade_sends_the_present_phase_back_whole_and_keeps_what_is_the_customers(shop):
    works, life = shop
    works.change("downgrade", "starter")
    works.follow(life)
    before, after = life.prices["professional"], life.prices["starter"]
    (discount,), (vat,) = life.stripe.sandbox.state.discounts, life.stripe.sandbox.state.tax_rates
    for phase, prices in zip(phases(life), (before, after), strict=True):
        flat, metered = prices["flat"], prices["metered"]
        assert shown(phase) == (
            [discount],
            [vat],
            {flat: ["di_of_the_fee"], metered: []},
            {flat: ["txr_fee"], metered: []},
            {flat: {"seat": "3"}, metered: {}},
        )
    life.stripe.advance(2026, 12, 5, 12, 0)
    works.follow(life)
    assert life.subscription["discounts"] == [discount]
    assert [each["id"] for each in life.subscription["default_tax_rates"]] == [vat]
    assert (invoice := life.stripe.look("invoices")[-1])["total_discount_amounts"][0]["discount"] == discount
    assert invoice["total_taxes"][0]["tax_rate_details"]["tax_rate"] == vat


def test_58_a_schedule_of_somebody_else_is_left_alone_and_named(shop):
    works, life = shop
    client = life.stripe.client.v1
    schedule = client.subscription_schedules.create({"from_subscription": life.subscription["id"]})
    first = schedule.phases[0]
    items: Any = [{"price": price} for price in life.prices["professional"].values()]
    planned: Any = [
        {"items": items, "start_date": first.start_date, "end_date": first.end_date},
        {"items": items, "start_date": first.end_date},
    ]
    client.subscription_schedules.update(schedule.id, {"phases": planned})
    works.follow(life)
    works.change("downgrade", "starter")
    works.follow(life)
    assert works.drifts() == ["change-refused"]
    ((actual,),) = works.rows("select actual from drifts where kind = 'change-refused'")
    assert f"under schedule {schedule.id}, which somebody else has made" in actual
    assert len(phases(life)) == 2


PHASE: dict[str, Any] = {
    "add_invoice_items": [{"price": "price_once"}],
    "automatic_tax": {"enabled": True, "liability": None},
    "billing_thresholds": {"amount_gte": 5000, "reset_billing_cycle_anchor": None},
    "collection_method": "send_invoice",
    "currency": "usd",
    "default_payment_method": {"id": "pm_1", "object": "payment_method"},
    "default_tax_rates": ["txr_1"],
    "discounts": [{"coupon": "c", "discount": "di_1", "promotion_code": None}],
    "end_date": 20,
    "invoice_settings": {"days_until_due": 30, "issuer": None},
    "items": [],
    "metadata": {"theirs": "1", "altiora_plan": "starter"},
    "proration_behavior": "none",
    "start_date": 10,
    "trial_end": 15,
}


def test_58_what_is_sent_back_of_a_phase():
    own = {
        "automatic_tax": {"enabled": True},
        "billing_thresholds": {"amount_gte": 5000, "reset_billing_cycle_anchor": None},
        "collection_method": "send_invoice",
        "default_payment_method": "pm_1",
        "default_tax_rates": ["txr_1"],
        "discounts": [{"discount": "di_1"}],
        "invoice_settings": {"days_until_due": 30},
        "metadata": {"theirs": "1"},
    }
    assert customers_own(PHASE) == own
    assert sent_back(PHASE) == {**own, "items": [], "trial_end": 15}
    assert customers_own({**PHASE, "discounts": []})["discounts"] == "", "left out, it would inherit the customer's"


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        ({**PHASE, "pause": {"behavior": "void"}}, "its phase has pause, which can't be kept"),
        ({**PHASE, "discounts": [{"coupon": "c", "discount": None}]}, "a coupon that is no discount yet"),
    ],
)
def test_58_what_can_not_be_kept_is_refused_by_name(holder, words):
    with pytest.raises(PhaseError, match=words):
        customers_own(holder)
    with pytest.raises(PhaseError, match="an item has odd"):
        kept_item({"price": "p", "odd": 1})


def test_58_the_phase_that_runs_now_is_not_always_the_first():
    schedule = {"id": "s", "current_phase": {"start_date": 20}, "phases": [{"start_date": 10}, {"start_date": 20}]}
    assert current_phase(schedule) == {"start_date": 20}
    with pytest.raises(PhaseError, match="no phase that runs now"):
        current_phase({**schedule, "current_phase": {"start_date": 30}})
