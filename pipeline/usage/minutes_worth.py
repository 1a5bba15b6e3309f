"""What minutes are worth in their own period: by whole sums of the tiers that its record was made with (70).

Tiers make a minute dear or cheap by how many there are, so that one alone has no price: what some more or fewer are
worth is what the period costs with them, less what it cost without. Amounts are in the currency's smallest unit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.prices.price_tiers import cost, stored_tiers

# Charged: what its invoice has of its own minutes, without those of others that it took, and what of its own has been
# carried and used elsewhere since. What a record could not use of a credit it handed on: that stands there twice. What
# nobody can be billed for has been told at its price, and counts as if it had been charged.
_RECORDS = """
select r.id, r.tiers, r.currency,
       coalesce(r.invoiced_minutes + disputed.minutes, r.minutes) - (r.adjustment_minutes - handed_on.minutes)
       + used.minutes as charged
from usage_records r
cross join lateral (
  select coalesce(sum(minutes), 0)::int as minutes from usage_adjustments
  where settlement_record_id = r.id and kind in ('over-billed', 'under-billed', 'credited')
     or settlement_record_id is null and origin_record_id = r.id and kind = 'credited'
     or origin_record_id = r.id and kind = 'unbillable') disputed
cross join lateral (
  select coalesce(sum(minutes), 0)::int as minutes from usage_adjustments
  where settlement_record_id = r.id and origin_record_id <> r.id) handed_on
cross join lateral (
  select coalesce(sum(a.minutes) filter (where taker.settled_at is not null), 0)::int
         - coalesce(sum(a.minutes) filter (where giver.id <> r.id and giver.settled_at is not null), 0)::int as minutes
  from usage_adjustments a
  left join usage_records taker on taker.id = a.usage_record_id
  left join usage_records giver on giver.id = a.settlement_record_id
  where a.origin_record_id = r.id and a.kind = 'carried') used
where r.id = any(%s::bigint[]) and r.tiers is not null and r.currency is not null and not r.trial
"""


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a record's minutes cost, and how many of them have been charged so far."""

    tiers: Any
    currency: str
    charged: int

    def cost(self, minutes: int) -> int:
        """What so many minutes of its period cost."""
        return cost(stored_tiers(self.tiers), minutes)

    def worth(self, minutes: int) -> int:
        """What so many more minutes (negative: fewer) are worth."""
        return self.cost(self.charged + minutes) - self.cost(self.charged)


def tariffs(connection: Connection, record_ids: Iterable[int]) -> dict[int, Tariff]:
    """Of those of these records that have a price, by id; a trial's minutes have none."""
    rows = connection.exec_driver_sql(_RECORDS, (sorted(record_ids),))
    return {row.id: Tariff(row.tiers, row.currency, row.charged) for row in rows}


@dataclass(frozen=True, slots=True)
class Worth:
    """Minutes of a period and what they are worth, to be told; no amount where no price is known."""

    minutes: int
    amount: int | None
    currency: str | None

    def __str__(self) -> str:
        if self.amount is None or self.currency is None:
            return f"{self.minutes:,} minutes (of unknown price)"
        return f"{self.minutes:,} minutes ({money(self.amount, self.currency)})"

    @property
    def evidence(self) -> dict[str, Any]:
        return {"minutes": self.minutes, "amount": self.amount, "currency": self.currency}


def worth(connection: Connection, record_id: int, minutes: int, beside: int = 0) -> Worth:
    """What so many minutes of this record's period are worth, beside those that have been charged.

    ``beside``: others of that period that are told at the same time, and before these.
    """
    tariff = tariffs(connection, [record_id]).get(record_id)
    if tariff is None:
        return Worth(minutes, None, None)
    return Worth(minutes, tariff.worth(beside + minutes) - tariff.worth(beside), tariff.currency)


def price_of(record: Any, minutes: int) -> Worth:
    """What so many minutes of a record's period cost in all; it is a row with ``tiers``, ``currency`` and ``trial``."""
    if record.tiers is None or record.currency is None or record.trial:
        return Worth(minutes, None, None)
    return Worth(minutes, cost(stored_tiers(record.tiers), minutes), record.currency)
