"""Queue `usage`: what is checked about usage records."""

import structlog

from pipeline import resum as resuming
from pipeline.clock import business_clock
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="usage.resum")
def resum() -> None:
    """Compare every record with the sum of its calls, adjustments and pushes."""
    counts = resuming.resum(engine(), business_clock().now())
    (log.error if counts["differ"] or counts["unchecked"] else log.info)("resummed", **counts)
