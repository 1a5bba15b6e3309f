"""The stand-in's invoices: what may be done in which state, and previews, which do nothing."""

import copy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import START, StandIn, seconds

END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)
NEXT = datetime(2027, 1, 5, 10, 23, 45, tzinfo=UTC)


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def draft(it: StandIn, behavior: str | None = None) -> stripe.Invoice:
    """The draft of a renewal; with a ``behavior``, of a subscription whose collection is paused."""
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    if behavior:
        it.client.v1.subscriptions.update(subscription, {"pause_collection": {"behavior": behavior}})
    end = it.client.v1.subscriptions.retrieve(subscription).items.data[0].current_period_end
    it.run(it.timeline.advance(datetime.fromtimestamp(end, UTC)))
    return it.client.v1.invoices.list({"subscription": subscription, "status": "draft"}).data[0]


def opened(it: StandIn) -> stripe.Invoice:
    made = draft(it)
    return it.client.v1.invoices.finalize_invoice(str(made.id), {"auto_advance": False})


def test_a_draft_stops_and_goes_on_advancing(it):
    made = draft(it)
    update = it.client.v1.invoices.update
    stopped = update(str(made.id), {"auto_advance": False, "metadata": {"a": "b"}})
    assert (stopped.auto_advance, stopped.automatically_finalizes_at) == (False, None)
    assert stopped.metadata is not None
    assert stopped.metadata.to_dict() == {"a": "b"}
    previous = it.of_kind("invoice.updated")[-1]["data"]["previous_attributes"]
    assert previous["automatically_finalizes_at"] == seconds(END) + 3600
    it.run(it.timeline.advance(END + timedelta(hours=5)))
    assert it.client.v1.invoices.retrieve(str(made.id)).status == "draft"
    advancing = update(str(made.id), {"auto_advance": True})
    assert advancing.automatically_finalizes_at == seconds(END + timedelta(hours=6))
    assert it.timeline.next_stop() == END + timedelta(hours=6)
    it.run(it.timeline.advance(END + timedelta(hours=6)))
    assert it.client.v1.invoices.retrieve(str(made.id)).status == "paid"
    with pytest.raises(stripe.InvalidRequestError, match="Finalized invoices can't be updated in this way"):
        update(str(made.id), {"auto_advance": True})
    assert update(str(made.id), {"metadata": {"a": ""}}).metadata is not None


def test_a_draft_that_a_pause_kept_advances_when_told_so(it):
    made = draft(it, "keep_as_draft")
    assert (made.auto_advance, made.automatically_finalizes_at) == (False, None)
    it.client.v1.subscriptions.update(
        made.parent.subscription_details.subscription,  # type: ignore[union-attr]  # an invoice of a subscription
        {"pause_collection": ""},
    )
    it.client.v1.invoices.update(str(made.id), {"auto_advance": True})
    it.run(it.timeline.advance(END + timedelta(hours=1)))
    assert it.client.v1.invoices.retrieve(str(made.id)).status == "paid"


def test_finalising_by_hand_freezes_the_usage_and_collects_unless_told_not_to(it):
    made = draft(it)
    done = it.client.v1.invoices.finalize_invoice(str(made.id))
    assert (done.status, done.amount_paid) == ("paid", 4900)
    waiting = opened(it)
    assert (waiting.status, waiting.auto_advance, waiting.amount_remaining) == ("open", False, 4900)
    assert it.kinds()[-1] == "invoice.finalized"
    it.run(it.timeline.advance(NEXT + timedelta(days=20)))
    assert it.client.v1.invoices.retrieve(str(waiting.id)).status == "open"


def test_paying_by_hand(it):
    waiting = opened(it)
    it.control("/stripe/fail-payment", customer=str(waiting.customer))
    with pytest.raises(stripe.CardError) as declined:
        it.client.v1.invoices.pay(str(waiting.id))
    assert (declined.value.code, declined.value.http_status) == ("card_declined", 402)
    paid = it.client.v1.invoices.pay(str(waiting.id))
    assert (paid.status, paid.attempt_count, paid.amount_paid) == ("paid", 1, 4900)
    assert it.kinds()[-3:] == ["invoice.paid", "invoice.payment_succeeded", "customer.subscription.updated"]
    assert (paid.next_payment_attempt, it.of_kind("invoice.payment_failed")[0]["data"]["object"]["attempt_count"]) == (
        None,
        1,
    )
    assert it.client.v1.invoices.pay(str(draft(it).id)).status == "paid"
    it.control("/stripe/break-payment", customer=str(waiting.customer))
    assert it.client.v1.invoices.pay(str(opened(it).id), {"paid_out_of_band": True}).status == "paid"


