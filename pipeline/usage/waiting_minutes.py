"""Late minutes and credits of a business that nothing charges at present: they wait, in sight, for a record that does.

On Free or in a trial there is no invoice that could take them (74). Which of them waits, and since when, follows from
what Stripe says of the business's subscriptions, in whatever order it says so.
"""

from collections import Counter
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures, records
from pipeline.usage.minutes_worth import worth

# Carried into a record that turned out to be Free's or a trial's.
_RETURN = """
update usage_adjustments a set kind = 'waiting', usage_record_id = null, told_amount = null
from usage_records r
where r.id = a.usage_record_id and a.kind = 'carried' and a.business_id = %s
  and r.state <> 'closed' and (r.subscription_id is null or r.trial)
returning r.id
"""

_WAITING = """
select a.id, a.minutes, origin.currency
from usage_adjustments a join usage_records origin on origin.id = a.origin_record_id
where a.business_id = %s and a.kind = 'waiting'
order by a.id
"""

_TAKE = (
    "update usage_adjustments set kind = 'carried', usage_record_id = %(record_id)s where id = any(%(ids)s::bigint[])"
)

# By whose minutes they are; what comes to nothing is no difference.
_SUMS = """
select 'record:' || origin_record_id || ':' || coalesce(call_sid, 'settlement') as subject, origin_record_id,
       sum(minutes)::int as minutes
from usage_adjustments where business_id = %s and kind = 'waiting'
group by 1, 2 having sum(minutes) <> 0
order by 1
"""

_OPEN = """
select subject from drifts
where business_id = %s and kind = 'unbillable' and resolved_at is null
"""

_GIVE_UP = """
update usage_adjustments set kind = 'unbillable'
where business_id = %(business_id)s and kind = 'waiting'
  and 'record:' || origin_record_id || ':' || coalesce(call_sid, 'settlement') = %(subject)s
"""

_GIVE_BACK = _GIVE_UP.replace("kind = 'unbillable'", "kind = 'credited'")


def charging_record(
    connection: Connection, business_id: int, currency: str | None, now: datetime
) -> records.Record | None:
    """The open record, made if there is none, if its minutes are charged, and in this currency where one is known."""
    record = records.record_for(connection, business_id, now, now)
    alike = currency is None or record.currency is None or currency == record.currency
    return record if record.bills and alike else None


def return_carried(connection: Connection, business_id: int) -> set[int]:
    """Let what was carried into records that are not charged after all wait; returns those records, to be summed."""
    return set(connection.exec_driver_sql(_RETURN, (business_id,)).scalars())


def settle_waiting(connection: Connection, business_id: int, now: datetime) -> None:
    """Carry what waits, if anything is charged now, and tell what still waits; the business's lock is held."""
    waiting = connection.exec_driver_sql(_WAITING, (business_id,)).all()
    if waiting:
        for currency in sorted({row.currency for row in waiting}, key=str):
            record = charging_record(connection, business_id, currency, now)
            if record is not None:
                taken = [row for row in waiting if row.currency == currency]
                connection.exec_driver_sql(_TAKE, {"record_id": record.id, "ids": [row.id for row in taken]})
                record_figures.add_carried(connection, record.id, sum(row.minutes for row in taken))
    report_waiting(connection, business_id, now)


def report_waiting(connection: Connection, business_id: int, now: datetime) -> None:
    """Bring the drifts of what waits up to date."""
    ended = set(connection.exec_driver_sql(_OPEN, (business_id,)).scalars())
    beside: Counter[int] = Counter()
    for subject, origin_record_id, minutes in connection.exec_driver_sql(_SUMS, (business_id,)).all():
        ended.discard(subject)
        what = worth(connection, origin_record_id, minutes, beside[origin_record_id])
        beside[origin_record_id] += minutes
        drifts.report(
            connection,
            DriftKind.UNBILLABLE,
            subject,
            business_id=business_id,
            expected=f"{what} {'charged' if minutes > 0 else 'given back'}",
            actual="they wait: the business has no metered subscription that charges minutes at present",
            evidence=what.evidence,
            now=now,
        )
    for subject in sorted(ended):
        drifts.resolve(connection, DriftKind.UNBILLABLE, subject, now)


def give_up_waiting(connection: Connection, business_id: int, subject: str) -> None:
    """A person has settled by hand what this drift is about: no record takes it any more."""
    connection.exec_driver_sql(_GIVE_UP, {"business_id": business_id, "subject": subject})


def give_back_waiting(connection: Connection, business_id: int, subject: str) -> None:
    """What this drift is about is given back as money: no record takes it any more."""
    connection.exec_driver_sql(_GIVE_BACK, {"business_id": business_id, "subject": subject})
