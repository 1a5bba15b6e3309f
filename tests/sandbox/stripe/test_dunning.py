"""The stand-in's payments that fail: the retries, what becomes of the subscription, and how it comes back."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import StandIn

END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)
FIRST = END + timedelta(hours=1)
RETRIES = [FIRST + timedelta(days=days) for days in (3, 8, 15)]


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def broken(it: StandIn) -> str:
    """A subscription whose customer's payments fail from its first renewal on."""
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.control("/stripe/break-payment", customer=customer)
    it.run(it.timeline.advance(FIRST))
    return subscription


def retrieve(it: StandIn, subscription: str) -> stripe.Subscription:
    return it.client.v1.subscriptions.retrieve(subscription)


def latest(it: StandIn, subscription: str) -> stripe.Invoice:
    return it.client.v1.invoices.list({"subscription": subscription}).data[0]


def statuses(it: StandIn) -> list[str]:
    """The statuses that the subscriptions came from, as the events tell."""
    changes = [event["data"]["previous_attributes"] for event in it.of_kind("customer.subscription.updated")]
    return [change["status"] for change in changes if "status" in change]


def attempts(it: StandIn) -> list[tuple[int, int | None]]:
    return [
        (event["data"]["object"]["attempt_count"], event["data"]["object"]["next_payment_attempt"])
        for event in it.of_kind("invoice.payment_failed")
    ]


@pytest.mark.parametrize(("end", "status"), [("unpaid", "unpaid"), ("canceled", "canceled"), ("past_due", "past_due")])
def test_retries_come_after_their_days_and_then_the_rule_decides(host, tmp_path, end, status):
    with host.fresh(tmp_path, after_retries=end) as it:
        subscription = broken(it)
        assert retrieve(it, subscription).status == "past_due"
        for retry in RETRIES:
            assert retrieve(it, subscription).status == "past_due"
            assert it.timeline.next_stop() == retry
            it.run(it.timeline.advance(retry))
        planned: list[int | None] = [int(retry.timestamp()) for retry in RETRIES]
        assert attempts(it) == list(enumerate([*planned, None], 1))
        assert retrieve(it, subscription).status == status
        invoice = latest(it, subscription)
        assert (invoice.status, invoice.auto_advance, invoice.amount_remaining) == ("open", False, 4900)
        assert (len(it.of_kind("customer.subscription.deleted")) == 1) == (end == "canceled")
        if end == "canceled":
            ended = it.of_kind("customer.subscription.deleted")[0]["data"]["object"]
            assert ended["cancellation_details"]["reason"] == "payment_failed"


def test_the_days_are_a_rule(host, tmp_path):
    with host.fresh(tmp_path, retry_days=[1], after_retries="past_due") as it:
        broken(it)
        it.run(it.timeline.advance(RETRIES[-1]))
        assert [count for count, _ in attempts(it)] == [1, 2]
    with host.fresh(tmp_path, retry_days=[]) as it:
        subscription = broken(it)
        assert retrieve(it, subscription).status == "unpaid"
        assert statuses(it) == ["active", "past_due"]


def test_the_rules_can_be_set_while_it_runs(it):
    it.control("/stripe/rules", retry_days=[2], after_retries="canceled")
    subscription = broken(it)
    it.run(it.timeline.advance(FIRST + timedelta(days=2)))
    assert retrieve(it, subscription).status == "canceled"


def test_a_retry_that_succeeds_brings_the_subscription_back(it):
    subscription = broken(it)
    it.control("/stripe/repair-payment", customer=str(retrieve(it, subscription).customer))
    it.run(it.timeline.advance(RETRIES[0]))
    assert (retrieve(it, subscription).status, latest(it, subscription).status) == ("active", "paid")
    assert latest(it, subscription).attempt_count == 2
    assert statuses(it) == ["active", "past_due"]
    it.run(it.timeline.advance(RETRIES[-1]))
    assert len(attempts(it)) == 1


def test_a_next_payment_that_fails_is_repaired_by_the_retry(it):
    customer = it.customer()
    subscription = it.subscribe(customer, it.plan())
    it.control("/stripe/fail-payment", customer=customer)
    it.run(it.timeline.advance(RETRIES[0] - timedelta(seconds=1)))
    assert retrieve(it, subscription).status == "past_due"
    it.run(it.timeline.advance(RETRIES[0]))
    assert retrieve(it, subscription).status == "active"


def test_attempts_by_hand_move_no_retry(it):
    subscription = broken(it)
    invoice = str(latest(it, subscription).id)
    it.run(it.timeline.advance(FIRST + timedelta(days=1)))
    with pytest.raises(stripe.CardError):
        it.client.v1.invoices.pay(invoice)
    planned = int(RETRIES[0].timestamp())
    assert attempts(it) == [(1, planned), (1, planned)]
    it.control("/stripe/repair-payment", customer=str(retrieve(it, subscription).customer))
    it.client.v1.invoices.pay(invoice)
    assert retrieve(it, subscription).status == "active"
    it.run(it.timeline.advance(RETRIES[-1]))
    assert len(attempts(it)) == 2


def test_unpaid_keeps_new_invoices_as_drafts_until_the_open_one_is_paid(it):
    subscription = broken(it)
    it.run(it.timeline.advance(RETRIES[-1]))
    owed = str(latest(it, subscription).id)
    it.advance(2027, 1, 6)
    kept = latest(it, subscription)
    assert (kept.status, kept.auto_advance, kept.automatically_finalizes_at) == ("draft", False, None)
    assert retrieve(it, subscription).status == "unpaid"
    it.control("/stripe/repair-payment", customer=str(kept.customer))
    it.client.v1.invoices.pay(owed)
    assert retrieve(it, subscription).status == "active"
    it.client.v1.invoices.update(str(kept.id), {"auto_advance": True})
    it.advance(2027, 2, 6)
    assert [each.status for each in it.client.v1.invoices.list({"subscription": subscription}).data] == ["paid"] * 4


def test_what_is_paid_must_be_the_latest(it):
    subscription = broken(it)
    older = str(latest(it, subscription).id)
    with_retries_over: Any = {"auto_advance": False}
    it.client.v1.invoices.update(older, with_retries_over)
    it.advance(2027, 1, 5, 12)
    newer = str(latest(it, subscription).id)
    it.control("/stripe/repair-payment", customer=str(retrieve(it, subscription).customer))
    it.client.v1.invoices.pay(older)
    assert retrieve(it, subscription).status == "past_due"
    it.client.v1.invoices.pay(newer)
    assert retrieve(it, subscription).status == "active"


def test_the_end_of_a_subscription_ends_the_retries(it):
    subscription = broken(it)
    it.client.v1.subscriptions.cancel(subscription)
    invoice = latest(it, subscription)
    assert (invoice.status, invoice.auto_advance, invoice.next_payment_attempt) == ("open", False, None)
    it.run(it.timeline.advance(RETRIES[-1]))
    assert len(attempts(it)) == 1


def test_an_open_invoice_can_be_told_to_be_collected_again(it):
    subscription = broken(it)
    it.run(it.timeline.advance(RETRIES[-1]))
    it.control("/stripe/repair-payment", customer=str(retrieve(it, subscription).customer))
    again = it.client.v1.invoices.update(str(latest(it, subscription).id), {"auto_advance": True})
    assert again.next_payment_attempt == int((RETRIES[-1] + timedelta(hours=1)).timestamp())
    it.run(it.timeline.advance(RETRIES[-1] + timedelta(hours=1)))
    assert retrieve(it, subscription).status == "active"
