"""Forgetting: raw events that are older than explaining and rebuilding need."""

import time
from datetime import datetime

from sqlalchemy import Engine

from pipeline.shared.months import add_months

#: A year, and the month that its last invoice may be disputed in.
KEPT_MONTHS = 13
BATCH = 1_000
SECONDS = 40.0

# What still waits and what is dead stays, however old: it has had no effect yet.
_PRUNE = """
delete from webhook_events where id in (
  select id from webhook_events
  where received_at < %(kept_since)s and state in ('processed', 'ignored')
  limit %(limit)s for update skip locked)
"""


def kept_since(now: datetime) -> datetime:
    """What was received before this may have been pruned, so a period that begins earlier can't be rebuilt."""
    return add_months(now, -KEPT_MONTHS)


def prune_events(engine: Engine, now: datetime) -> int:
    """Delete processed and ignored events of before ``kept_since(now)``, in small batches; returns how many."""
    until = time.monotonic() + SECONDS
    pruned = 0
    while time.monotonic() < until:
        with engine.begin() as connection:
            deleted = connection.exec_driver_sql(_PRUNE, {"kept_since": kept_since(now), "limit": BATCH}).rowcount
        pruned += deleted
        if deleted < BATCH:
            break
    return pruned
