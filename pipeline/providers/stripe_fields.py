"""What we read of Stripe's objects, field by field: the one place that knows their shapes.

They come in the shapes of all API versions from 2020 on, from webhooks and from fetches, so every field is read with
suspicion: what is missing or odd is None, and nothing raises.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from pipeline.providers.stripe_words import (
    ACTIVE_METER,
    CREDIT_MARK,
    DISPUTED,
    NOT_REFUNDED,
    VOID_NOTE,
    InvoiceStatus,
    SubscriptionStatus,
    UsageType,
)

#: Ids are ASCII without blanks; those of old plans were chosen by people.
_IDENTIFIER = re.compile(r"[\x21-\x7e]{1,255}")
_WORD = re.compile(r"[a-z_]{1,64}")
#: A lookup key that names a plan.
_LOOKUP_KEY = re.compile(r"altiora_([a-z]+)(_.*)?", re.DOTALL)
#: Of a price: three years of days.
_MOST_INTERVALS = 1095
#: PostgreSQL's bigint.
_LARGEST = 2**63 - 1
#: Seconds since the epoch until the year 2286.
_LATEST = 9_999_999_999


def below(value: Any, *names: str) -> Any:
    """What stands at this path of nested objects, or None."""
    for name in names:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def identifier(value: Any) -> str | None:
    """An id; of an object that is expanded where an id could stand, its id."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and _IDENTIFIER.fullmatch(value) else None


def word(value: Any) -> str | None:
    """One of Stripe's own words, such as a status; the lists of them are never complete."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def unix_instant(value: Any) -> datetime | None:
    """Seconds since the epoch as UTC."""
    seconds = whole(value)
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None and 0 <= seconds <= _LATEST else None


def whole(value: Any) -> int | None:
    """A whole number, also one written as a string or a decimal (``"42"``, ``"42.0"``), that fits a bigint."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,20}(\.0{1,20})?", value, re.ASCII):
        value = int(value.partition(".")[0])
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if -_LARGEST <= value <= _LARGEST else None


