"""What Twilio charged for a business's calls beside what its plan's price brings in: a figure for people, no rule.

Twilio's prices come late and are kept by unit; a margin is only told where its unit is the currency of the invoices.
"""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import Connection

_MARGINS = """
select r.business_id, r.id, r.period_start, r.period_end, p.code, r.minutes, p.price_cents, upper(invoice.currency),
       of_calls.price_unit, of_calls.cost_cents, of_calls.unpriced
from usage_records r
join subscription_plans p on p.id = r.plan_id
left join lateral (
  select i.currency from stripe_invoices i where i.business_id = r.business_id order by i.created_at desc limit 1
) invoice on true
left join lateral (
  select upper(c.price_unit) as price_unit, coalesce(sum(c.price), 0) * 100 as cost_cents,
         count(*) filter (where c.price is null) as unpriced
  from calls c where c.usage_record_id = r.id and c.status = 'completed'
  group by upper(c.price_unit)
) of_calls on true
where (%(business_id)s::bigint is null or r.business_id = %(business_id)s)
  and r.period_start <= %(now)s and r.period_end > %(since)s
order by r.business_id, r.period_start, of_calls.price_unit nulls last
"""


@dataclass(frozen=True, slots=True)
class Margin:
    """One record. ``costs`` in cents by Twilio's unit; ``margin_cents`` is None where the currencies differ."""

    business_id: int
    record_id: int
    period_start: datetime
    period_end: datetime
    plan: str
    minutes: int
    price_cents: int
    currency: str | None
    costs: dict[str, Decimal]
    unpriced_calls: int

    @property
    def margin_cents(self) -> Decimal | None:
        """The plan's price less what Twilio charged so far."""
        if self.currency is None or self.costs.keys() - {self.currency}:
            return None
        return self.price_cents - sum(self.costs.values(), Decimal(0))


def margins(connection: Connection, now: datetime, since: datetime, business_id: int | None = None) -> list[Margin]:
    """The records whose period lies between, each with its cost; calls without a price yet are counted."""
    found: dict[int, Margin] = {}
    about = {"business_id": business_id, "now": now, "since": since}
    for *columns, unit, cost, unpriced in connection.exec_driver_sql(_MARGINS, about):
        business, record_id, start, end, plan, minutes, price_cents, currency = columns
        before = found.get(record_id)
        costs = dict(before.costs) if before is not None else {}
        if unit is not None:
            costs[unit] = cost
        missing = (before.unpriced_calls if before is not None else 0) + (unpriced or 0)
        found[record_id] = Margin(business, record_id, start, end, plan, minutes, price_cents, currency, costs, missing)
    return list(found.values())
