"""What Stripe has of pushes that a restored database has forgotten, taken over by Stripe's own sums.

Nobody sends meanwhile, and the sums have settled (``pipeline/catch_up.py``). What Stripe has more than we know of is
noted as sent, so that it is not sent again. Where it has less, nothing is changed: that is the difference
``stripe-sum``, for a person, as on any other day.
"""

import secrets
from datetime import datetime

import structlog
from sqlalchemy import Connection, Engine

from pipeline.meter import push_states
from pipeline.meter.unknown_pushes import meters_by_event_name, summed_by_stripe
from pipeline.providers.stripe_api import StripeApi
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures
from pipeline.usage.periods import minute_ceil, minute_floor

# The records that can still be pushed or settled, over the whole minutes of each.
_RECORDS = """
select r.id, r.business_id, r.period_start, r.period_end, s.stripe_customer_id
from usage_records r
join subscriptions s on s.id = r.subscription_id
where r.settled_at is null and not r.provisional and r.period_start <= %(now)s
order by r.id
"""

_SENT = """
select coalesce(sum(minutes), 0)::int from meter_pushes
where business_id = %(business_id)s and stripe_customer_id = %(customer)s and state = 'sent'
  and timestamp >= %(start)s and timestamp < %(end)s
"""

_TAKE_OVER = """
insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id, minutes, timestamp,
                          state, settled_at, answer, created_at)
select %(business_id)s, %(record_id)s, %(identifier)s, %(event_name)s, %(customer)s, %(minutes)s, %(start)s,
       'sent', clock_timestamp(), 'Stripe had these minutes when the database was restored', %(now)s
"""

_log = structlog.get_logger(__name__)


def void_unsettled(connection: Connection, now: datetime) -> int:
    """Nothing that was planned before the backup is sent any more; returns how many pushes that were."""
    voided = push_states.void_before_restore(connection)
    for identifier in voided:
        drifts.resolve(connection, DriftKind.UNKNOWN_PUSH, f"push:{identifier}", now)
    return len(voided)


def take_over(engine: Engine, api: StripeApi, event_name: str, now: datetime) -> tuple[int, int]:
    """Note as sent what Stripe has and we don't know of; returns how many records were compared, and the minutes noted.

    Each record in a transaction of its own: repeated, it finds nothing more. Raises StripeApiError, and LookupError
    where no meter has the event's name.
    """
    with engine.connect() as connection:
        records = connection.exec_driver_sql(_RECORDS, {"now": now}).all()
    if not records:
        return 0, 0
    meter = meters_by_event_name(api)[event_name]
    noted = 0
    for record in records:
        start, end = minute_ceil(record.period_start), minute_floor(record.period_end)
        if end <= start:
            continue
        summed = int(summed_by_stripe(api, meter, record.stripe_customer_id, start, end))
        about = {
            "record_id": record.id,
            "business_id": record.business_id,
            "customer": record.stripe_customer_id,
            "start": start,
            "end": end,
        }
        with engine.begin() as connection:
            lock_businesses(connection, [record.business_id])
            forgotten = summed - connection.exec_driver_sql(_SENT, about).scalar_one()
            if forgotten > 0:
                identifier = f"restored-{record.id}-{secrets.token_hex(8)}"
                took = {"identifier": identifier, "event_name": event_name, "minutes": forgotten, "now": now}
                connection.exec_driver_sql(_TAKE_OVER, about | took)
                record_figures.recount_pushed(connection, [record.id])
                _log.warning("taken-over", record_id=record.id, business_id=record.business_id, minutes=forgotten)
                noted += forgotten
    return len(records), noted