def test_voiding_and_giving_up(it):
    invoices = it.client.v1.invoices
    void = invoices.void_invoice(str(opened(it).id))
    assert (void.status, void.status_transitions.voided_at) == ("void", seconds(it.timeline.now))
    assert it.kinds()[-1] == "invoice.voided"
    lost = invoices.mark_uncollectible(str(opened(it).id))
    assert (lost.status, lost.status_transitions.marked_uncollectible_at) == ("uncollectible", seconds(it.timeline.now))
    assert it.kinds()[-1] == "invoice.marked_uncollectible"
    assert invoices.pay(str(lost.id)).status == "paid"
    again = invoices.mark_uncollectible(str(opened(it).id))
    assert invoices.void_invoice(str(again.id)).status == "void"


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        ("draft", {"void", "mark_uncollectible"}),
        ("open", {"finalize"}),
        ("paid", {"finalize", "pay", "void", "mark_uncollectible"}),
        ("void", {"finalize", "pay", "void", "mark_uncollectible"}),
        ("uncollectible", {"finalize", "mark_uncollectible"}),
    ],
)
def test_each_state_permits_what_stripe_permits(it, status, refused):
    invoices = it.client.v1.invoices
    make: dict[str, Callable[[], stripe.Invoice]] = {
        "draft": lambda: draft(it),
        "open": lambda: opened(it),
        "paid": lambda: invoices.pay(str(draft(it).id)),
        "void": lambda: invoices.void_invoice(str(opened(it).id)),
        "uncollectible": lambda: invoices.mark_uncollectible(str(opened(it).id)),
    }
    do: dict[str, Callable[[str], stripe.Invoice]] = {
        "finalize": invoices.finalize_invoice,
        "pay": invoices.pay,
        "void": invoices.void_invoice,
        "mark_uncollectible": invoices.mark_uncollectible,
    }
    for name, act in do.items():
        made = make[status]()
        assert made.status == status
        if name in refused:
            with pytest.raises(stripe.InvalidRequestError) as error:
                act(str(made.id))
            assert error.value.http_status == 400
            assert invoices.retrieve(str(made.id)).status == status
        else:
            assert act(str(made.id)).status != status


class Upgrade:
    """A Starter business that looks at Professional, in the middle of a period with 510 minutes so far."""

    def __init__(self, it: StandIn) -> None:
        self.it = it
        self.starter, self.professional = it.plan(), it.plan(2000, "10", 14900, "professional")
        self.customer = it.customer()
        self.subscription = it.subscribe(self.customer, self.starter)
        it.report(self.customer, "510", "i1")
        it.advance(2026, 11, 20, 10, 23, 45)
        flat, minutes = it.client.v1.subscriptions.retrieve(self.subscription).items.data
        self.items = [
            {"id": flat.id, "price": self.professional["flat"]},
            {"id": minutes.id, "price": self.professional["metered"]},
        ]

    def look(self, **details: Any) -> dict[str, Any]:
        params: Any = {"subscription": self.subscription}
        if details:
            params["subscription_details"] = details
        return self.it.client.v1.invoices.create_preview(params).to_dict(for_json=True)


def amounts(invoice: dict[str, Any]) -> list[tuple[str, float, int]]:
    return [
        (line["pricing"]["price_details"]["price"], line["quantity"], line["amount"])
        for line in invoice["lines"]["data"]
    ]


def test_a_preview_without_a_change_shows_the_renewal_to_come(it):
    up = Upgrade(it)
    seen = up.look()
    minutes = up.starter["metered"]
    assert amounts(seen) == [(minutes, 500, 0), (minutes, 10, 120), (up.starter["flat"], 1, 4900)]
    assert (seen["subtotal"], seen["total"], seen["amount_due"], seen["status"]) == (5020, 5020, 5020, "draft")
    assert (seen["created"], seen["period_start"], seen["period_end"]) == (seconds(END), seconds(START), seconds(END))
    assert seen["billing_reason"] == "subscription_cycle"
    assert "id" not in seen
    assert seen["lines"]["data"][0]["invoice"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"items": True, "billing_cycle_anchor": {"type": "now"}},
        {"items": True, "billing_cycle_anchor": {"type": "now"}, "proration_behavior": "none"},
        {"items": True, "proration_behavior": "always_invoice"},
    ],
)
def test_a_preview_shows_what_the_change_then_invoices(it, change):
    up = Upgrade(it)
    change["items"] = up.items
    seen = up.look(**change)
    it.client.v1.subscriptions.update(up.subscription, change)
    made = it.client.v1.invoices.list({"subscription": up.subscription}).data[0].to_dict(for_json=True)
    assert amounts(seen) == amounts(made)
    assert [line["period"] for line in seen["lines"]["data"]] == [line["period"] for line in made["lines"]["data"]]
    for name in ("subtotal", "total", "amount_due", "billing_reason", "created", "period_end", "currency", "customer"):
        assert seen[name] == made[name]


