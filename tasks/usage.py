"""Queue `usage`: what is checked about usage records, and who may take calls."""

import structlog

from pipeline.businesses import service_status
from pipeline.checking import record_sums as resuming
from pipeline.shared.clock import business_clock
from pipeline.usage import unbilled_plans
from tasks import follow_ups
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="usage.settle-service")
def settle_service() -> None:
    """Suspend the businesses whose days of grace have passed, by the business clock, and see who is not billed."""
    now = business_clock().now()
    counts = service_status.settle_due_services(engine(), now) + unbilled_plans.check_all_billing(engine(), now)
    if counts:
        log.info("settled-service", **counts)
        follow_ups.send({"stripe.send-subscription-changes"})


@app.task(name="usage.resum")
def resum() -> None:
    """Compare every record with the sum of its calls, adjustments and pushes."""
    counts = resuming.check_sums(engine(), business_clock().now())
    (log.error if counts["differ"] or counts["unchecked"] else log.info)("resummed", **counts)
