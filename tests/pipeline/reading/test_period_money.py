"""What a period costs, held against the stand-in's invoices: by its tiers, in its currency, to Stripe's total."""

import csv
import io
import os
import random
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pypdf
import pytest

from pipeline.prices.price_tiers import UNLIMITED
from pipeline.providers.stripe_fields import read_invoice
from pipeline.reading import csv_tables, period_costs
from pipeline.reading.period_money import InvoiceCharge, PeriodInvoice, Rate, period_money
from tests.worlds.breaking import breaks
from tests.worlds.browser import chromium
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.lives import Call, Life
from tests.worlds.stripe_objects import invoice as shown_invoice
from tests.worlds.stripe_objects import lines
from tests.worlds.stripe_stand_in import START
from tests.worlds.works import Works
from tests.worlds.world import sid_of

#: ISO 216: 210 by 297 millimetres, in points of 1/72 inch.
A4_POINTS = (595, 842)


@pytest.fixture
def month(engine, host, tmp_path, monkeypatch, environment):
    """A business on Starter with a number for $2, that talked 630 minutes in a month that is over and paid."""
    with host.fresh(tmp_path) as stripe:
        works = Works(engine, stripe, tmp_path / "our-clock")
        works.at(START)
        life = Life(stripe, works.business_id, random.Random(1))
        number = stripe.price("A second number", unit_amount=200, nickname="A second number")
        items: Any = [{"price": price} for price in (*life.prices["starter"].values(), number)]
        stripe.client.v1.subscriptions.create({"customer": life.customer, "items": items})
        works.follow(life)
        for hours, minutes in ((1, 600), (24, 30)):
            stripe.run(stripe.timeline.advance(life.now + timedelta(hours=hours)))
            life.calls.append(Call(sid_of(f"call {hours}"), life.now - timedelta(seconds=1), minutes * 60))
            works.follow(life)
        for days in (29, 0.1, 0.1):
            stripe.run(stripe.timeline.advance(life.now + timedelta(days=days)))
            works.follow(life)
        use_environment(monkeypatch, environment)
        os.environ["ALTIORA_CLOCK"] = str(works.clock_file)
        yield works, life


def of_first(works):
    with works.engine.connect() as connection:
        (record_id,) = works.rows("select id from usage_records order by period_start limit 1")[0]
        return period_money(connection, [record_id])[0]


def test_a_period_is_its_fee_its_tiers_and_the_lines_of_its_invoice(month):
    works, _ = month
    told = of_first(works)
    assert (told.currency, told.fee, told.minutes_amount, told.charged) == ("usd", 4900, 130 * 12, True)
    assert told.rates == [Rate(0, 500, Decimal(0), Decimal(0)), Rate(500, None, Decimal(12), Decimal(0))]
    invoice = told.invoice
    assert invoice is not None
    assert sorted((each.kind, each.amount) for each in invoice.charges) == [
        ("add-on", 200),
        ("fee", 4900),
        ("minutes", 0),
        ("minutes", 1560),
    ]
    assert (invoice.total, invoice.adds_up, invoice.status) == (4900 + 200 + 1560, True, "paid")


def test_the_commands_show_it(month):
    said = Altiora()("explain", "1", "2026-11")
    for words in (
        "fee         49.00 USD a period",
        "rate        1 to 500: 0.00 USD a minute",
        "rate        above 500: 0.12 USD a minute",
        "minutes     15.60 USD",
        "  minutes   15.60 USD  130 x starter minutes (tier 2)",
        "  add-on    2.00 USD  A second number",
        "  total     66.60 USD, adds up",
    ):
        assert words in said, said
    assert "15.60 USD" in Altiora()("usage", "1")
    record = Altiora().json("usage", "1")["records"][0]
    assert (record["currency"], record["fee"], record["minutes_amount"]) == ("usd", 4900, 1560)
    assert "total       66.60 USD, adds up" in Altiora()("statement", "1", "2026-11")
    assert Altiora().json("statement", "1", "2026-11")["money"]["minutes_amount"] == 1560


def test_a_price_that_includes_all_minutes_says_so(month, tmp_path):
    works, _ = month
    with works.engine.begin() as connection:
        connection.exec_driver_sql(
            "update usage_records set included_minutes = %s, statement = statement || jsonb_build_object("
            "'included', %s::int, 'overage', 0)",
            (UNLIMITED, UNLIMITED),
        )
    page = tmp_path / "page.html"
    Altiora()("statement", "1", "2026-11", "--html", str(page))
    assert "All minutes are included." in page.read_text()
    for said in (page.read_text(), Altiora()("usage", "1"), Altiora()("statement", "1", "2026-11")):
        assert "2,147,483,647" not in said
    assert "of all" in Altiora()("usage", "1")


def test_the_page_says_on_your_invoice_only_where_it_is(month, tmp_path):
    works, _ = month
    page = tmp_path / "page.html"
    Altiora()("statement", "1", "2026-11", "--html", str(page))
    html = page.read_text()
    number = of_first(works).invoice.number
    assert f"and on your invoice {number}." in html
    assert ">66.60 USD<" in html
    assert ">49.00 USD<" in html
    with works.engine.begin() as connection:
        connection.exec_driver_sql("update stripe_invoices set status = 'draft'")
    Altiora()("statement", "1", "2026-11", "--html", str(page))
    assert "on your invoice" not in page.read_text()
    assert "the invoice for them is not final yet" in page.read_text()


