"""Queue `events`: applying what is stored in webhook_events."""

import structlog

from pipeline.drain import Drain, DrainSettings
from pipeline.events import queue
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import RuleSettings, StripeModeSettings, TwilioAccountSettings, load
from tasks import follow_ups
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="events.drain")
def drain() -> None:
    """Apply what is due. Sent by a receiver that has stored something, and by a drain that left something."""
    stripe = load(StripeModeSettings)
    settings = DrainSettings(
        twilio_account_sid=load(TwilioAccountSettings).twilio_account_sid,
        livemode=stripe.livemode,
        bill_child_legs=load(RuleSettings).bill_child_legs,
        meter_event_name=stripe.stripe_meter_event_name,
    )
    result = Drain(engine(), settings, business_clock()).run()
    if result.counts:
        log.info("drained", **result.counts, more=result.more)
    follow_ups.send(result.follow_ups | ({"events.drain"} if result.more else set()))


@app.task(name="events.sweep")
def sweep() -> None:
    """Apply what no nudge led to: the one retry clock. What it finds overdue is itself a signal."""
    with engine().begin() as connection:
        linked = queue.replay_orphans(connection)
        overdue = queue.overdue(connection)
    if linked or overdue:
        log.warning("swept", overdue=overdue, orphans_linked=linked)
    drain()
