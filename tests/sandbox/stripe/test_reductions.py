"""The stand-in's coupons and taxes, prices of several intervals, credit notes and balances."""

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


def renewed(it: StandIn, **params: Any) -> tuple[str, Any]:
    """A customer of a plan with 540 used minutes and the invoice of the first period, paid; overage is 4.80."""
    customer, prices = it.customer(), it.plan()
    items: Any = [{"price": price} for price in prices.values()]
    wanted: Any = {"customer": customer, "items": items, **params}
    it.client.v1.subscriptions.create(wanted)
    it.report(customer, "540", "p1")
    it.advance(2026, 12, 5, 12)
    return customer, it.client.v1.invoices.list({"customer": customer}).data[0]


def line_of_overage(invoice: Any) -> Any:
    return next(line for line in invoice.lines.data if line.amount == 480)


def credited(it: StandIn, invoice: Any, amount: int, **params: Any) -> Any:
    line = {"type": "invoice_line_item", "invoice_line_item": line_of_overage(invoice).id, "amount": amount}
    wanted: Any = {"invoice": invoice.id, "lines": [line], **params}
    return it.client.v1.credit_notes.create(wanted)


def coupon(it: StandIn, **given: Any) -> Any:
    params: Any = given
    return [{"coupon": it.client.v1.coupons.create(params).id}]


def test_a_coupon_for_ever_comes_off_every_invoice(it):
    _, invoice = renewed(it, discounts=coupon(it, percent_off=10, duration="forever"))
    assert (invoice.subtotal, invoice.total_discount_amounts[0].amount, invoice.total) == (5380, 538, 4842)


def test_a_coupon_for_once_comes_off_the_first_invoice_only(it):
    customer, invoice = renewed(it, discounts=coupon(it, amount_off=1000, currency="usd", duration="once"))
    first = it.client.v1.invoices.list({"customer": customer}).data[-1]
    assert (first.total, invoice.total) == (3900, 5380)


def test_a_coupon_of_another_currency_is_refused(it):
    with pytest.raises(stripe.InvalidRequestError, match="currency of the coupon"):
        renewed(it, discounts=coupon(it, amount_off=1000, currency="eur", duration="once"))


@pytest.mark.parametrize(("inclusive", "tax", "total"), [(False, 1022, 6402), (True, 859, 5380)])
def test_taxes_come_on_top_or_are_included(it, inclusive, tax, total):
    rate = it.client.v1.tax_rates.create({"display_name": "VAT", "percentage": 19, "inclusive": inclusive})
    _, invoice = renewed(it, default_tax_rates=[rate.id])
    assert (invoice.total_taxes[0].amount, invoice.total) == (tax, total)


def test_a_yearly_and_a_weekly_price_renew_by_themselves(it):
    yearly, weekly = (
        it.price("Support", unit_amount=12000, recurring={"interval": "year"}),
        it.price("Numbers", unit_amount=100, recurring={"interval": "week"}),
    )
    customer, prices = it.customer(), it.plan()
    it.subscribe(customer, {**prices, "yearly": yearly, "weekly": weekly})
    it.advance(2026, 12, 5, 12)
    invoices = it.client.v1.invoices.list({"customer": customer, "limit": 100}).data[::-1]
    assert [(len(invoice.lines.data), invoice.total) for invoice in invoices] == [
        (3, 17000),
        *[(1, 100)] * 4,
        (2, 4900),
    ]


def test_classic_billing_has_one_interval(it):
    prices = {**it.plan(), "yearly": it.price("Support", unit_amount=12000, recurring={"interval": "year"})}
    items: Any = [{"price": price} for price in prices.values()]
    with pytest.raises(stripe.InvalidRequestError, match="several intervals"):
        it.client.v1.subscriptions.create(
            {"customer": it.customer(), "items": items, "billing_mode": {"type": "classic"}}
        )


def test_a_flat_amount_of_a_tier_is_charged_beside_its_units(it):
    prices = it.plan()
    tiers: Any = [{"up_to": 10, "flat_amount": 500}, {"up_to": "inf", "unit_amount": 7, "flat_amount": 300}]
    recurring = {"interval": "month", "usage_type": "metered", "meter": it.meter}
    tiered = it.price("Minutes", billing_scheme="tiered", tiers_mode="graduated", tiers=tiers, recurring=recurring)
    customer = it.customer()
    it.subscribe(customer, {"flat": prices["flat"], "metered": tiered})
    it.report(customer, "12", "p1")
    it.advance(2026, 12, 5, 12)
    invoice = it.client.v1.invoices.list({"customer": customer}).data[0]
    assert invoice.total == 4900 + 500 + 300 + 2 * 7


def test_a_credit_note_of_a_paid_invoice_goes_to_the_balance_and_lowers_the_next(it):
    customer, invoice = renewed(it, discounts=coupon(it, percent_off=10, duration="forever"))
    note = credited(it, invoice, 100, credit_amount=90, metadata={"mine": "1"})
    assert (note.total, note.discount_amount, note.post_payment_amount, note.status) == (90, 10, 90, "issued")
    assert it.client.v1.customers.retrieve(customer).balance == -90
    assert it.client.v1.invoices.retrieve(invoice.id).post_payment_credit_notes_amount == 90
    it.advance(2027, 1, 5, 12)
    following = it.client.v1.invoices.list({"customer": customer}).data[0]
    assert (following.total, following.amount_due, following.starting_balance) == (4410, 4320, -90)
    assert it.client.v1.customers.retrieve(customer).balance == 0
    booked = it.client.v1.customers.balance_transactions.list(customer).data
    assert [(row.type, row.amount) for row in booked] == [("applied_to_invoice", 90), ("credit_note", -90)]


def test_a_credit_note_of_an_open_invoice_lowers_what_is_due(it):
    customer, prices = it.customer(), it.plan()
    it.subscribe(customer, prices)
    it.report(customer, "540", "p1")
    it.control("/stripe/break-payment", customer=customer)
    it.advance(2026, 12, 5, 12)
    invoice = it.client.v1.invoices.list({"customer": customer}).data[0]
    note = credited(it, invoice, 480)
    assert (note.pre_payment_amount, it.client.v1.invoices.retrieve(invoice.id).amount_remaining) == (480, 4900)
    it.client.v1.credit_notes.void_credit_note(note.id)
    assert it.client.v1.invoices.retrieve(invoice.id).amount_remaining == 5380


def test_a_credit_note_says_where_paid_money_goes_and_is_at_most_what_remains(it):
    _, invoice = renewed(it)
    with pytest.raises(stripe.InvalidRequestError, match="must equal the post payment amount"):
        credited(it, invoice, 100)
    credited(it, invoice, 400, credit_amount=400)
    with pytest.raises(stripe.InvalidRequestError, match="remains of the line item"):
        credited(it, invoice, 100, credit_amount=100)


def test_a_balance_has_one_currency(it):
    customer = it.customer()
    it.client.v1.customers.balance_transactions.create(customer, {"amount": -100, "currency": "usd"})
    with pytest.raises(stripe.InvalidRequestError, match="balance is in usd"):
        it.client.v1.customers.balance_transactions.create(customer, {"amount": -100, "currency": "eur"})
