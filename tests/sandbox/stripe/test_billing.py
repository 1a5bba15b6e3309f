"""The stand-in's subscriptions and invoices: renewal, grace, graduated prices, changes, pauses, endings, payment."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from sandbox.stripe.account.periods import boundary, next_boundary
from sandbox.stripe.account.prices import shares, tier
from tests.worlds.stripe_stand_in import START, StandIn, seconds

END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def metered(it: StandIn, invoice: stripe.Invoice) -> int:
    """What an invoice bills of minutes, as a caller of the API sums it: over all lines of metered prices."""
    total = 0
    for line in invoice.lines.data:
        assert line.pricing is not None
        assert line.pricing.price_details is not None
        price = it.client.v1.prices.retrieve(str(line.pricing.price_details.price))
        assert price.recurring is not None
        total += (line.quantity or 0) if price.recurring.usage_type == "metered" else 0
    return total


def only(it: StandIn, subscription: str, status: Any) -> stripe.Invoice:
    (invoice,) = it.client.v1.invoices.list({"subscription": subscription, "status": status}).data
    return invoice


def test_the_first_invoice_is_paid_at_once_and_bills_the_flat_price_only(it):
    subscription = it.subscribe(it.customer(), it.plan())
    invoice = only(it, subscription, "paid")
    assert (invoice.billing_reason, invoice.amount_paid, len(invoice.lines.data)) == ("subscription_create", 4900, 1)
    assert set(it.kinds()) >= {
        "customer.subscription.created",
        "invoice.created",
        "invoice.finalized",
        "invoice.paid",
    }


def test_a_subscription_has_its_periods_on_the_items_only(it):
    subscription = it.client.v1.subscriptions.retrieve(it.subscribe(it.customer(), it.plan()))
    assert subscription.status == "active"
    assert subscription.billing_mode.type == "flexible"
    assert not hasattr(subscription, "current_period_end")
    for item in subscription.items.data:
        assert (item.current_period_start, item.current_period_end) == (seconds(START), seconds(END))
    flat, minutes = subscription.items.data
    assert flat.quantity == 1
    assert "quantity" not in minutes
    assert minutes.price.recurring is not None
    assert (minutes.price.recurring.meter, minutes.price.recurring.usage_type) == (it.meter, "metered")
    assert minutes.price.metadata.to_dict() == {"altiora_plan": "starter"}


def test_a_renewal_moves_the_items_and_makes_a_draft_that_finalises_after_an_hour(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.report(customer, "510", "i1", START + timedelta(seconds=15))
    assert it.timeline.next_stop() == END
    it.run(it.timeline.advance(END))
    (updated,) = it.of_kind("customer.subscription.updated")
    assert updated["created"] == seconds(END)
    assert updated["request"] == {"id": None, "idempotency_key": None}
    old = updated["data"]["previous_attributes"]
    assert [item["current_period_end"] for item in old["items"]["data"]] == [seconds(END)] * 2
    items = updated["data"]["object"]["items"]["data"]
    assert [item["current_period_start"] for item in items] == [seconds(END)] * 2
    draft = only(it, subscription, "draft")
    assert draft.automatically_finalizes_at == seconds(END) + 3600
    assert draft.billing_reason == "subscription_cycle"
    assert draft.parent is not None
    assert draft.parent.subscription_details is not None
    assert draft.parent.subscription_details.subscription == subscription
    assert it.timeline.next_stop() == END + timedelta(hours=1)
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    done = it.client.v1.invoices.retrieve(str(draft.id))
    assert (done.status, done.amount_paid, done.automatically_finalizes_at) == ("paid", 4900 + 10 * 12, None)
    assert it.kinds()[-3:] == ["invoice.finalized", "invoice.paid", "invoice.payment_succeeded"]


def test_lines_bill_the_ended_period_in_arrears_and_the_new_one_in_advance(it):
    customer, prices = it.customer(), it.plan()
    subscription = it.subscribe(customer, prices)
    it.report(customer, "510", "i1")
    it.run(it.timeline.advance(END))
    included, overage, flat = only(it, subscription, "draft").lines.data
    for line in (included, overage):
        assert (line.period.start, line.period.end) == (seconds(START), seconds(END))
        assert line.parent is not None
        assert line.parent.subscription_item_details is not None
        assert line.parent.subscription_item_details.subscription == subscription
        assert line.pricing is not None
        assert line.pricing.price_details is not None
        assert line.pricing.price_details.price == prices["metered"]
    assert [(line.quantity, line.amount) for line in (included, overage, flat)] == [(500, 0), (10, 120), (1, 4900)]
    assert overage.quantity_decimal == Decimal(10)
    assert (flat.period.start, flat.period.end) == (seconds(END), seconds(datetime(2027, 1, 5, 10, 23, 45, tzinfo=UTC)))


def test_usage_for_a_period_counts_until_its_invoice_is_final_and_never_after(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    last = END - timedelta(minutes=2)
    it.run(it.timeline.advance(END + timedelta(minutes=30)))
    assert metered(it, only(it, subscription, "draft")) == 0
    it.report(customer, "7", "in-time", last)
    it.report(customer, "2", "next-period", END)
    assert metered(it, only(it, subscription, "draft")) == 7
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    it.report(customer, "5", "too-late", last)
    invoice = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (invoice.status, metered(it, invoice)) == ("paid", 7)
    assert it.summed(customer, START.replace(second=0), END.replace(second=0)) == 12
    (period,) = it.look("summary", customer=customer)["periods"]
    assert (period["quantity"], period["arrived"], period["final"]) == (7, 12, True)
    it.advance(2027, 1, 5, 12)
    renewed = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert metered(it, renewed) == 2


def test_a_negative_total_bills_nothing(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.report(customer, "3", "i1")
    it.report(customer, "-5", "i2")
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    invoice = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (metered(it, invoice), invoice.amount_paid) == (0, 4900)


def test_the_grace_can_be_longer_and_lines_can_be_one_per_price(host, tmp_path):
    with host.fresh(tmp_path, grace_seconds=72 * 3600, line_per_tier=False) as it:
        customer = it.customer()
        subscription = it.subscribe(customer, it.plan())
        it.report(customer, "510", "i1")
        it.run(it.timeline.advance(END + timedelta(hours=71)))
        draft = only(it, subscription, "draft")
        assert [(line.quantity, line.amount) for line in draft.lines.data] == [(510, 120), (1, 4900)]
        assert draft.automatically_finalizes_at == seconds(END) + 72 * 3600


def test_all_invoices_with_their_metered_quantity_and_period(it):
    customer = it.customer()
    it.subscribe(customer, it.plan())
    it.report(customer, "3", "i1")
    it.run(it.timeline.advance(END + timedelta(hours=2)))
    first, second = it.look("invoices")
    assert first["metered"] == []
    assert [(row["quantity"], row["period_start"], row["period_end"]) for row in second["metered"]] == [
        (3, seconds(START), seconds(END))
    ]


@given(
    anchor=st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC)),  # noqa: DTZ001 -- hypothesis adds the zone
    months=st.integers(0, 60),
)
def test_boundaries_keep_the_anchors_day_and_follow_each_other(anchor, months):
    here, there = boundary(anchor, months), boundary(anchor, months + 1)
    assert next_boundary(anchor, here) == there
    assert (here.timetz(), here.day) == (anchor.timetz(), min(anchor.day, here.day))
    assert timedelta(days=28) <= there - here <= timedelta(days=31)


def test_an_anchor_on_the_31st():
    anchor = datetime(2026, 10, 31, 12, tzinfo=UTC)
    days = [(each.month, each.day) for each in (boundary(anchor, n) for n in range(1, 6))]
    assert days == [(11, 30), (12, 31), (1, 31), (2, 28), (3, 31)]


def test_renewals_follow_the_31st(host, tmp_path):
    with host.fresh(tmp_path, datetime(2026, 10, 31, 12, tzinfo=UTC)) as it:
        it.subscribe(it.customer(), it.plan())
        it.advance(2027, 4, 1)
    ends = [
        datetime.fromtimestamp(event["data"]["object"]["items"]["data"][0]["current_period_start"], UTC)
        for event in it.of_kind("customer.subscription.updated")
    ]
    assert [(end.month, end.day, end.hour) for end in ends] == [
        (11, 30, 12),
        (12, 31, 12),
        (1, 31, 12),
        (2, 28, 12),
        (3, 31, 12),
    ]


@pytest.mark.parametrize(("minutes", "cents"), [(0, 0), (500, 0), (501, 12), (510, 120)])
def test_graduated_amounts(minutes, cents):
    tiers = [tier(500, 0, "0"), tier(None, 12, "12")]
    parts = shares(Decimal(minutes), {}, tiers)
    assert sum(part.cents for part in parts) == cents
    assert sum(part.quantity for part in parts) == minutes


def test_fractions_of_a_cent_round_half_up_once_per_line():
    tiers = [tier(10, 0, "0"), tier(None, None, "0.5")]
    assert [part.cents for part in shares(Decimal(13), {}, tiers)] == [0, 2]


def test_cancel_at_period_end_and_undo(it):
    subscription = it.subscribe(it.customer(), it.plan())
    cancelling = it.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    assert (cancelling.cancel_at_period_end, cancelling.cancel_at, cancelling.status) == (True, seconds(END), "active")
    (event,) = it.of_kind("customer.subscription.updated")
    assert event["data"]["previous_attributes"]["cancel_at_period_end"] is False
    undone = it.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False})
    assert (undone.cancel_at_period_end, undone.cancel_at, undone.canceled_at) == (False, None, None)
    it.run(it.timeline.advance(END))
    assert it.of_kind("customer.subscription.deleted") == []


def test_the_end_of_a_cancelled_period_bills_its_usage_after_the_grace(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.report(customer, "510", "i1")
    it.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    it.run(it.timeline.advance(END))
    (deleted,) = it.of_kind("customer.subscription.deleted")
    assert deleted["data"]["object"]["status"] == "canceled"
    assert deleted["data"]["object"]["ended_at"] == seconds(END)
    it.report(customer, "1", "grace", END - timedelta(minutes=1))
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    last = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (last.status, metered(it, last), last.amount_paid) == ("paid", 511, 11 * 12)
    it.advance(2027, 2, 1)
    assert len(it.look("invoices")) == 2
    with pytest.raises(stripe.InvalidRequestError, match="canceled"):
        it.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": False})


def test_cancelling_now_leaves_open_usage_uninvoiced_unless_asked(it):
    prices = it.plan()
    for invoice_now, expected in ((False, []), (True, [9])):
        customer = it.customer()
        subscription = it.subscribe(customer, prices)
        it.report(customer, "9", f"i{invoice_now}")
        it.run(it.timeline.advance(it.timeline.now + timedelta(minutes=1)))
        options: Any = {"invoice_now": True} if invoice_now else {}
        assert it.client.v1.subscriptions.cancel(subscription, options).status == "canceled"
        drafts = it.client.v1.invoices.list({"subscription": subscription, "status": "draft"}).data
        assert [metered(it, draft) for draft in drafts] == expected
    with pytest.raises(stripe.InvalidRequestError) as gone:
        it.client.v1.subscriptions.cancel(subscription)
    assert gone.value.http_status == 404


def test_lists_leave_canceled_subscriptions_out_unless_all_are_asked_for(it):
    customer, prices = it.customer(), it.plan()
    ended, living = it.subscribe(customer, prices), it.subscribe(customer, prices)
    it.control("/stripe/cancel", subscription=ended)
    listed = it.client.v1.subscriptions.list
    assert [each.id for each in listed({"customer": customer}).data] == [living]
    assert [each.id for each in listed({"status": "all"}).data] == [living, ended]
    assert [each.id for each in listed({"status": "canceled"}).data] == [ended]


def test_a_deleted_customer_ends_its_subscriptions(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.client.v1.customers.delete(customer)
    assert it.client.v1.subscriptions.retrieve(subscription).status == "canceled"
    assert "customer.subscription.deleted" in it.kinds()


@pytest.mark.parametrize(
    ("behavior", "status", "kind"),
    [
        ("void", "void", "invoice.voided"),
        ("mark_uncollectible", "uncollectible", "invoice.marked_uncollectible"),
        ("keep_as_draft", "draft", None),
    ],
)
def test_pausing_collection_keeps_the_status_and_decides_what_becomes_of_invoices(it, behavior, status, kind):
    subscription = it.subscribe(it.customer(), it.plan())
    paused = it.client.v1.subscriptions.update(subscription, {"pause_collection": {"behavior": behavior}})
    assert paused.status == "active"
    assert paused.pause_collection is not None
    assert paused.pause_collection.behavior == behavior
    it.run(it.timeline.advance(END + timedelta(hours=2)))
    invoice = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert invoice.status == status
    assert (invoice.automatically_finalizes_at is None, kind is None or kind in it.kinds()) == (True, True)
    resumed = it.client.v1.subscriptions.update(subscription, {"pause_collection": ""})
    assert resumed.pause_collection is None
    it.advance(2027, 1, 5, 12)
    assert it.client.v1.invoices.list({"subscription": subscription}).data[0].status == "paid"


def test_a_pause_ends_by_itself(it):
    subscription = it.subscribe(it.customer(), it.plan())
    until = seconds(START + timedelta(days=3))
    it.client.v1.subscriptions.update(subscription, {"pause_collection": {"behavior": "void", "resumes_at": until}})
    it.advance(2026, 11, 9)
    assert it.client.v1.subscriptions.retrieve(subscription).pause_collection is None
    last = it.of_kind("customer.subscription.updated")[-1]
    assert last["data"]["previous_attributes"]["pause_collection"]["behavior"] == "void"


def test_updates_want_known_parameters_in_todays_form(it):
    subscription = it.subscribe(it.customer(), it.plan())
    update = it.client.v1.subscriptions.update
    wrong: list[Any] = [
        {"billing_cycle_anchor": "now"},
        {"pause_collection": {"resumes_at": 1}},
        {"pause_collection": {"behavior": "stop"}},
        {"cancel_at_period_end": "maybe"},
        {"items": [{"id": "si_lost", "price": it.plan()["flat"]}]},
        {"items": [{"quantity": 2}]},
        {"coupon": "x"},
    ]
    for params in wrong:
        with pytest.raises(stripe.InvalidRequestError):
            update(subscription, params)
    assert it.of_kind("customer.subscription.updated") == []


def test_an_item_without_its_id_is_added_and_not_replaced(it):
    starter, professional = it.plan(), it.plan(2000, "10", 14900, "professional")
    subscription = it.subscribe(it.customer(), starter)
    update = it.client.v1.subscriptions.update
    changed = update(subscription, {"items": [{"price": professional["flat"]}], "proration_behavior": "none"})
    assert len(changed.items.data) == 3
    with pytest.raises(stripe.InvalidRequestError):
        update(subscription, {"items": [{"price": professional["flat"]}]})


def test_an_upgrade_from_now_bills_the_usage_so_far_and_begins_a_new_period(it):
    starter, professional = it.plan(), it.plan(2000, "10", 14900, "professional")
    customer = it.customer()
    subscription = it.subscribe(customer, starter)
    it.report(customer, "510", "i1")
    it.advance(2026, 11, 20, 15)
    now = it.timeline.now
    flat, minutes = it.client.v1.subscriptions.retrieve(subscription).items.data
    changed = it.client.v1.subscriptions.update(
        subscription,
        {
            "items": [
                {"id": flat.id, "price": professional["flat"]},
                {"id": minutes.id, "price": professional["metered"]},
            ],
            "billing_cycle_anchor": {"type": "now"},
        },
    )
    assert [item.id for item in changed.items.data] == [flat.id, minutes.id]
    assert {item.current_period_start for item in changed.items.data} == {seconds(now)}
    bill = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (bill.status, bill.billing_reason, metered(it, bill)) == ("paid", "subscription_update", 510)
    used = [line for line in bill.lines.data if line.period.end == seconds(now)]
    assert [(line.quantity, line.amount) for line in used] == [(500, 0), (10, 120)]
    credit = [line for line in bill.lines.data if line.amount < 0]
    assert len(credit) == 1
    assert bill.amount_paid == 120 + 14900 + credit[0].amount
    it.report(customer, "3", "i2")
    it.run(it.timeline.advance(END))
    assert len(it.of_kind("customer.subscription.updated")) == 1
    it.advance(2026, 12, 20, 16)
    renewed = it.client.v1.invoices.list({"subscription": subscription}).data[0]
    assert (metered(it, renewed), renewed.amount_paid) == (3, 14900)


@pytest.mark.parametrize(("proration", "expected"), [("none", 4), ("create_prorations", 14)])
def test_swapping_a_metered_price_without_prorations_loses_its_usage(it, proration, expected):
    starter, professional = it.plan(), it.plan(2000, "10", 14900, "professional")
    customer = it.customer()
    subscription = it.subscribe(customer, starter)
    it.report(customer, "10", "i1")
    it.advance(2026, 11, 20)
    minutes = it.client.v1.subscriptions.retrieve(subscription).items.data[1]
    it.client.v1.subscriptions.update(
        subscription,
        {"items": [{"id": minutes.id, "price": professional["metered"]}], "proration_behavior": proration},
    )
    it.report(customer, "4", "i2")
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    assert metered(it, it.client.v1.invoices.list({"subscription": subscription}).data[0]) == expected


def test_a_failed_payment_makes_it_past_due_until_it_is_paid(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.control("/stripe/fail-payment", customer=customer)
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    assert it.client.v1.subscriptions.retrieve(subscription).status == "past_due"
    (failed,) = it.of_kind("invoice.payment_failed")
    assert (failed["data"]["object"]["status"], failed["data"]["object"]["attempt_count"]) == ("open", 1)
    assert it.of_kind("customer.subscription.updated")[-1]["data"]["previous_attributes"] == {"status": "active"}
    it.control("/stripe/pay", customer=customer)
    assert it.client.v1.subscriptions.retrieve(subscription).status == "active"
    assert it.client.v1.invoices.list({"subscription": subscription, "status": "open"}).data == []


def test_a_subscription_can_be_made_over_the_api_and_begin_earlier(it):
    prices, customer = it.plan(), it.customer()
    it.advance(2026, 11, 10)
    made = it.client.v1.subscriptions.create(
        {
            "customer": customer,
            "items": [{"price": prices["flat"]}, {"price": prices["metered"]}],
            "backdate_start_date": seconds(START),
            "metadata": {"business_id": "b1"},
        }
    )
    assert made.items.data[0].current_period_start == seconds(START)
    with pytest.raises(stripe.InvalidRequestError):
        it.client.v1.subscriptions.create({"customer": "cus_lost", "items": [{"price": prices["flat"]}]})
