"""Amounts of money as text, with the digits that Stripe counts in each currency.

Stripe's amounts are whole numbers of a currency's smallest unit (docs.stripe.com/currencies): yen have no smaller one,
dinars have thousandths, and ISK and UGX are counted in hundredths although nobody pays them.
"""

from typing import Final

_WHOLE: Final = frozenset(
    ["bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"]
)
_THOUSANDTHS: Final = frozenset(["bhd", "jod", "kwd", "omr", "tnd"])


def digits(currency: str) -> int:
    """How many digits follow the point in this currency (ISO 4217, in any case)."""
    code = currency.lower()
    return 0 if code in _WHOLE else 3 if code in _THOUSANDTHS else 2


def money(amount: int, currency: str) -> str:
    """An amount, in the currency's smallest unit, as text: 2900 is ``29.00 USD``, ``2,900 JPY`` or ``2.900 KWD``."""
    places = digits(currency)
    whole, part = divmod(abs(amount), 10**places)
    sign = "-" if amount < 0 else ""
    return f"{sign}{whole:,}{f'.{part:0{places}d}' if places else ''} {currency.upper()}"
