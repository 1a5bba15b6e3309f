"""Queue `maintenance`: what is asked of Twilio. Slow answers there must not delay what is told to Stripe."""

import structlog

from pipeline.businesses import free_numbers
from pipeline.calls import call_listing, daily_totals
from pipeline.calls.call_fetching import CallFetcher
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import TwilioSettings, load
from tasks import follow_ups
from tasks.app import app
from tasks.engine import engine

log = structlog.get_logger()


@app.task(name="twilio.fetch-calls")
def fetch_calls() -> None:
    """Fetch the calls that callbacks told too little of, or contradictory things."""
    fetcher = CallFetcher(engine(), TwilioApi(load(TwilioSettings)), business_clock())
    counts = fetcher.run()
    if counts:
        log.info("fetched-calls", **counts)
    follow_ups.send(fetcher.follow_ups)


@app.task(name="twilio.list-calls")
def list_calls() -> None:
    """List Twilio's calls if it is time to, and store what no callback told."""
    try:
        stored = call_listing.list_due(engine(), TwilioApi(load(TwilioSettings)), business_clock())
    except TwilioApiError as error:
        log.warning("listing-failed", error=str(error), next="the next tick tries again")
        return
    if stored:
        follow_ups.send({"events.drain"})


@app.task(name="twilio.list-numbers")
def list_numbers() -> None:
    """Read which numbers our Twilio account has: businesses can have those that nobody holds."""
    try:
        counts = free_numbers.note_account(engine(), TwilioApi(load(TwilioSettings)).list_numbers())
    except TwilioApiError as error:
        log.warning("listing-numbers-failed", error=str(error), next="the next tick tries again")
        return
    if any(counts.values()):
        log.info("listed-numbers", **counts)


@app.task(name="twilio.compare-days")
def compare_days() -> None:
    """Compare Twilio's totals of the days that are due with the calls that we hold."""
    try:
        counts = daily_totals.compare_due_days(engine(), TwilioApi(load(TwilioSettings)), business_clock().now())
    except TwilioApiError as error:
        log.warning("comparing-days-failed", error=str(error), next="the next tick tries again")
        return
    if counts:
        (log.error if counts["differ"] else log.info)("compared-days", **counts)
    if counts["stored"]:
        follow_ups.send({"events.drain"})
