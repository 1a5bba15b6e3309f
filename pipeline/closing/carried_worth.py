"""What minutes were worth in their own period, beside what carrying them really cost in the one that took them (70).

Minutes are carried as minutes, and the tiers of another period price them: 60 minutes that had cost nothing may cost
something there. When the record that took them settles, both are compared, by whole sums of each period's tiers. The
customer paid too much: for a person to give back. Too little: for a person, and never charged silently.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage.minutes_worth import Worth, price_of, tariffs

# By their own periods: what was carried into the record, less what of a credit it could not use and hands on.
_USED = """
select origin_record_id, sum(minutes)::int as minutes from (
  select origin_record_id, minutes from usage_adjustments where usage_record_id = %(id)s
  union all
  select origin_record_id, -minutes from usage_adjustments
  where settlement_record_id = %(id)s and origin_record_id <> %(id)s) carried
group by 1 having sum(minutes) <> 0
order by 1
"""

_CARRIED_CREDITS = """
select origin_record_id, sum(minutes)::int as minutes, max(id) as last
from usage_adjustments where usage_record_id = %s
group by 1 having sum(minutes) < 0
order by last desc
"""


def unused_credits(connection: Connection, record_id: int, unused: int) -> list[tuple[int, int]]:
    """Whose ``unused`` (negative) minutes a record hands on: each period's part, of the credits that came last."""
    parts = []
    for origin_record_id, minutes, _ in connection.exec_driver_sql(_CARRIED_CREDITS, (record_id,)).all():
        part = max(minutes, unused)
        if part < 0:
            parts.append((origin_record_id, part))
            unused -= part
    return parts


def fair_price(connection: Connection, record: Any) -> Worth:
    """What the minutes of a record should cost that no invoice bills: carried ones by the tiers of their own periods.

    It is a row with ``id``, ``minutes``, ``tiers``, ``currency`` and ``trial``.
    """
    used: dict[int, int] = dict(connection.exec_driver_sql(_USED, {"id": record.id}).all())
    own = price_of(record, record.minutes - sum(used.values()))
    known = tariffs(connection, used)
    if own.amount is None or any(origin not in known for origin in used):
        return price_of(record, record.minutes)
    carried = sum(known[origin].worth(minutes) for origin, minutes in used.items())
    return Worth(record.minutes, own.amount + carried, own.currency)


def subject_of(record_id: int) -> str:
    """Of the drifts that this comparison opens."""
    return f"record:{record_id}:carried"


def compare(
    connection: Connection, record_id: int, business_id: int, charged: int, invoice: str, now: datetime
) -> None:
    """Compare, for a record that settles with so many minutes ``charged`` by an invoice, and before it is settled."""
    used: dict[int, int] = dict(connection.exec_driver_sql(_USED, {"id": record_id}).all())
    known = tariffs(connection, [record_id, *used])
    subject = subject_of(record_id)
    for kind in (DriftKind.CREDIT_DUE, DriftKind.UNDER_BILLED):
        drifts.resolve(connection, kind, subject, now)
    # A record without a price, as of the time before prices were kept, can't be compared.
    if not used or record_id not in known or any(origin not in known for origin in used):
        return
    taker = known[record_id]
    paid = taker.cost(charged) - taker.cost(charged - sum(used.values()))
    fair = sum(known[origin].worth(minutes) for origin, minutes in used.items())
    if paid == fair:
        return
    minutes = sum(used.values())
    drifts.report(
        connection,
        DriftKind.CREDIT_DUE if paid > fair else DriftKind.UNDER_BILLED,
        subject,
        business_id=business_id,
        expected=f"{money(fair, taker.currency)} for the {minutes:,} minutes that were carried into the period, by the"
        " tiers of their own",
        actual=f"{money(paid, taker.currency)} on {invoice}: {money(abs(paid - fair), taker.currency)} too"
        f" {'much' if paid > fair else 'little'}",
        evidence={
            "minutes": minutes,
            "amount": paid - fair,
            "currency": taker.currency,
            "invoice": invoice,
            "carried": {str(origin): each for origin, each in used.items()},
        },
        now=now,
    )
