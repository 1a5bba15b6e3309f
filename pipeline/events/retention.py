"""Forgetting: raw events that are older than explaining and rebuilding need."""

import time
from datetime import datetime

from sqlalchemy import Engine

BATCH = 1_000
SECONDS = 40.0

# What still waits and what is dead stays, however old: it has had no effect yet.
_PRUNE = """
delete from webhook_events where id in (
  select id from webhook_events
  where received_at < %(now)s - interval '13 months' and state in ('processed', 'ignored')
  limit %(limit)s for update skip locked)
"""


def prune_events(engine: Engine, now: datetime) -> int:
    """Delete processed and ignored events of more than 13 months ago, in small batches; returns how many."""
    until = time.monotonic() + SECONDS
    pruned = 0
    while time.monotonic() < until:
        with engine.begin() as connection:
            deleted = connection.exec_driver_sql(_PRUNE, {"now": now, "limit": BATCH}).rowcount
        pruned += deleted
        if deleted < BATCH:
            break
    return pruned
