"""The mirror of meters: which of them is ours is decided by it (``price_roles``)."""

from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.consequences import Consequences
from pipeline.providers.stripe_fields import Meter

# Returns whether it counted otherwise before; a meter that was not known decided nothing.
_REPLACE = """
with before as (select * from stripe_meters where id = %(id)s)
insert into stripe_meters as m (id, event_name, active, sums_by_our_keys, snapshot_at)
values (%(id)s, %(event_name)s, %(active)s, %(sums_by_our_keys)s, %(snapshot_at)s)
on conflict (id) do update
set event_name = excluded.event_name, active = excluded.active, sums_by_our_keys = excluded.sums_by_our_keys,
    snapshot_at = excluded.snapshot_at
returning exists (
  select from before
  where (before.event_name, before.active, before.sums_by_our_keys)
        <> (m.event_name, m.active, m.sums_by_our_keys))
"""

_LIVING_ON = """
select distinct s.stripe_id
from stripe_prices p join subscription_items i on i.price_id = p.id join subscriptions s on s.id = i.subscription_id
where p.meter_id = %s and s.ended_at is null
"""


def known_meters(connection: Connection) -> set[str]:
    """The ids of the meters that are mirrored."""
    return set(connection.exec_driver_sql("select id from stripe_meters").scalars())


def store_meter(connection: Connection, meter: Meter, snapshot_at: datetime, consequences: Consequences) -> None:
    """Make the mirror what this newer snapshot says; the subscriptions whose minutes it now counts otherwise follow."""
    counts_otherwise = connection.exec_driver_sql(
        _REPLACE,
        {
            "id": meter.id,
            "event_name": meter.event_name,
            "active": meter.active,
            "sums_by_our_keys": meter.sums_by_our_keys,
            "snapshot_at": snapshot_at,
        },
    ).scalar_one()
    if counts_otherwise:
        for (subscription_id,) in connection.exec_driver_sql(_LIVING_ON, (meter.id,)):
            consequences.fetch("subscription", subscription_id, "meter-changed")
