"""Whether this database was restored from a backup: then it is behind, and has to catch up before it decides anything.

What was sent to Stripe after the backup is forgotten here, and would be sent again: billed twice. A dump is known for
what it is by PostgreSQL's own numbers, which are others than when its rows were written. A cluster that went back to a
moment in its past (base backup and log) keeps its numbers: somebody says so, by starting to catch up.

While it is behind nothing is planned, sent, closed or suspended; events are stored and applied. It is a row of
``halts``, and alarms like one.
"""

from datetime import datetime

import structlog
from sqlalchemy import Connection

#: The work that stands for all that waits.
RESTORED = "restored"

_IDENTITY = "(select system_identifier || ':' || 'meter_pushes'::regclass::oid from pg_control_system())"

_BEHIND = f"""
select exists (select from halts where work = %(work)s) as known,
       (select identity from database_identity) is distinct from {_IDENTITY} as other
"""  # noqa: S608 - a constant of ours

_HOLD = """
insert into halts (work, error, next_try_at) values (%(work)s, 'run `altiora restore catch-up`', 'infinity')
on conflict (work) do nothing
"""

_SINCE = "select since from halts where work = %s"

_CAUGHT_UP = (
    "delete from database_identity",
    f"insert into database_identity (identity) select {_IDENTITY}",
    f"delete from halts where work = '{RESTORED}'",  # noqa: S608 - a constant of ours
)

log = structlog.get_logger(__name__)


def is_behind(connection: Connection) -> bool:
    """Whether nothing may be decided here yet; one that is noticed for it alarms from now on."""
    known, other = connection.exec_driver_sql(_BEHIND, {"work": RESTORED}).one()
    if other and not known:
        hold(connection)
    return bool(known or other)


def hold(connection: Connection) -> datetime:
    """Decide nothing until it has caught up; returns since when (machine clock). Repeating it changes nothing."""
    if connection.exec_driver_sql(_HOLD, {"work": RESTORED}).rowcount:
        log.error("restored", next="nothing is sent or closed until `altiora restore catch-up` has ended")
    since: datetime = connection.exec_driver_sql(_SINCE, (RESTORED,)).scalar_one()
    return since


def set_caught_up(connection: Connection) -> None:
    """This database knows what Stripe has: everything goes on."""
    for statement in _CAUGHT_UP:
        connection.exec_driver_sql(statement)
