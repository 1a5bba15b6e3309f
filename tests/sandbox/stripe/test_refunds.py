"""The stand-in's refunds and disputes of what was paid of an invoice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stripe

from tests.worlds.stripe_stand_in import StandIn


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def paid(it: StandIn) -> tuple[Any, Any]:
    """An invoice of 49.00 and its payment."""
    customer, prices = it.customer(), it.plan()
    items: Any = [{"price": price} for price in prices.values()]
    it.client.v1.subscriptions.create({"customer": customer, "items": items})
    (invoice,) = it.client.v1.invoices.list({"customer": customer}).data
    (payment,) = it.client.v1.invoice_payments.list({"invoice": invoice.id}).data
    return invoice, payment


def test_a_payment_names_its_invoice_and_is_found_by_its_intent(it):
    invoice, payment = paid(it)
    assert (payment.invoice, payment.amount_paid, payment.status) == (invoice.id, 4900, "paid")
    wanted: Any = {"payment": {"type": "payment_intent", "payment_intent": payment.payment.payment_intent}}
    assert [each.id for each in it.client.v1.invoice_payments.list(wanted).data] == [payment.id]
    assert it.client.v1.invoice_payments.list({"invoice": "in_other"}).data == []


def test_what_is_not_paid_by_card_has_no_payment(it):
    customer, prices = it.customer(), it.plan()
    it.control("/stripe/break-payment", customer=customer)
    items: Any = [{"price": price} for price in prices.values()]
    it.client.v1.subscriptions.create({"customer": customer, "items": items})
    (invoice,) = it.client.v1.invoices.list({"customer": customer}).data
    it.client.v1.invoices.pay(invoice.id, {"paid_out_of_band": True})
    assert it.client.v1.invoice_payments.list({"invoice": invoice.id}).data == []


def test_refunds_up_to_what_was_paid(it):
    _, payment = paid(it)
    intent = payment.payment.payment_intent
    it.client.v1.refunds.create({"payment_intent": intent, "amount": 900})
    with pytest.raises(stripe.InvalidRequestError, match="greater than unrefunded amount on charge"):
        it.client.v1.refunds.create({"payment_intent": intent, "amount": 4001})
    rest = it.client.v1.refunds.create({"payment_intent": intent})
    assert (rest.amount, rest.status) == (4000, "succeeded")
    with pytest.raises(stripe.InvalidRequestError, match="already been refunded") as refused:
        it.client.v1.refunds.create({"payment_intent": intent})
    assert refused.value.code == "charge_already_refunded"
    assert [each.amount for each in it.client.v1.refunds.list({"payment_intent": intent}).data] == [4000, 900]
    assert it.kinds().count("refund.created") == 2


def test_one_that_fails_can_be_tried_again(it):
    _, payment = paid(it)
    intent = payment.payment.payment_intent
    refund = it.client.v1.refunds.create({"payment_intent": intent})
    it.control("/stripe/fail-refund", refund=refund.id)
    assert it.client.v1.refunds.retrieve(refund.id).status == "failed"
    assert it.kinds()[-2:] == ["refund.updated", "refund.failed"]
    assert it.client.v1.refunds.create({"payment_intent": intent}).amount == 4900


def test_what_a_bank_has_taken_can_not_be_refunded(it):
    invoice, payment = paid(it)
    intent = payment.payment.payment_intent
    dispute = it.control("/stripe/dispute", invoice=invoice.id)
    with pytest.raises(stripe.InvalidRequestError, match="has been charged back"):
        it.client.v1.refunds.create({"payment_intent": intent})
    it.control("/stripe/close-dispute", dispute=dispute, status="won")
    assert [each.status for each in it.client.v1.disputes.list({"payment_intent": intent}).data] == ["won"]
    assert it.client.v1.disputes.retrieve(dispute).amount == 4900
    it.client.v1.refunds.create({"payment_intent": intent, "amount": 1})


def test_a_question_of_a_bank_takes_nothing(it):
    invoice, payment = paid(it)
    it.control("/stripe/dispute", invoice=invoice.id, status="warning_needs_response")
    assert "charge.dispute.funds_withdrawn" not in it.kinds()
    it.client.v1.refunds.create({"payment_intent": payment.payment.payment_intent, "amount": 1})


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("dispute", {"invoice": "in_none"}, "nothing was paid of in_none"),
        ("dispute", {"status": "lost"}, "a dispute begins as"),
        ("close-dispute", {"status": "needs_response"}, "can't become needs_response"),
    ],
)
def test_what_no_bank_does_is_refused(it, path, body, words):
    invoice, _ = paid(it)
    body = {"invoice": invoice.id} | body
    if path == "close-dispute":
        body["dispute"] = it.control("/stripe/dispute", invoice=invoice.id)
    answer = it.http.post(f"/_sandbox/stripe/{path}", json=body)
    assert (answer.status_code, words in answer.text) == (400, True)


def test_a_credit_note_can_refund_what_was_paid(it):
    invoice, payment = paid(it)
    line = next(each for each in invoice.lines.data if each.amount == 4900)
    lines: Any = [{"type": "invoice_line_item", "invoice_line_item": line.id, "amount": 400}]
    note = it.client.v1.credit_notes.create({"invoice": invoice.id, "lines": lines, "refund_amount": 400})
    (refund,) = it.client.v1.refunds.list({"payment_intent": payment.payment.payment_intent}).data
    assert [(each.refund, each.amount_refunded) for each in note.refunds] == [(refund.id, 400)]
