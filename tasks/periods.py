"""Queue `usage`: closing periods. Sent by beat, and when Stripe has drafted an invoice."""

import structlog

from pipeline.closing import period_close
from pipeline.shared.clock import business_clock
from tasks import follow_ups
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="periods.close-due")
def close_due() -> None:
    """Close what is due, by the business clock."""
    counts = period_close.close_due(engine(), business_clock().now())
    if counts:
        log.info("closed", **counts)
    if counts["closing"]:
        follow_ups.send({"stripe.plan-meter-pushes"})