def rows(value: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a list as the API shows one (``{"object": "list", "data": […]}``)."""
    data = below(value, "data")
    if isinstance(data, list):
        yield from (row for row in data if isinstance(row, Mapping))


def has_more(value: Any) -> bool:
    """Whether a list goes on beyond what is shown of it."""
    return below(value, "has_more") is True


def named_business(holder: Any) -> int | None:
    """The business that an object names in ``metadata.business_id``, unchecked."""
    return whole(below(holder, "metadata", "business_id"))


@dataclass(frozen=True, slots=True)
class Owned:
    """An object that belongs to a customer, and the business that its own metadata names."""

    customer_id: str
    named_business_id: int | None


@dataclass(frozen=True, slots=True)
class Customer:
    """What we need of a customer."""

    id: str
    named_business_id: int | None
    deleted: bool
    balance: int = 0
    """In the currency's smallest unit; negative: a credit, which lowers the next invoice."""
    currency: str | None = None


def read_customer(customer: Any) -> Customer | None:
    """A customer; a fetched one that was deleted shows ``deleted`` and little else."""
    customer_id = identifier(customer)
    if not isinstance(customer, Mapping) or customer_id is None:
        return None
    return Customer(
        customer_id,
        named_business(customer),
        customer.get("deleted") is True,
        balance=whole(customer.get("balance")) or 0,
        currency=word(customer.get("currency")),
    )


@dataclass(frozen=True, slots=True)
class Tier:
    """One tier of a graduated price, in the currency's smallest unit; ``up_to`` None: without end."""

    up_to: int | None
    unit_amount: Decimal
    flat_amount: Decimal


@dataclass(frozen=True, slots=True)
class Price:
    """What we need of a price. ``plan_code`` None and ``certain``: no plan claims it; not certain: its product may.

    ``tariffs``: its tiers in each of its currencies, where they are shown; events show neither. One amount for all is
    one tier; volume tiers, which price all units by the last one reached, are none.
    """

    id: str
    product_id: str | None
    usage_type: str
    meter_id: str | None
    active: bool
    plan_code: str | None
    certain: bool
    currency: str | None = None
    billing_interval: str | None = None
    interval_count: int | None = None
    lookup_key: str | None = None
    product_default: bool | None = None
    """It is its product's default price; None where the product is not shown."""
    volume: bool = False
    tariffs: Mapping[str, tuple[Tier, ...]] | None = None

    @property
    def metered(self) -> bool:
        return self.usage_type == UsageType.METERED


def read_price(price: Any) -> Price | None:
    """A price in any shape: today's, or a plan's of the years before, whose ``usage_type`` is at the top."""
    price_id = identifier(price)
    if not isinstance(price, Mapping) or price_id is None:
        return None
    product = price.get("product")
    code = below(price, "metadata", "altiora_plan")
    if not code and isinstance(key := price.get("lookup_key"), str) and (match := _LOOKUP_KEY.fullmatch(key)):
        code = match[1]
    code = code or below(product, "metadata", "altiora_plan")
    usage_type = below(price, "recurring", "usage_type") or price.get("usage_type")
    count = whole(below(price, "recurring", "interval_count") or price.get("interval_count"))
    return Price(
        id=price_id,
        product_id=identifier(product),
        usage_type=UsageType.METERED if usage_type == UsageType.METERED else UsageType.LICENSED,
        meter_id=identifier(below(price, "recurring", "meter") or price.get("meter")),
        active=price.get("active") is not False,
        plan_code=code if isinstance(code, str) and code else None,
        certain=bool(code) or isinstance(product, Mapping),
        currency=word(price.get("currency")),
        billing_interval=word(below(price, "recurring", "interval") or price.get("interval")),
        interval_count=None if count is None or not 0 < count <= _MOST_INTERVALS else count,
        lookup_key=_text(price.get("lookup_key")),
        product_default=identifier(product.get("default_price")) == price_id if isinstance(product, Mapping) else None,
        volume=price.get("tiers_mode") == "volume",
        tariffs=_tariffs(price),
    )


def _text(value: Any) -> str | None:
    """Short text of somebody's own; None where it has characters that PostgreSQL can't take, or nobody can read."""
    return value[:255] if isinstance(value, str) and value.isprintable() else None


def _tariffs(price: Mapping[str, Any]) -> dict[str, tuple[Tier, ...]] | None:
    """The tiers of each currency that is shown with them; None where ``currency_options`` are not shown."""
    options = price.get("currency_options")
    if not isinstance(options, Mapping):
        return None
    shown = {currency: _tiers(option) for currency, option in options.items() if word(currency) == currency}
    own = word(price.get("currency"))
    if own is not None and shown.get(own) is None:
        shown[own] = _tiers(price)
    return {currency: tiers for currency, tiers in shown.items() if tiers is not None}


def _tiers(holder: Any) -> tuple[Tier, ...] | None:
    """The tiers of a price or of one of its currencies; None for volume tiers, and where not all of it can be read."""
    if not isinstance(holder, Mapping) or holder.get("tiers_mode") == "volume":
        return None
    rows_ = holder.get("tiers")
    if not isinstance(rows_, list):
        unit = _amount(holder, "unit_amount")
        return None if unit is None else (Tier(None, unit, Decimal(0)),)
    tiers = []
    for row in rows_:
        unit, flat = _amount(row, "unit_amount"), _amount(row, "flat_amount")
        up_to = whole(below(row, "up_to"))
        if (unit is None and flat is None) or (up_to is None and below(row, "up_to") is not None):
            return None
        tiers.append(Tier(up_to, unit or Decimal(0), flat or Decimal(0)))
    return tuple(tiers) or None


def _amount(holder: Any, name: str) -> Decimal | None:
    """An amount of money, exact where Stripe shows it so."""
    exact, plain = below(holder, f"{name}_decimal"), whole(below(holder, name))
    if isinstance(exact, str) and re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,12})?", exact, re.ASCII):
        return Decimal(exact)
    return None if plain is None else Decimal(plain)


@dataclass(frozen=True, slots=True)
class Meter:
    """What we need of a meter. ``sums_by_our_keys``: it adds up the ``value`` of each ``stripe_customer_id``."""

    id: str
    event_name: str
    active: bool
    sums_by_our_keys: bool


def read_meter(meter: Any) -> Meter | None:
    """A meter; None where it lacks its id or the name of its events."""
    meter_id, event_name = identifier(meter), _text(below(meter, "event_name"))
    if meter_id is None or event_name is None:
        return None
    keys = (
        below(meter, "customer_mapping", "event_payload_key"),
        below(meter, "value_settings", "event_payload_key"),
    )
    return Meter(
        id=meter_id,
        event_name=event_name,
        active=below(meter, "status") == ACTIVE_METER,
        sums_by_our_keys=below(meter, "default_aggregation", "formula") == "sum"
        and below(meter, "event_time_window") is None
        and keys == ("stripe_customer_id", "value"),
    )


