"""Queue `stripe`: what is told to Stripe, and what is asked of it."""

from datetime import timedelta

import structlog

from pipeline.credits import credit_sending
from pipeline.credits.credit_states import CreditState
from pipeline.meter import push_planning, push_sending, sum_comparison, unknown_pushes
from pipeline.meter.push_states import PushState
from pipeline.providers.stripe_api import StripeApi, StripeApiError
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import StripeSettings, load
from pipeline.stripe_mirror import missed_events
from pipeline.stripe_mirror.fetching import StripeFetcher
from pipeline.subscription_changes import sending
from pipeline.subscription_changes.change_states import ChangeState
from tasks import follow_ups
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="stripe.plan-meter-pushes")
def plan_meter_pushes() -> None:
    """Plan a push for every business that has minutes which Stripe was not told."""
    counts = push_planning.plan_due_pushes(
        engine(), load(StripeSettings).stripe_meter_event_name, business_clock().now()
    )
    if counts:
        log.info("planned-meter-pushes", **counts)
    if counts[PushState.PLANNED]:
        follow_ups.send({"stripe.send-meter-pushes"})


@app.task(name="stripe.send-meter-pushes")
def send_meter_pushes() -> None:
    """Send the meter pushes that are due."""
    counts = push_sending.send_due_pushes(engine(), StripeApi(load(StripeSettings)), business_clock().now())
    if counts:
        log.info("sent-meter-pushes", **counts)


@app.task(name="stripe.verify-meter-pushes")
def verify_meter_pushes() -> None:
    """Let Stripe's sums tell what became of pushes without an answer, and of those that a report put in doubt."""
    settings = load(StripeSettings)
    settling = timedelta(seconds=settings.stripe_settling_seconds)
    counts = unknown_pushes.verify_due(engine(), StripeApi(settings), business_clock().now(), settling)
    if counts:
        log.info("verified-meter-pushes", **counts)
    if counts[PushState.VOID]:
        follow_ups.send({"stripe.plan-meter-pushes"})


@app.task(name="stripe.compare-sums")
def compare_sums() -> None:
    """Compare Stripe's sums with what it was sent."""
    settings = load(StripeSettings)
    settling = timedelta(seconds=settings.stripe_settling_seconds)
    counts = sum_comparison.compare_due_records(engine(), StripeApi(settings), business_clock().now(), settling)
    if counts:
        (log.error if counts["differ"] else log.info)("compared-sums", **counts)


@app.task(name="stripe.send-subscription-changes")
def send_subscription_changes() -> None:
    """Send the subscription changes that are due."""
    settings = load(StripeSettings)
    counts = sending.send_due_changes(
        engine(), StripeApi(settings), business_clock().now(), event_name=settings.stripe_meter_event_name
    )
    if counts:
        log.info("sent-subscription-changes", **counts)
    if counts[ChangeState.DONE]:
        follow_ups.send({"stripe.refresh"})


@app.task(name="stripe.send-credits")
def send_credits() -> None:
    """Send the credits that are due."""
    counts = credit_sending.send_due_credits(engine(), StripeApi(load(StripeSettings)), business_clock().now())
    if counts:
        log.info("sent-credits", **counts)
    if counts[CreditState.DONE]:
        follow_ups.send({"stripe.refresh"})


@app.task(name="stripe.recover-events")
def recover_events() -> None:
    """Store the events that were never delivered."""
    try:
        stored = missed_events.recover_events(engine(), StripeApi(load(StripeSettings)), business_clock().now())
    except StripeApiError as error:
        log.warning("recovering-failed", error=str(error), next="the next tick tries again")
        return
    if stored:
        follow_ups.send({"events.drain"})


@app.task(name="stripe.sweep-subscriptions")
def sweep_subscriptions() -> None:
    """Have the subscriptions fetched that are not as they are mirrored."""
    try:
        settings = load(StripeSettings)
        different = missed_events.sweep_subscriptions(engine(), StripeApi(settings), settings.stripe_meter_event_name)
    except StripeApiError as error:
        log.warning("sweeping-failed", error=str(error), next="the next night tries again")
        return
    if different:
        follow_ups.send({"stripe.refresh"})


@app.task(name="stripe.refresh")
def refresh() -> None:
    """Fetch the objects that are stale or were never known, and apply them to the mirror."""
    settings = load(StripeSettings)
    fetcher = StripeFetcher(engine(), StripeApi(settings), business_clock(), settings.stripe_meter_event_name)
    counts = fetcher.run()
    if counts:
        log.info("refreshed", **counts)
    follow_ups.send(fetcher.follow_ups)