def test_the_page_is_read_in_a_browser_and_printed_on_a4(month, tmp_path):
    works, life = month
    invoice = of_first(works).invoice
    (fee,) = [line.id for line in life.stripe.client.v1.invoices.retrieve(invoice.id).lines.data if line.amount == 200]
    life.stripe.client.v1.credit_notes.create(
        {
            "invoice": invoice.id,
            "refund_amount": 150,
            "lines": [{"type": "invoice_line_item", "invoice_line_item": fee, "amount": 150}],
        }
    )
    works.follow(life)
    file = tmp_path / "page.html"
    Altiora()("statement", "1", "2026-11", "--html", str(file))
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(file.as_uri())
        for name, amount in (
            ("Plan Starter, each period", "49.00 USD"),
            ("130 x starter minutes (tier 2)", "15.60 USD"),
            ("A second number", "2.00 USD"),
            ("Given back by credit note", "-1.50 USD"),
            ("Total", "66.60 USD"),
        ):
            row = page.get_by_role("row").filter(has_text=name).filter(has_text=amount)
            assert row.first.is_visible(), (name, amount)
        assert asked == [file.as_uri()], "the page needs nothing from elsewhere"
        page.set_viewport_size({"width": 375, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, "nothing is cut on a telephone"
        printed = pypdf.PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    assert {(round(sheet.mediabox.width), round(sheet.mediabox.height)) for sheet in printed.pages} == {A4_POINTS}
    text = "".join(sheet.extract_text() for sheet in printed.pages)
    assert all(amount in text for amount in ("49.00 USD", "15.60 USD", "-1.50 USD", "66.60 USD"))


def test_a_month_of_all_businesses_is_told_by_currency(month):
    works, _ = month
    with works.engine.begin() as connection:
        connection.exec_driver_sql("update calls set price = 1.5, price_unit = 'USD' where minutes = 600")
        connection.exec_driver_sql("update calls set price = 0.25, price_unit = 'EUR' where minutes = 30")
    rows = list(csv.DictReader(io.StringIO(Altiora()("usage", "--month", "2026-11", "--csv"))))
    assert [(row["currency"], row["fee"], row["minutes_amount"], row["cost"], row["margin"]) for row in rows] == [
        ("eur", "0", "0", "0.25", "-0.25"),
        ("usd", "4900", "1560", "1.5", "63.10"),
    ]
    assert "63.10 USD" in Altiora()("usage", "--month", "2026-11")
    assert "is no month" in Altiora()("usage", "--month", "November", status=2)
    assert "name a business, or --month" in Altiora()("usage", status=2)


def test_the_calls_of_a_period_are_told_as_csv(month):
    rows = list(csv.DictReader(io.StringIO(Altiora()("usage", "1", "--calls", "2026-11"))))
    assert [(row["minutes"], row["counted"]) for row in rows] == [("600", "True"), ("30", "True")]
    assert {row["number"] for row in rows} == {"+15550000077"}, "a phone number is no formula, and stays as it is"


@pytest.mark.parametrize("text", ["=1+1", "+1-1", "+", "+1 555", "-1", "@x", "\tx", "\rx", "+1\n=1"])
def test_no_cell_is_a_formula(text):
    ((cell,),) = list(csv.reader(io.StringIO(csv_tables.as_csv([{"a": text}]), newline="")))[1:]
    assert cell == f"'{text}"
    assert csv_tables.as_csv([{"a": -3, "b": Decimal("-0.5")}]) == "a,b\r\n-3,-0.5\r\n", "a number is none"


@pytest.mark.parametrize(
    ("currency", "rate", "words"),
    [
        ("jpy", Rate(500, None, Decimal(12), Decimal(0)), "above 500: 12 JPY a minute"),
        ("kwd", Rate(0, 100, Decimal("12.5"), Decimal(1000)), "1 to 100: 0.0125 KWD a minute and 1.000 KWD"),
        ("usd", Rate(0, 100, Decimal("0.5"), Decimal(0)), "1 to 100: 0.005 USD a minute"),
    ],
)
def test_53_a_rate_has_the_digits_of_its_currency_and_those_that_it_needs(currency, rate, words):
    assert period_costs.rate(rate, currency) == words


@breaks(
    "pipeline/reading/period_money.py",
    "- self.discount + self.tax == self.total",
    "+ self.tax == self.total",
)
def test_68_discounts_and_taxes_are_stripes_and_held_against_its_total():
    charges = [InvoiceCharge("minutes", "m", "600", 1200), InvoiceCharge("fee", "f", "1", 4900)]
    right = PeriodInvoice("in_1", "N1", "paid", "usd", charges, 610, 1098, 6588, 6588, [])
    assert right.adds_up
    assert list(period_costs.of_invoice(right))[-3:] == [
        ("  discount", "-6.10 USD"),
        ("  tax", "10.98 USD"),
        ("  total", "65.88 USD, adds up"),
    ]
    wrong = PeriodInvoice("in_1", "N1", "paid", "usd", charges, 610, 1098, 6589, 6589, [])
    assert "DOES NOT ADD UP" in list(period_costs.of_invoice(wrong))[-1][1]


@pytest.mark.parametrize(
    ("taxes", "added"),
    [
        (
            {"total_taxes": [{"amount": 100, "tax_behavior": "exclusive"}, {"amount": 7, "tax_behavior": "inclusive"}]},
            100,
        ),
        ({"total_tax_amounts": [{"amount": 100, "inclusive": False}, {"amount": 7, "inclusive": True}]}, 100),
        ({"total_taxes": "odd"}, 0),
        ({}, 0),
    ],
)
def test_68_a_tax_that_the_lines_include_is_not_added(taxes, added):
    read = read_invoice(
        shown_invoice(lines=lines(), total=5000, total_discount_amounts=[{"amount": 50}, "odd"], **taxes)
    )
    assert read is not None
    assert (read.tax_cents, read.discount_cents, read.total_cents) == (added, 50, 5000)