@pytest.mark.parametrize("proration", ["create_prorations", "none"])
def test_a_preview_of_a_change_that_waits_shows_the_renewal_after_it(it, proration):
    up = Upgrade(it)
    change: Any = {"items": up.items, "proration_behavior": proration}
    seen = up.look(**change)
    it.client.v1.subscriptions.update(up.subscription, change)
    it.run(it.timeline.advance(END))
    made = it.client.v1.invoices.list({"subscription": up.subscription}).data[0].to_dict(for_json=True)
    assert amounts(seen) == amounts(made)
    assert (len(seen["lines"]["data"]), seen["created"]) == (2 if proration == "none" else 6, seconds(END))


def test_previews_of_an_end(it):
    up = Upgrade(it)
    minutes = up.starter["metered"]
    assert amounts(up.look(cancel_now=True)) == [(minutes, 500, 0), (minutes, 10, 120)]
    last = up.look(cancel_at_period_end=True)
    assert (amounts(last), last["created"]) == ([(minutes, 500, 0), (minutes, 10, 120)], seconds(END))
    flat = it.subscribe(it.customer(), {"flat": up.starter["flat"]})
    params: Any = {"subscription": flat, "subscription_details": {"cancel_at_period_end": True}}
    with pytest.raises(stripe.InvalidRequestError) as nothing:
        it.client.v1.invoices.create_preview(params)
    assert (nothing.value.code, nothing.value.http_status) == ("invoice_upcoming_none", 404)
    it.client.v1.subscriptions.cancel(up.subscription)
    with pytest.raises(stripe.InvalidRequestError, match="No upcoming invoices"):
        up.look()


def test_a_preview_knows_the_schedules_next_phase(it):
    up = Upgrade(it)
    schedule = it.client.v1.subscription_schedules.create({"from_subscription": up.subscription})
    phases: Any = [
        {"items": [{"price": price} for price in prices.values()], "start_date": start}
        for prices, start in ((up.starter, seconds(START)), (up.professional, seconds(END)))
    ]
    it.client.v1.subscription_schedules.update(schedule.id, {"phases": phases})
    assert amounts(up.look())[-1] == (up.professional["flat"], 1, 14900)
    assert it.client.v1.subscription_schedules.retrieve(schedule.id).status == "active"


def test_a_preview_goes_through_a_phase_that_ends_before_the_renewal(it):
    up = Upgrade(it)
    schedule = it.client.v1.subscription_schedules.create({"from_subscription": up.subscription})
    middle = seconds(datetime(2026, 11, 25, tzinfo=UTC))
    phases: Any = [
        {"items": [{"price": price} for price in up.starter.values()], "start_date": seconds(START)},
        {"items": [{"price": price} for price in up.professional.values()], "end_date": seconds(END)},
    ]
    phases[0]["end_date"] = middle
    it.client.v1.subscription_schedules.update(schedule.id, {"phases": phases})
    seen = up.look()
    it.run(it.timeline.advance(END))
    made = it.client.v1.invoices.list({"subscription": up.subscription}).data[0].to_dict(for_json=True)
    assert amounts(seen) == amounts(made)
    assert len(seen["lines"]["data"]) == 6


def test_a_preview_changes_nothing(it):
    up = Upgrade(it)
    it.control("/stripe/fail-payment", customer=up.customer)
    state = it.sandbox.state
    before = copy.deepcopy((state.subscriptions, state.invoices, state.schedules, state.events, state.payment_fails))
    stop = it.timeline.next_stop()
    heard = len(it.events)
    up.look()
    up.look(items=up.items, proration_behavior="create_prorations")
    up.look(items=up.items, billing_cycle_anchor={"type": "now"})
    up.look(cancel_now=True)
    up.look(cancel_at_period_end=True)
    assert (state.subscriptions, state.invoices, state.schedules, state.events, state.payment_fails) == before
    assert (it.timeline.next_stop(), len(it.events)) == (stop, heard)
    it.control("/stripe/repair-payment", customer=up.customer)
    it.run(it.timeline.advance(END))
    made = it.client.v1.invoices.list({"subscription": up.subscription}).data[0].to_dict(for_json=True)
    assert [amount for _, _, amount in amounts(made)] == [0, 120, 4900]


def test_previews_want_what_stripe_wants(it):
    up = Upgrade(it)
    wrong: list[Any] = [
        {"customer": up.customer},
        {"subscription": "sub_lost"},
        {"subscription": up.subscription, "customer": it.customer()},
        {"subscription": up.subscription, "subscription_details": {"billing_cycle_anchor": "now"}},
        {"subscription": up.subscription, "subscription_details": {"items": [{"id": "si_lost"}]}},
        {"subscription": up.subscription, "subscription_details": {"proration_date": 1}},
        {"subscription": up.subscription, "coupon": "x"},
    ]
    for params in wrong:
        with pytest.raises(stripe.InvalidRequestError):
            it.client.v1.invoices.create_preview(params)
