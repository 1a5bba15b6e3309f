"""What minutes were worth in their own period, beside what carrying them really cost in the one that took them (70).

Minutes are carried as minutes, and the tiers of another period price them: 60 minutes that had cost nothing may cost
something there. When the record that took them settles, both are compared, by whole sums of each period's tiers. The
customer paid too much: for a person to give back. Too little: for a person, and never charged silently.
"""

from datetime import datetime

from sqlalchemy import Connection

from pipeline.prices.money import money
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage.minutes_worth import carried_into, tariffs, worth_of

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


def subject_of(record_id: int) -> str:
    """Of the drifts that this comparison opens."""
    return f"record:{record_id}:carried"


def compare(
    connection: Connection, record_id: int, business_id: int, charged: int, invoice: str | None, now: datetime
) -> None:
    """Compare, for a record that settles with so many minutes ``charged`` by an invoice, and before it is settled."""
    used = carried_into(connection, record_id)
    known = tariffs(connection, [record_id, *(each.origin_record_id for each in used)])
    subject = subject_of(record_id)
    for kind in (DriftKind.CREDIT_DUE, DriftKind.UNDER_BILLED):
        drifts.resolve(connection, kind, subject, now)
    # A record without a price, as of the time before prices were kept, can't be compared.
    fair = worth_of(used, known)
    if not used or record_id not in known or fair is None:
        return
    taker, minutes = known[record_id], sum(each.minutes for each in used)
    paid = taker.cost(charged) - taker.cost(charged - minutes)
    if paid == fair:
        return
    drifts.report(
        connection,
        DriftKind.CREDIT_DUE if paid > fair else DriftKind.UNDER_BILLED,
        subject,
        business_id=business_id,
        expected=f"{money(fair, taker.currency)} for the {minutes:,} minutes that were carried into the period, by the"
        " tiers of their own",
        actual=f"{money(paid, taker.currency)} on {invoice or 'no invoice'}:"
        f" {money(abs(paid - fair), taker.currency)} too {'much' if paid > fair else 'little'}",
        evidence={
            "minutes": minutes,
            "amount": paid - fair,
            "currency": taker.currency,
            "invoice": invoice,
            "carried": [[each.origin_record_id, each.minutes] for each in used],
        },
        now=now,
    )
