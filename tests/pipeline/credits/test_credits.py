"""Giving back what was charged too much: a credit note, once, at most what is left; the balance where none can be."""

from typing import Any

import pytest
from pydantic import SecretStr

from pipeline.credits import credit_sending, credit_states
from pipeline.credits.credit_requests import request_credit
from pipeline.providers.stripe_api import AccountFault, Refused, StripeApi
from pipeline.reading.period_money import GivenBack, period_money
from pipeline.shared.settings import StripeSettings
from tests.worlds.breaking import breaks
from tests.worlds.works import on_professional


@pytest.fixture
def shop(engine, host, tmp_path):
    """A business on Professional; nobody's calls, and yet its meter got 2,100 minutes: 100 are billed at 10 cents."""
    with host.fresh(tmp_path) as stripe:
        yield on_professional(engine, stripe, tmp_path / "our-clock")


def over_billed(works, life, **updates: Any):
    """Somebody else writes 2,100 minutes to the meter, and the invoice bills them; returns the invoice."""
    if updates:
        life.stripe.client.v1.subscriptions.update(life.subscription["id"], updates)
    life.stripe.report(life.customer, "2100", "of-somebody-else")
    life.stripe.advance(2026, 12, 5, 12, 0)
    works.follow(life)
    assert works.drifts() == ["over-billed"]
    return life.stripe.client.v1.invoices.list({"customer": life.customer}).data[0]


def settings_of(life):
    return StripeSettings(stripe_api_key=SecretStr("sk_test_lives"), stripe_api_base=life.stripe.url)


def notes(life):
    return list(life.stripe.sandbox.state.credit_notes.values())


def booked(life):
    return [
        (row["type"], row["amount"], row["currency"]) for row in life.stripe.sandbox.state.balance_transactions.values()
    ]


def credits_of(works):
    return [tuple(row) for row in works.rows("select state, amount, minutes, answer from credits order by id")]


def overage(invoice):
    return next(line for line in invoice.lines.data if line.quantity == 100)


def given_in_the_dashboard(life, invoice, amount, **where):
    line = {"type": "invoice_line_item", "invoice_line_item": overage(invoice).id, "amount": amount}
    wanted: Any = {"invoice": invoice.id, "lines": [line], **where}
    life.stripe.client.v1.credit_notes.create(wanted)


@breaks(
    "pipeline/credits/credit_sending.py",
    '        if below(had, "metadata", CREDIT_MARK) == credit.identifier and had.get("status") != VOID_NOTE:',
    "        if had is None:",
)
def test_71_a_credit_note_on_the_line_that_billed_it_once(shop, engine):
    works, life = shop
    invoice = over_billed(works, life)
    cents = overage(invoice).amount
    works.credit("over-billed")
    # Stripe makes it, and the process dies before it can say so: somebody else takes it up later.
    with engine.begin() as connection:
        (credit,) = credit_states.take_due_credits(connection, limit=9, lease_seconds=0)
    prices = {life.prices["professional"]["metered"]}
    credit_sending.give_back_once(works.api, credit, prices)
    life.stripe.control("/stripe/machine-time", seconds=2 * 24 * 3600)  # the idempotency key is forgotten
    works.follow(life)
    (note,) = notes(life)
    assert (note["invoice"], note["total"], note["lines"]["data"][0]["invoice_line_item"]) == (
        invoice.id,
        cents,
        overage(invoice).id,
    )
    assert booked(life) == [("credit_note", -cents, "usd")]
    assert credits_of(works) == [("done", cents, -2100, f"credit note {note['number']}: {cents / 100:.2f} USD")]
    assert works.drifts() == []
    with engine.connect() as connection:
        record_id = connection.exec_driver_sql("select id from usage_records").scalar_one()
        (told,) = period_money(connection, [record_id])
    assert told.invoice is not None
    assert told.invoice.given_back == [GivenBack(f"credit note {note['number']}", cents)]


