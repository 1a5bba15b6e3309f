"""Queue `maintenance`: what keeps the database small."""

import structlog

from accounts.retention import prune_accounts
from pipeline.events import retention
from pipeline.shared.clock import business_clock
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="maintenance.prune")
def prune() -> None:
    """Delete raw events that nothing needs any more."""
    pruned = retention.prune_events(engine(), business_clock().now())
    of_accounts = prune_accounts(engine())
    if pruned or of_accounts:
        log.info("pruned", events=pruned, of_accounts=of_accounts)
