"""What a billing period costs: the fee, the minutes by their tiers, and the invoice that bills them, line by line.

Amounts are in the currency's smallest unit, and sums of two currencies are never formed. What the minutes cost is
worked out from the tiers that the record was made with. What the invoice says is Stripe's, and is never computed anew:
its lines, discounts and taxes are shown by Stripe's names, and held against its total.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import Connection

from pipeline.prices.money import digits
from pipeline.prices.price_tiers import cost, stored_tiers
from pipeline.providers.stripe_fields import Tier
from pipeline.usage.record_invoice import INVOICE

# The fee is that of the plan's fixed items as the subscription has them now; without one the plan's own figure, which
# nobody charges.
_RECORDS = f"""
select r.id, r.business_id, r.period_start, r.period_end, r.state, r.minutes, r.tiers, r.trial, r.settled_at,
       coalesce(r.currency, s.currency) as currency, r.subscription_id is not null as charged,
       invoice.id as invoice_id, fee.amount as fee
from usage_records r
left join subscriptions s on s.id = r.subscription_id
{INVOICE}
left join lateral (
  select sum(coalesce(i.quantity, 1) * round((p.tariffs #>> array[s.currency, 'tiers', '0', '1'])::numeric))::bigint
           as amount
  from subscription_items i join stripe_prices p on p.id = i.price_id
  where i.subscription_id = s.id and i.role = 'fee'
) fee on true
where r.id = any(%s::bigint[])
order by r.business_id, r.period_start
"""  # noqa: S608 - put together from fragments of ours

_INVOICES = """
select i.id, i.number, i.status, i.currency, i.charges, i.credit_notes, i.paid_back, i.discount_cents, i.tax_cents,
       i.total_cents, i.amount_due_cents,
       array(select l.price_id from stripe_invoice_lines l where l.invoice_id = i.id) as minutes_prices,
       array(select p.id from stripe_prices p
             where p.usage_type = 'licensed' and p.plan_id is not null
               and p.id in (select charge ->> 'price' from jsonb_array_elements(i.charges) charge)) as fee_prices
from stripe_invoices i where i.id = any(%s::text[])
"""

ChargeKind = Literal["minutes", "fee", "add-on", "proration"]


@dataclass(frozen=True, slots=True)
class Rate:
    """What the minutes of one tier cost: above ``after`` and up to ``up_to`` (None: without end)."""

    after: int
    up_to: int | None
    unit_amount: Decimal
    flat_amount: Decimal


@dataclass(frozen=True, slots=True)
class InvoiceCharge:
    """A line of an invoice, in Stripe's words."""

    kind: ChargeKind
    text: str
    quantity: str
    amount: int


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What has gone back of an invoice; the amount has its tax and discount."""

    by: str
    """``credit note CN-1``, ``refund re_1``, or ``dispute du_1`` with what has become of it."""
    amount: int


@dataclass(frozen=True, slots=True)
class PeriodInvoice:
    """The invoice with the minutes of a period: it bills that period's minutes and the next one's fee."""

    id: str
    number: str | None
    status: str
    currency: str
    charges: list[InvoiceCharge]
    discount: int
    tax: int
    """That is added to the lines; what they include already is not in it."""
    total: int | None
    """None: not told yet."""
    amount_due: int
    """The total less the customer's balance."""
    given_back: list[GivenBack]
    """Ours or somebody else's; the total stays."""

    @property
    def adds_up(self) -> bool:
        """Whether the lines, less the discount and with the tax, are Stripe's total."""
        return self.total is None or sum(each.amount for each in self.charges) - self.discount + self.tax == self.total


@dataclass(frozen=True, slots=True)
class PeriodMoney:
    """What one record costs."""

    record_id: int
    currency: str | None
    fee: int | None
    """Of the plan's fixed items a period; None: nobody charges one, or it is not known."""
    rates: list[Rate]
    minutes_amount: int | None
    """What the record's minutes cost by its tiers; None: no price is known, or nothing charges them."""
    charged: bool
    """A subscription charges the minutes, and it is no trial's period."""
    invoice: PeriodInvoice | None

    def amount_between(self, before: int, after: int) -> int | None:
        """What the minutes from ``before`` to ``after`` of the period cost; None: nothing charges them."""
        tiers = [Tier(each.up_to, each.unit_amount, each.flat_amount) for each in self.rates]
        return cost(tiers, after) - cost(tiers, before) if tiers and self.charged else None


def period_money(connection: Connection, record_ids: Collection[int]) -> list[PeriodMoney]:
    """What each of these records costs, by business and period."""
    rows = connection.exec_driver_sql(_RECORDS, (sorted(record_ids),)).all()
    invoices = _invoices(connection, sorted({row.invoice_id for row in rows if row.invoice_id is not None}))
    return [_money(row, invoices.get(row.invoice_id)) for row in rows]


def _money(row: Any, invoice: PeriodInvoice | None) -> PeriodMoney:
    charged = row.charged and not row.trial
    tiers = stored_tiers(row.tiers) if row.tiers is not None else ()
    after, rates = 0, []
    for tier in tiers:
        rates.append(Rate(after, tier.up_to, tier.unit_amount, tier.flat_amount))
        after = tier.up_to or after
    return PeriodMoney(
        record_id=row.id,
        currency=row.currency,
        fee=row.fee if row.charged else None,
        rates=rates,
        minutes_amount=cost(tiers, row.minutes) if tiers and charged else None,
        charged=charged,
        invoice=invoice,
    )


def read_charges(connection: Connection, invoice_id: str) -> PeriodInvoice | None:
    """One invoice, line by line."""
    return _invoices(connection, [invoice_id]).get(invoice_id)


def _invoices(connection: Connection, ids: Collection[str]) -> dict[str, PeriodInvoice]:
    found = {}
    for row in connection.exec_driver_sql(_INVOICES, (list(ids),)):
        found[row.id] = PeriodInvoice(
            id=row.id,
            number=row.number,
            status=row.status,
            currency=row.currency,
            charges=[_charge(each, row) for each in row.charges or ()],
            discount=row.discount_cents or 0,
            tax=row.tax_cents or 0,
            total=row.total_cents,
            amount_due=row.amount_due_cents,
            given_back=[
                *(
                    GivenBack(f"credit note {note['number'] or note['id']}", note["total"])
                    for note in row.credit_notes or ()
                ),
                *(GivenBack(_returned(each), each["amount"]) for each in row.paid_back or ()),
            ],
        )
    return found


def _returned(each: Any) -> str:
    return f"dispute {each['id']}, {each['status']}" if each["what"] == "dispute" else f"refund {each['id']}"


def _charge(each: Any, invoice: Any) -> InvoiceCharge:
    kind: ChargeKind = "add-on"
    if each["price"] in invoice.minutes_prices:
        kind = "minutes"
    elif each["proration"]:
        kind = "proration"
    elif each["price"] in invoice.fee_prices:
        kind = "fee"
    return InvoiceCharge(kind, each["for"], each["quantity"], each["amount"])


@dataclass(frozen=True, slots=True)
class MonthRow:
    """A record in one currency: what it brings in there, and what Twilio charged for it there.

    ``fee`` and ``minutes_amount`` in its smallest unit, ``cost`` and ``margin`` in whole ones. A record whose calls
    cost another currency than its invoice has a row for each.
    """

    business_id: int
    business: str
    plan: str
    period_start: datetime
    period_end: datetime
    state: str
    calls: int
    minutes: int
    included: int
    overage: int
    currency: str
    fee: int
    minutes_amount: int
    cost: Decimal
    margin: Decimal
    unpriced_calls: int
    """That Twilio has told no price for yet: they are in no cost."""


_MONTH = """
select r.id, r.business_id, b.name as business, p.code as plan, r.period_start, r.period_end, r.state, r.calls,
       r.minutes, r.included_minutes as included, greatest(r.minutes - r.included_minutes, 0) as overage,
       coalesce((select jsonb_object_agg(unit, cents) from (
         select lower(c.price_unit) as unit, sum(c.price) as cents from calls c
         where c.usage_record_id = r.id and c.price is not null and c.price_unit is not null
         group by 1) by_unit), '{}') as costs,
       (select count(*) from calls c
        where c.usage_record_id = r.id and c.price is null and c.status = 'completed') as unpriced_calls
from usage_records r
join businesses b on b.id = r.business_id
join subscription_plans p on p.id = r.plan_id
where r.period_start >= %(start)s and r.period_start < %(end)s
  and (%(business_id)s::bigint is null or r.business_id = %(business_id)s)
order by r.business_id, r.period_start
"""


def month_rows(
    connection: Connection, start: datetime, end: datetime, business_id: int | None = None
) -> list[MonthRow]:
    """The records of all businesses, or of one, whose period begins in ``[start, end)``, by business and currency."""
    rows = connection.exec_driver_sql(_MONTH, {"start": start, "end": end, "business_id": business_id}).all()
    money = {each.record_id: each for each in period_money(connection, [row.id for row in rows])}
    told = []
    for row in rows:
        own = money[row.id]
        costs = {unit: Decimal(str(amount)) for unit, amount in row.costs.items()}
        for currency in sorted({own.currency or "usd", *costs}):
            ours = currency == (own.currency or "usd")
            fee, minutes = (own.fee or 0, own.minutes_amount or 0) if ours else (0, 0)
            spent = costs.get(currency, Decimal(0))
            told.append(
                MonthRow(
                    business_id=row.business_id,
                    business=row.business,
                    plan=row.plan,
                    period_start=row.period_start,
                    period_end=row.period_end,
                    state=row.state,
                    calls=row.calls,
                    minutes=row.minutes,
                    included=row.included,
                    overage=row.overage,
                    currency=currency,
                    fee=fee,
                    minutes_amount=minutes,
                    cost=spent,
                    margin=_whole(fee + minutes, currency) - spent,
                    unpriced_calls=row.unpriced_calls,
                )
            )
    return told


def _whole(amount: int, currency: str) -> Decimal:
    """An amount in whole units of its currency, as Twilio tells its prices."""
    return Decimal(amount).scaleb(-digits(currency))