def test_71_minutes_that_are_given_back_as_money_leave_every_later_record(shop):
    works, life = shop
    over_billed(works, life)
    works.credit("over-billed")
    works.follow(life)
    life.stripe.advance(2027, 1, 5, 12, 0)
    works.follow(life)
    assert [tuple(row) for row in works.rows("select kind, minutes from usage_adjustments")] == [("credited", -2100)]
    assert [minutes for (minutes,) in works.rows("select minutes from usage_records order by period_start")] == [0]
    later = life.stripe.client.v1.invoices.list({"customer": life.customer}).data[0]
    assert later.amount_due == later.total - notes(life)[0]["total"]


@pytest.mark.parametrize(("given", "state"), [(300, "done"), (1000, None)])
def test_71_what_others_gave_back_is_taken_off(shop, given, state):
    works, life = shop
    invoice = over_billed(works, life)
    cents = overage(invoice).amount
    given = given if given < 1000 else cents
    given_in_the_dashboard(life, invoice, given, out_of_band_amount=given)
    works.follow(life)
    ((actual,),) = works.rows("select actual from drifts where resolved_at is null")
    assert f"given back of it: {given / 100:.2f} USD by credit note {notes(life)[0]['number']}" in actual
    if state is None:
        with pytest.raises(ValueError, match="nothing is left to give back"):
            works.credit("over-billed")
        return
    works.credit("over-billed")
    works.follow(life)
    assert [note["total"] for note in notes(life)] == [given, cents - given]


def payment_of(life, invoice) -> Any:
    listed = life.stripe.client.v1.invoice_payments.list({"invoice": invoice.id})
    return listed.data[0].payment.payment_intent


def told(works, engine):
    """What has gone back of the invoice, as people see it, and what remains to be given back of the difference."""
    with engine.connect() as connection:
        record_id = connection.exec_driver_sql("select id from usage_records").scalar_one()
        (money,) = period_money(connection, [record_id])
    assert money.invoice is not None
    ((amount, given),) = works.rows(
        "select evidence ->> 'amount', evidence ->> 'given_back' from drifts where resolved_at is null"
    )
    return money.invoice.given_back, int(amount) - int(given or 0)


@breaks(
    "pipeline/stripe_mirror/event_types.py",
    '            return _NOT_NEEDED if payment is None else _Look("payment", payment, "paid-back")',
    "            return _NOT_NEEDED",
)
def test_71_a_refund_of_somebody_else_lowers_what_is_due_and_changes_no_minutes(shop, engine):
    works, life = shop
    invoice = over_billed(works, life)
    cents = overage(invoice).amount
    before = works.rows("select minutes, invoiced_minutes from usage_records")
    refund = life.stripe.client.v1.refunds.create({"payment_intent": payment_of(life, invoice), "amount": 300})
    works.follow(life)
    assert told(works, engine) == ([GivenBack(f"refund {refund.id}", 300)], cents - 300)
    works.credit("over-billed")
    works.follow(life)
    assert [note["total"] for note in notes(life)] == [cents - 300]
    assert works.rows("select minutes, invoiced_minutes from usage_records") == before
    assert works.drifts() == []


def test_71_a_refund_that_fails_is_due_again(shop, engine):
    works, life = shop
    invoice = over_billed(works, life)
    refund = life.stripe.client.v1.refunds.create({"payment_intent": payment_of(life, invoice)})
    works.follow(life)
    assert told(works, engine) == ([GivenBack(f"refund {refund.id}", invoice.total)], 0)
    life.stripe.control("/stripe/fail-refund", refund=refund.id)
    works.follow(life)
    assert told(works, engine) == ([], overage(invoice).amount)


@pytest.mark.parametrize(
    ("begins", "ends", "away", "at_last"),
    [
        ("needs_response", "lost", True, True),
        ("needs_response", "won", True, False),
        ("warning_needs_response", "warning_closed", False, False),
    ],
)
def test_71_what_a_bank_takes_back_is_given_back_until_it_is_ours_again(shop, engine, begins, ends, away, at_last):
    works, life = shop
    invoice = over_billed(works, life)
    dispute = life.stripe.control("/stripe/dispute", invoice=invoice.id, status=begins)
    for status, taken in ((begins, away), (ends, at_last)):
        works.follow(life)
        back = [GivenBack(f"dispute {dispute}, {status}", invoice.total)] if taken else []
        assert told(works, engine) == (back, 0 if taken else overage(invoice).amount)
        if status == begins:
            life.stripe.control("/stripe/close-dispute", dispute=dispute, status=ends)


