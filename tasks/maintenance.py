"""Queue `maintenance`: what keeps the database small."""

import structlog

from pipeline import pruning
from pipeline.clock import business_clock
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="maintenance.prune")
def prune() -> None:
    """Delete raw events that nothing needs any more."""
    pruned = pruning.prune(engine(), business_clock().now())
    if pruned:
        log.info("pruned", events=pruned)
