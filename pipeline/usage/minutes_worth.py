"""What minutes are worth in their own period: by whole sums of the tiers that its record was made with (70).

Tiers make a minute dear or cheap by how many there are, so that one alone has no price: what some more or fewer are
worth is what the period costs with them, less what it cost without. Amounts are in the currency's smallest unit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.prices.price_tiers import cost, stored_tiers
from pipeline.shared.rows import typed_rows

# Charged: what its invoice has of its own minutes, without those of others that it took, and what of its own has been
# carried and used elsewhere since. What a record could not use of a credit it handed on: that stands there twice, and
# perhaps waits. What nobody can be billed for has been told at its price, and counts as if it had been charged; it
# keeps its place when a person has it carried.
_RECORDS = """
select r.id, r.tiers, r.currency,
       coalesce(r.invoiced_minutes + disputed.minutes, r.minutes) - (r.adjustment_minutes - handed_on.minutes)
       + used.minutes + told.minutes as charged
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
  select coalesce(sum(a.minutes) filter (where taker.settled_at is not null or a.told_amount is not null), 0)::int
         - coalesce(sum(a.minutes) filter (where giver.id <> r.id and giver.settled_at is not null), 0)::int as minutes
  from usage_adjustments a
  left join usage_records taker on taker.id = a.usage_record_id and taker.id is distinct from %(without)s
  left join usage_records giver on giver.id = a.settlement_record_id and giver.id is distinct from %(without)s
  where a.origin_record_id = r.id) used
cross join lateral (
  select coalesce(sum(a.minutes), 0)::int as minutes from usage_adjustments a
  where a.origin_record_id = r.id and a.told_amount is null and %(retold)s
    and (a.kind = 'waiting' or a.usage_record_id < %(without)s and exists (
      select from drifts d where d.kind in ('no-invoice', 'unusable-invoice') and d.resolved_at is null
        and d.subject = 'record:' || a.usage_record_id))) told
where r.id = any(%(ids)s::bigint[]) and r.tiers is not null and r.currency is not null and not r.trial
"""

# By their own periods: what was carried into the record, less what of a credit it could not use and hands on.
_CARRIED_INTO = """
select origin_record_id, sum(minutes)::int as minutes, sum(told_amount)::bigint as told from (
  select origin_record_id, minutes, told_amount from usage_adjustments where usage_record_id = %(id)s
  union all
  select origin_record_id, -minutes, null from usage_adjustments
  where settlement_record_id = %(id)s and origin_record_id <> %(id)s) carried
group by origin_record_id, told_amount is null having sum(minutes) <> 0
order by 1
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


def tariffs(
    connection: Connection, record_ids: Iterable[int], *, without: int | None = None, retold: bool = False
) -> dict[int, Tariff]:
    """Of those of these records that have a price, by id; a trial's minutes have none.

    ``without``: a record whose use of their minutes does not count, since it is that which is to be priced. ``retold``:
    it is told anew whenever something changes, and so after what waits and what other such records took.
    """
    rows = connection.exec_driver_sql(_RECORDS, {"ids": sorted(record_ids), "without": without, "retold": retold})
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


@dataclass(frozen=True, slots=True)
class Carried:
    """Minutes of another period that a record took and used; ``told``: what a person was told that they are worth."""

    origin_record_id: int
    minutes: int
    told: int | None


def carried_into(connection: Connection, record_id: int) -> list[Carried]:
    """What a record took of other periods, and used."""
    return typed_rows(Carried, connection.exec_driver_sql(_CARRIED_INTO, {"id": record_id}))


def worth_of(carried: Iterable[Carried], known: Mapping[int, Tariff]) -> int | None:
    """What carried minutes are worth by the tiers of their own periods; None where one has no price."""
    amounts = [
        each.told
        if each.told is not None
        else known[each.origin_record_id].worth(each.minutes)
        if each.origin_record_id in known
        else None
        for each in carried
    ]
    return None if None in amounts else sum(filter(None, amounts))


def fair_price(connection: Connection, record: Any, *, retold: bool) -> Worth:
    """What the minutes of a record should cost that no invoice bills: carried ones by the tiers of their own periods.

    It is a row with ``id``, ``minutes``, ``tiers``, ``currency`` and ``trial``. ``retold`` as for ``tariffs``; else it
    is told once, and what waits is told beside it.
    """
    used = carried_into(connection, record.id)
    own = price_of(record, record.minutes - sum(each.minutes for each in used))
    carried = worth_of(
        used, tariffs(connection, [each.origin_record_id for each in used], without=record.id, retold=retold)
    )
    if own.amount is None or carried is None:
        return price_of(record, record.minutes)
    return Worth(record.minutes, own.amount + carried, own.currency)