def _usage_type_shown(price: Any) -> str | None:
    """``metered`` or ``licensed`` where the object itself says it; an id alone, or a line of an invoice, doesn't."""
    shown = word(below(price, "recurring", "usage_type") or below(price, "usage_type"))
    return shown if shown in set(UsageType) else None


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a subscription, with its own period where the shape has one. ``quantity`` None: it is metered."""

    id: str
    price: Price
    period: tuple[datetime, datetime] | None
    created_at: datetime | None
    quantity: int | None


@dataclass(frozen=True, slots=True)
class Subscription:
    """What we need of a subscription. ``period`` is the one of the whole, in shapes before 2025-03-31.

    ``complete``: all its items are shown.
    """

    stripe_id: str
    owned: Owned
    status: str
    items: tuple[Item, ...]
    complete: bool
    period: tuple[datetime, datetime] | None
    anchor: datetime | None
    started_at: datetime | None
    trial_end: datetime | None
    cancel_at_period_end: bool
    cancel_at: datetime | None
    """When it ends, where that is known: a cancellation in the customer portal sets it, and not the flag."""
    canceled_at: datetime | None
    ended_at: datetime | None
    pause_collection: str | None
    currency: str | None = None
    billing_mode: str | None = None
    """``classic`` or ``flexible``; None in shapes that don't say."""
    thresholds: bool = False
    """It, or an item of it, is invoiced whenever a threshold is reached, too."""
    swaps: Mapping[str, datetime] | None = None
    """When each metered price came that did so inside its period, by price; None: only a fetch can tell."""


def read_subscription(subscription: Any) -> Subscription | None:
    """A subscription in the shapes of 2020 to 2026; None where it lacks its id, customer or status."""
    stripe_id = identifier(subscription)
    customer_id = identifier(below(subscription, "customer"))
    status = word(below(subscription, "status"))
    if not isinstance(subscription, Mapping) or stripe_id is None or customer_id is None or status is None:
        return None
    pause = subscription.get("pause_collection")
    started = subscription.get("start_date") or subscription.get("start") or subscription.get("created")
    ended_at = unix_instant(subscription.get("ended_at"))
    if status == SubscriptionStatus.CANCELED and ended_at is None:
        ended_at = unix_instant(subscription.get("canceled_at"))
    return Subscription(
        stripe_id=stripe_id,
        owned=Owned(customer_id, named_business(subscription)),
        status=status,
        items=tuple(read_items(subscription)),
        complete=not has_more(subscription.get("items")),
        period=_period(subscription),
        anchor=unix_instant(subscription.get("billing_cycle_anchor")),
        started_at=unix_instant(started),
        trial_end=unix_instant(subscription.get("trial_end")),
        cancel_at_period_end=subscription.get("cancel_at_period_end") is True,
        cancel_at=unix_instant(subscription.get("cancel_at")),
        canceled_at=unix_instant(subscription.get("canceled_at")),
        ended_at=ended_at,
        pause_collection=_pause(pause) if isinstance(pause, Mapping) else None,
        currency=word(subscription.get("currency")),
        billing_mode=word(below(subscription, "billing_mode", "type")),
        thresholds=bool(subscription.get("billing_thresholds"))
        or any(bool(item.get("billing_thresholds")) for item in rows(subscription.get("items"))),
    )


def read_items(subscription: Mapping[str, Any]) -> list[Item]:
    """The items that a subscription shows, in its own order."""
    items = []
    for row in rows(subscription.get("items")):
        price = read_price(row.get("price")) or read_price(row.get("plan"))
        item_id = identifier(row)
        if price is not None and item_id is not None:
            quantity = None if price.metered else whole(row.get("quantity"))
            items.append(Item(item_id, price, _period(row), unix_instant(row.get("created")), quantity))
    return items


