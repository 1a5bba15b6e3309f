"""The stand-in's trials and first periods: when they end, what they cost, and what is told of them."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import START, StandIn, seconds

TRIAL_END = datetime(2026, 11, 19, 10, 23, 45, tzinfo=UTC)
NEXT = datetime(2026, 12, 19, 10, 23, 45, tzinfo=UTC)


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def make(it: StandIn, **params: Any) -> stripe.Subscription:
    prices = it.plan()
    asked: Any = {"customer": it.customer(), "items": [{"price": price} for price in prices.values()], **params}
    return it.client.v1.subscriptions.create(asked)


def retrieve(it: StandIn, subscription: stripe.Subscription) -> stripe.Subscription:
    return it.client.v1.subscriptions.retrieve(subscription.id)


def latest(it: StandIn, subscription: stripe.Subscription) -> stripe.Invoice:
    return it.client.v1.invoices.list({"subscription": subscription.id}).data[0]


def lines(invoice: stripe.Invoice) -> list[tuple[int | None, int, int, int]]:
    return [(line.quantity, line.amount, line.period.start, line.period.end) for line in invoice.lines.data]


@pytest.mark.parametrize("params", [{"trial_end": seconds(TRIAL_END)}, {"trial_period_days": 14}])
def test_a_trial_costs_nothing_and_is_the_first_period(it, params):
    made = make(it, **params)
    assert (made.status, made.trial_start, made.trial_end) == ("trialing", seconds(START), seconds(TRIAL_END))
    assert made.billing_cycle_anchor == seconds(TRIAL_END)
    for item in made.items.data:
        assert (item.current_period_start, item.current_period_end) == (seconds(START), seconds(TRIAL_END))
    first = latest(it, made)
    assert (first.status, first.total, lines(first)) == ("paid", 0, [(1, 0, seconds(START), seconds(TRIAL_END))])
    assert it.of_kind("customer.subscription.created")[0]["data"]["object"]["status"] == "trialing"


def test_a_trials_end_is_told_three_days_before(it):
    make(it, trial_period_days=14)
    it.run(it.timeline.advance(TRIAL_END - timedelta(days=3, seconds=1)))
    assert it.of_kind("customer.subscription.trial_will_end") == []
    it.run(it.timeline.advance(TRIAL_END - timedelta(days=3)))
    (event,) = it.of_kind("customer.subscription.trial_will_end")
    assert event["data"]["object"]["trial_end"] == seconds(TRIAL_END)
    make(it, trial_period_days=2)
    assert it.kinds()[-1] == "customer.subscription.trial_will_end"


@pytest.mark.parametrize(("billed", "used"), [(False, [(0, 0)]), (True, [(500, 0), (20, 240)])])
def test_after_a_trial_billing_begins_with_its_end(host, tmp_path, billed, used):
    with host.fresh(tmp_path, trial_usage_billed=billed) as it:
        made = make(it, trial_period_days=14)
        it.report(str(made.customer), "520", "i1")
        it.run(it.timeline.advance(TRIAL_END))
        now = retrieve(it, made)
        assert now.status == "active"
        for item in now.items.data:
            assert (item.current_period_start, item.current_period_end) == (seconds(TRIAL_END), seconds(NEXT))
        previous = it.of_kind("customer.subscription.updated")[-1]["data"]["previous_attributes"]
        assert previous["status"] == "trialing"
        draft = latest(it, made)
        assert (draft.status, draft.billing_reason) == ("draft", "subscription_cycle")
        assert lines(draft) == [
            *((quantity, cents, seconds(START), seconds(TRIAL_END)) for quantity, cents in used),
            (1, 4900, seconds(TRIAL_END), seconds(NEXT)),
        ]
        it.report(str(made.customer), "3", "i2", TRIAL_END)
        it.run(it.timeline.advance(NEXT))
        assert [quantity for quantity, *_ in lines(latest(it, made))] == [3, 1]


def test_no_trial(it):
    assert make(it, trial_end="now").status == "active"
    assert make(it, trial_period_days=0).status == "active"


@pytest.mark.parametrize(
    ("behavior", "status", "kind"),
    [
        ("create_invoice", "past_due", "invoice.payment_failed"),
        ("cancel", "canceled", "customer.subscription.deleted"),
        ("pause", "paused", "customer.subscription.paused"),
    ],
)
def test_a_trial_that_ends_without_a_payment_method(it, behavior, status, kind):
    settings = {"end_behavior": {"missing_payment_method": behavior}}
    made, other = (make(it, trial_period_days=14, trial_settings=settings) for _ in range(2))
    assert made.trial_settings is not None
    assert made.trial_settings.end_behavior.missing_payment_method == behavior
    it.control("/stripe/remove-payment-method", customer=str(made.customer))
    it.run(it.timeline.advance(TRIAL_END + timedelta(hours=1)))
    assert (retrieve(it, made).status, retrieve(it, other).status) == (status, "active")
    assert len(it.of_kind(kind)) == 1
    if behavior == "pause":
        details = retrieve(it, made).status_details
        assert details is not None
        assert details.paused.subscription.type == "trial_end_without_payment_method"
    it.control("/stripe/add-payment-method", customer=str(made.customer))
    it.run(it.timeline.advance(TRIAL_END + timedelta(days=3, hours=1)))
    assert retrieve(it, made).status == ("active" if behavior == "create_invoice" else status)


def test_a_trial_can_end_with_its_subscription(it):
    made = make(it, trial_period_days=14)
    it.client.v1.subscriptions.update(made.id, {"cancel_at_period_end": True})
    it.run(it.timeline.advance(NEXT))
    assert (retrieve(it, made).status, retrieve(it, made).ended_at) == ("canceled", seconds(TRIAL_END))
    assert latest(it, made).total == 0


def test_changes_in_a_trial_cost_nothing(it):
    made = make(it, trial_period_days=14)
    bigger = it.plan(2000, "10", 14900, "professional")
    it.report(str(made.customer), "520", "i1")
    it.advance(2026, 11, 10)
    flat, minutes = made.items.data
    items: Any = [{"id": flat.id, "price": bigger["flat"]}, {"id": minutes.id, "price": bigger["metered"]}]
    it.client.v1.subscriptions.update(made.id, {"items": items, "proration_behavior": "always_invoice"})
    with pytest.raises(stripe.InvalidRequestError, match="trialing"):
        it.client.v1.subscriptions.update(made.id, {"billing_cycle_anchor": {"type": "now"}})
    it.run(it.timeline.advance(TRIAL_END))
    assert [(quantity, cents) for quantity, cents, *_ in lines(latest(it, made))] == [(0, 0), (1, 14900)]


def test_a_preview_shows_a_trials_end(it):
    made = make(it, trial_period_days=14)
    seen = it.client.v1.invoices.create_preview({"subscription": made.id})
    assert (seen.total, len(seen.lines.data), retrieve(it, made).status) == (4900, 2, "trialing")


@pytest.mark.parametrize(
    "anchor",
    [
        datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC),
        datetime(2026, 11, 30, 0, 0, 1, tzinfo=UTC),
        datetime(2026, 11, 12, 4, 5, 6, tzinfo=UTC),
    ],
)
@pytest.mark.parametrize("proration", ["create_prorations", "none"])
def test_a_first_period_can_be_short(it, anchor, proration):
    made = make(it, billing_cycle_anchor=seconds(anchor), proration_behavior=proration)
    assert made.billing_cycle_anchor == seconds(anchor)
    for item in made.items.data:
        assert (item.current_period_start, item.current_period_end) == (seconds(START), seconds(anchor))
    whole = anchor - anchor.replace(month=10)
    part = round(4900 * ((anchor - START) / whole))
    first = [(1, part, seconds(START), seconds(anchor))] if proration == "create_prorations" else []
    assert (lines(latest(it, made)), latest(it, made).status) == (first, "paid")
    it.report(str(made.customer), "501", "i1")
    it.run(it.timeline.advance(anchor))
    assert [(quantity, cents) for quantity, cents, *_ in lines(latest(it, made))] == [(500, 0), (1, 12), (1, 4900)]
    assert retrieve(it, made).items.data[0].current_period_end == seconds(anchor.replace(month=12))


def test_an_anchor_on_the_31st_at_any_time_of_day(host, tmp_path):
    with host.fresh(tmp_path, datetime(2027, 1, 5, 8, tzinfo=UTC)) as it:
        anchor = datetime(2027, 1, 31, 23, 30, 15, tzinfo=UTC)
        made = make(it, billing_cycle_anchor=seconds(anchor))
        ends = []
        for _ in range(4):
            end = retrieve(it, made).items.data[0].current_period_end
            ends.append(datetime.fromtimestamp(end, UTC))
            it.run(it.timeline.advance(ends[-1]))
    assert [(end.month, end.day, end.hour, end.second) for end in ends] == [
        (1, 31, 23, 15),
        (2, 28, 23, 15),
        (3, 31, 23, 15),
        (4, 30, 23, 15),
    ]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"trial_end": seconds(START)}, "in the future"),
        ({"trial_end": "soon"}, "Invalid integer"),
        ({"trial_end": "now", "trial_period_days": 3}, "only one of"),
        ({"trial_period_days": 731}, "between"),
        ({"trial_period_days": 3, "billing_cycle_anchor": seconds(TRIAL_END)}, "stand-in"),
        ({"trial_settings": {"end_behavior": {"missing_payment_method": "stop"}}}, "must be one of"),
        ({"trial_settings": {"end": "x"}}, "unknown parameter"),
        ({"billing_cycle_anchor": seconds(START)}, "in the future"),
        ({"billing_cycle_anchor": seconds(NEXT)}, "next natural billing date"),
        ({"billing_mode": {"type": "modern"}}, "must be one of"),
        ({"proration_behavior": "always_invoice"}, "must be one of"),
    ],
)
def test_what_cannot_begin_is_refused(it, params, words):
    with pytest.raises(stripe.InvalidRequestError, match=words):
        make(it, **params)
    assert it.client.v1.subscriptions.list().data == []