def test_71_a_credit_note_that_was_refunded_counts_once_and_a_refund_less_its_tax(shop, engine):
    works, life = shop
    vat = life.stripe.client.v1.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": False})
    invoice = over_billed(works, life, default_tax_rates=[vat.id])
    cents = overage(invoice).amount
    given_in_the_dashboard(life, invoice, 200, refund_amount=240)
    works.follow(life)
    (note,) = notes(life)
    assert told(works, engine) == ([GivenBack(f"credit note {note['number']}", 240)], cents - 200)
    refund = life.stripe.client.v1.refunds.create({"payment_intent": payment_of(life, invoice), "amount": 120})
    works.follow(life)
    noted = GivenBack(f"credit note {note['number']}", 240)
    assert told(works, engine) == ([noted, GivenBack(f"refund {refund.id}", 120)], cents - 300)


def test_71_a_key_that_may_not_read_refunds_loses_no_invoice(shop, engine):
    works, life = shop
    invoice = over_billed(works, life)

    class NoRefunds(StripeApi):
        def get_paid_back(self, invoice):
            raise AccountFault(403, None, "The provided key does not have the required permissions.")

    works.api = NoRefunds(settings_of(life))
    life.stripe.client.v1.refunds.create({"payment_intent": payment_of(life, invoice)})
    works.follow(life)
    assert works.rows("select count(*) from refreshes where mark > fetched_mark or error is not null") == [(0,)]
    assert told(works, engine) == ([], overage(invoice).amount)