def _period(holder: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    start, end = unix_instant(holder.get("current_period_start")), unix_instant(holder.get("current_period_end"))
    return (start, end) if start is not None and end is not None and start < end else None


def _pause(pause: Mapping[str, Any]) -> str:
    return json.dumps({"behavior": word(pause.get("behavior")), "resumes_at": _instant_text(pause.get("resumes_at"))})


def _instant_text(value: Any) -> str | None:
    moment = unix_instant(value)
    return None if moment is None else moment.isoformat()


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what it is the price of, how much, and for when. ``metered`` None: the line doesn't say."""

    price_id: str | None
    metered: bool | None
    quantity: Decimal
    start: datetime
    end: datetime
    amount_cents: int = 0
    description: str = ""
    proration: bool = False
    id: str | None = None


@dataclass(frozen=True, slots=True)
class CreditNote:
    """What was given back of an invoice: in all, and of each of its lines before discounts and taxes."""

    id: str
    number: str | None
    total_cents: int
    lines: tuple[tuple[str, int], ...]
    credit: str | None
    """The identifier of our own."""
    refunds: Mapping[str, int]
    """What of it was refunded, by refund."""


def read_credit_note(note: Any) -> CreditNote | None:
    """A credit note; None for a void one, which gives nothing back."""
    note_id = identifier(note)
    if note_id is None or below(note, "status") == VOID_NOTE:
        return None
    credit = below(note, "metadata", CREDIT_MARK)
    return CreditNote(
        id=note_id,
        number=_text(below(note, "number")),
        total_cents=whole(below(note, "total")) or 0,
        lines=tuple(
            (line_id, whole(row.get("amount")) or 0)
            for row in rows(below(note, "lines"))
            if (line_id := identifier(row.get("invoice_line_item"))) is not None
        ),
        credit=credit if isinstance(credit, str) else None,
        refunds=dict(_refunds_of(note)),
    )


def _refunds_of(note: Any) -> Iterator[tuple[str, int]]:
    """The refunds of a credit note, in the shapes before and since 2025: one that has all of it, or several."""
    alone = identifier(below(note, "refund"))
    if alone is not None:
        yield alone, whole(below(note, "refund_amount")) or whole(below(note, "total")) or 0
    for row in _list(below(note, "refunds")):
        refund = identifier(below(row, "refund"))
        if refund is not None:
            yield refund, whole(below(row, "amount_refunded")) or 0


@dataclass(frozen=True, slots=True)
class PaidBack:
    """Money that is away of what an invoice was paid: a ``refund`` or a ``dispute``, in the invoice's currency."""

    id: str
    what: str
    amount_cents: int
    status: str


def _paid_back(invoice: Mapping[str, Any], notes: Iterable[CreditNote]) -> tuple[PaidBack, ...]:
    """The refunds that no credit note tells, and the disputes in which the money is away."""
    told: Counter[str] = Counter()
    for note in notes:
        told.update(note.refunds)
    found = []
    for row in (*_list(invoice.get("refunds")), *_list(invoice.get("disputes"))):
        what, row_id, status = below(row, "object"), identifier(row), word(below(row, "status")) or ""
        away = status not in NOT_REFUNDED if what == "refund" else status in DISPUTED
        amount = (whole(below(row, "amount")) or 0) - told[row_id or ""]
        if row_id is not None and away and amount > 0 and below(row, "currency") == invoice.get("currency"):
            found.append(PaidBack(row_id, str(what), amount, status))
    return tuple(found)


def credited_cents(invoice: Any) -> int:
    """What the credit notes of an invoice come to, as it says itself."""
    parts = ("pre_payment_credit_notes_amount", "post_payment_credit_notes_amount")
    return sum(whole(below(invoice, name)) or 0 for name in parts)


@dataclass(frozen=True, slots=True)
class Invoice:
    """What we need of an invoice. ``complete``: all its lines are shown."""

    id: str
    owned: Owned
    subscription_id: str
    status: str
    billing_reason: str | None
    created_at: datetime | None
    finalizes_at: datetime | None
    finalized_at: datetime | None
    attempt_count: int
    period: tuple[datetime, datetime] | None
    lines: tuple[Line, ...]
    complete: bool
    amount_due_cents: int
    currency: str
    number: str | None = None
    total_cents: int | None = None
    tax_cents: int = 0
    """That is added to the lines; what they include already is not in it."""
    discount_cents: int = 0
    credited_cents: int = 0
    credit_notes: tuple[CreditNote, ...] | None = None
    """None: they are not shown with it."""
    paid_back: tuple[PaidBack, ...] | None = None
    """None: as above."""


def read_invoice(invoice: Any) -> Invoice | None:
    """A subscription's invoice in the shapes of 2020 to 2026; None for any other, and for a preview without an id."""
    invoice_id, customer_id = identifier(invoice), identifier(below(invoice, "customer"))
    details = below(invoice, "parent", "subscription_details") or below(invoice, "subscription_details")
    subscription_id = identifier(below(invoice, "subscription")) or identifier(below(details, "subscription"))
    status = word(below(invoice, "status"))
    if not isinstance(invoice, Mapping) or invoice.get("object") != "invoice":
        return None
    if invoice_id is None or customer_id is None or subscription_id is None or status not in set(InvoiceStatus):
        return None
    start, end = unix_instant(invoice.get("period_start")), unix_instant(invoice.get("period_end"))
    notes = [note for row in _list(invoice.get("credit_notes")) if (note := read_credit_note(row)) is not None]
    return Invoice(
        id=invoice_id,
        owned=Owned(customer_id, named_business(details)),
        subscription_id=subscription_id,
        status=status,
        billing_reason=word(invoice.get("billing_reason")),
        created_at=unix_instant(invoice.get("created")),
        finalizes_at=unix_instant(invoice.get("automatically_finalizes_at")),
        finalized_at=unix_instant(below(invoice, "status_transitions", "finalized_at")),
        attempt_count=max(0, min(whole(invoice.get("attempt_count")) or 0, 1_000)),
        period=(start, end) if start is not None and end is not None and start < end else None,
        lines=tuple(line for row in rows(invoice.get("lines")) if (line := read_line(row)) is not None),
        complete=not has_more(invoice.get("lines")),
        amount_due_cents=whole(invoice.get("amount_due")) or 0,
        currency=word(invoice.get("currency")) or "usd",
        number=_text(invoice.get("number")),
        total_cents=whole(invoice.get("total")),
        tax_cents=_added_tax(invoice),
        discount_cents=sum(whole(below(row, "amount")) or 0 for row in _list(invoice.get("total_discount_amounts"))),
        credited_cents=credited_cents(invoice),
        credit_notes=tuple(notes) if "credit_notes" in invoice else None,
        paid_back=_paid_back(invoice, notes) if "refunds" in invoice else None,
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _added_tax(invoice: Mapping[str, Any]) -> int:
    """The taxes that come on top of the lines, in the shapes before and since 2025-03-31."""
    if "total_taxes" in invoice:
        taxes = [row for row in _list(invoice["total_taxes"]) if below(row, "tax_behavior") != "inclusive"]
    else:
        taxes = [row for row in _list(invoice.get("total_tax_amounts")) if below(row, "inclusive") is not True]
    return sum(whole(below(row, "amount")) or 0 for row in taxes)


def read_line(row: Mapping[str, Any]) -> Line | None:
    """A line in the shapes of 2020 to 2026; None for one without a stretch of time."""
    price = row.get("price") or row.get("plan") or below(row, "pricing", "price_details", "price")
    usage_type = _usage_type_shown(price)
    start, end = unix_instant(below(row, "period", "start")), unix_instant(below(row, "period", "end"))
    if start is None or end is None:
        return None
    return Line(
        price_id=identifier(price),
        metered=None if usage_type is None else usage_type == UsageType.METERED,
        quantity=_quantity(row),
        start=start,
        end=end,
        amount_cents=whole(row.get("amount")) or 0,
        description=_text(row.get("description")) or "",
        id=identifier(row),
        proration=row.get("proration") is True
        or any(below(of, "proration") is True for of in _details(row.get("parent"))),
    )


def _details(parent: Any) -> Iterator[Any]:
    """What a line's parent says, whichever it is: an item of a subscription, or one of the invoice's own."""
    yield from (below(parent, name) for name in ("subscription_item_details", "invoice_item_details"))


def _quantity(row: Mapping[str, Any]) -> Decimal:
    """The exact quantity where the shape has it: the plain one is cut to a whole number since 2026-03-25."""
    exact, plain = row.get("quantity_decimal"), whole(row.get("quantity"))
    if isinstance(exact, str) and len(exact) <= 40:
        try:
            quantity = Decimal(exact)
        except ArithmeticError:
            pass
        else:
            if quantity.is_finite() and abs(quantity) < 10**18:
                return quantity
    return Decimal(plain or 0)
