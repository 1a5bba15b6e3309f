"""Queue `maintenance`: what keeps the database small."""

import structlog

from accounts import attempt_limits
from pipeline.events import retention
from pipeline.shared.clock import business_clock
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="maintenance.prune")
def prune() -> None:
    """Delete raw events that nothing needs any more."""
    pruned = retention.prune_events(engine(), business_clock().now())
    with engine().begin() as connection:
        attempt_limits.forget_the_old(connection)
    if pruned:
        log.info("pruned", events=pruned)