def test_71_one_that_is_open_is_owed_less_and_discounts_and_taxes_are_stripes(shop):
    works, life = shop
    client = life.stripe.client.v1
    coupon = client.coupons.create({"percent_off": 50, "duration": "forever"})
    vat = client.tax_rates.create({"display_name": "VAT", "percentage": 20, "inclusive": False})
    life.stripe.control("/stripe/break-payment", customer=life.customer)
    invoice = over_billed(works, life, discounts=[{"coupon": coupon.id}], default_tax_rates=[vat.id])
    cents = overage(invoice).amount
    works.credit("over-billed")
    works.follow(life)
    (note,) = notes(life)
    assert (note["subtotal"], note["discount_amount"], note["total"]) == (cents, cents // 2, cents // 2 * 12 // 10)
    assert (note["type"], booked(life)) == ("pre_payment", [])


def test_71_what_a_coupon_had_taken_off_was_never_paid(shop):
    works, life = shop
    coupon = life.stripe.client.v1.coupons.create({"percent_off": 100, "duration": "forever"})
    over_billed(works, life, discounts=[{"coupon": coupon.id}])
    works.credit("over-billed")
    works.follow(life)
    ((state, _, _, answer),) = credits_of(works)
    assert (state, notes(life), booked(life)) == ("done", [], [])
    assert "nothing was paid, and nothing is given back" in answer


class NoCreditNotes(StripeApi):
    """An account whose invoices allow no credit note."""

    def preview_credit_note(self, wanted):
        raise Refused(400, "invoice_not_editable", "You can't credit this invoice.")


@breaks(
    "pipeline/credits/credit_sending.py",
    "    if customer is not None and customer.currency not in {None, credit.currency}:",
    "    if customer is None:",
)
@pytest.mark.parametrize("other", [False, True])
def test_71_the_balance_only_where_no_credit_note_can_be_and_never_across_currencies(shop, engine, other):
    works, life = shop
    invoice = over_billed(works, life)
    works.credit("over-billed")
    works.api = NoCreditNotes(settings_of(life))
    if other:
        life.stripe.sandbox.state.customers[life.customer]["currency"] = "eur"
    works.follow(life)
    cents = overage(invoice).amount
    ((state, _, _, answer),) = credits_of(works)
    if other:
        assert (state, booked(life), works.drifts()) == ("failed", [], ["credit-refused"])
        assert "the customer's balance is in eur" in answer
    else:
        assert (state, booked(life)) == ("done", [("adjustment", -cents, "usd")])
        assert "no credit note, You can't credit this invoice." in answer
        works.follow(life)
        assert booked(life) == [("adjustment", -cents, "usd")]


def test_71_one_of_nobody_is_refused_in_sight_and_that_of_a_former_customer_goes_to_its_own_invoice(shop, engine):
    works, life = shop
    over_billed(works, life)
    works.credit("over-billed")
    with engine.begin() as connection:  # the business has been unlinked meanwhile
        connection.exec_driver_sql("update businesses set stripe_customer_id = null")
        connection.exec_driver_sql(
            "insert into credits (business_id, subject, amount, currency, minutes, identifier, reason, created_at)"
            " values (%s, 'record:1:CA1', 1, 'usd', -1, 'altiora-credit-x', 'a test', now())",
            (works.business_id,),
        )
    credit_sending.send_due_credits(engine, works.api, works.clock.now())
    assert len(notes(life)) == 1
    assert [row[0] for row in credits_of(works)] == ["done", "failed"]
    assert "credit-refused" in works.drifts()


def test_71_a_deleted_customer_has_no_balance_and_a_person_is_told(shop):
    works, life = shop
    over_billed(works, life)
    works.credit("over-billed")
    life.stripe.client.v1.customers.delete(life.customer)
    works.follow(life)
    ((state, _, _, answer),) = credits_of(works)
    assert (state, notes(life), booked(life)) == ("failed", [], [])
    assert answer.startswith("400 resource_missing: No such customer")
    assert "credit-refused" in works.drifts()


@breaks(
    "pipeline/credits/credit_sending.py",
    '    if invoice is not None and invoice.get("status") == InvoiceStatus.VOID:',
    "    if invoice is None and credit.amount < 0:",
)
@pytest.mark.parametrize("sent", [True, False])
def test_71_a_credit_goes_with_an_invoice_that_is_void(shop, sent):
    works, life = shop
    life.stripe.control("/stripe/break-payment", customer=life.customer)
    invoice = over_billed(works, life)
    works.credit("over-billed")
    if sent:
        works.follow(life)
        assert len(notes(life)) == 1
    life.stripe.client.v1.invoices.void_invoice(str(invoice.id))
    works.follow(life)
    ((state, _, _, answer),) = credits_of(works)
    assert (state, "is void: nothing was charged" in answer) == ("done", not sent)
    assert booked(life) == [], "nobody has paid it"
    assert works.rows("select kind, minutes from usage_adjustments") == []


def test_71_a_credit_is_frozen_and_ends_once(shop, engine):
    works, life = shop
    over_billed(works, life)
    credit_id = works.credit("over-billed")
    with pytest.raises(Exception, match="is frozen: make a new one"), engine.begin() as connection:
        connection.exec_driver_sql("update credits set amount = amount + 1 where id = %s", (credit_id,))
    works.follow(life)
    with pytest.raises(Exception, match="is done and stays so"), engine.begin() as connection:
        connection.exec_driver_sql("update credits set state = 'planned' where id = %s", (credit_id,))


def test_71_a_server_error_and_a_lost_answer_end_in_one_credit_note(shop):
    works, life = shop
    over_billed(works, life)
    works.credit("over-billed")
    life.stripe.control("/faults/script", request="POST /v1/credit_notes", faults=["500_done", "lose_answer"])
    for _ in range(3):
        works.follow(life)
    assert len(notes(life)) == 1
    assert credits_of(works)[0][0] == "done"


def test_71_minutes_that_are_billed_are_not_the_customers_to_give_back(engine):
    with engine.begin() as connection, pytest.raises(ValueError, match="nothing was charged too much"):
        request_credit(connection, 1, "unbillable", "record:1:CA1", {"minutes": 5, "amount": 60}, "a test", None)  # type: ignore[arg-type]  # it comes to no clock


@breaks(
    "pipeline/stripe_mirror/effects.py",
    "            for start in sorted(stored.billed):",
    "            for start in ():",
)
def test_69_minutes_are_billed_of_a_period_in_which_we_know_of_no_call(shop):
    works, life = shop
    over_billed(works, life)
    ((expected, actual),) = works.rows("select expected, actual from drifts")
    assert expected.startswith("0 minutes")
    assert actual.startswith("2,100 minutes")
