"""What a billing period costs, as people read it: shared by `explain`, `usage`, `statement` and its page."""

from collections.abc import Iterator
from decimal import Decimal

from pipeline.prices.money import digits, money
from pipeline.prices.price_tiers import UNLIMITED
from pipeline.reading.period_money import PeriodInvoice, PeriodMoney, Rate


def rate(each: Rate, currency: str) -> str:
    """A tier, as ``above 500: 0.12 USD a minute``."""
    span = f"above {each.after:,}" if each.up_to is None else f"{each.after + 1:,} to {each.up_to:,}"
    flat = f" and {money(int(each.flat_amount), currency)}" if each.flat_amount else ""
    return f"{span}: {_unit(each.unit_amount, currency)} a minute{flat}"


def included(minutes: int) -> str:
    """How many minutes cost nothing, as a person reads it."""
    return "all" if minutes >= UNLIMITED else f"{minutes:,}"


def _unit(amount: Decimal, currency: str) -> str:
    """A price of one minute, which may have parts of the smallest unit: 0.0125 USD."""
    places = digits(currency)
    whole = amount.scaleb(-places).normalize()
    shown = max(places, -int(whole.as_tuple().exponent)) if whole else places
    return f"{whole:.{shown}f} {currency.upper()}"


def lines(told: PeriodMoney) -> Iterator[tuple[str, str]]:
    """Each figure with its name; nothing where no price is known."""
    currency = told.currency
    if currency is None:
        return
    if told.fee is not None:
        yield "fee", f"{money(told.fee, currency)} a period"
    for each in told.rates:
        yield "rate", rate(each, currency)
    if told.minutes_amount is not None:
        yield "minutes", money(told.minutes_amount, currency)
    elif not told.charged:
        yield "minutes", "nothing charges them"
    if told.invoice is not None:
        yield from of_invoice(told.invoice)


def of_invoice(invoice: PeriodInvoice) -> Iterator[tuple[str, str]]:
    """Its lines by their kind, and its total, which they make up or not."""
    yield "invoice", f"{invoice.number or invoice.id}, {invoice.status}"
    for each in invoice.charges:
        yield f"  {each.kind}", f"{money(each.amount, invoice.currency)}  {each.text}"
    for name, amount in (("discount", -invoice.discount), ("tax", invoice.tax)):
        if amount:
            yield f"  {name}", money(amount, invoice.currency)
    if invoice.total is not None:
        adds_up = "adds up" if invoice.adds_up else "DOES NOT ADD UP: look at it in Stripe"
        yield "  total", f"{money(invoice.total, invoice.currency)}, {adds_up}"
    for back in invoice.given_back:
        yield "  given back", f"{money(-back.amount, invoice.currency)}  {back.by}"
