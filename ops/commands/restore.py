"""`altiora restore`: what has to be done after a backup was restored."""

import logging
from datetime import timedelta

import typer

from ops.commands.audit import Reason, record
from ops.commands.database import choose_settings, engine
from ops.commands.output import AsJson, WrongError, print_json, say, warn
from pipeline.catch_up import CatchUp, CatchUpError
from pipeline.drain import DrainSettings
from pipeline.providers.stripe_api import StripeApi, StripeApiError
from pipeline.providers.twilio_api import TwilioApi, TwilioApiError
from pipeline.shared import logs
from pipeline.shared.clock import business_clock
from pipeline.shared.settings import DatabaseSettings, RuleSettings, StripeSettings, TwilioSettings, load

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What has to be done after a backup was restored.")


@app.callback()
def _restore() -> None:
    """What has to be done after a backup was restored."""


@app.command("catch-up")
def catch_up(reason: Reason = None, as_json: AsJson = False) -> None:
    """Tell a restored database what it has forgotten, from Stripe and Twilio; until then nothing is sent or closed.

    It waits until Stripe's sums have settled (an hour), and can be started again whenever it has stopped.
    """
    logs.configure(logging.WARNING)
    chosen = choose_settings(DatabaseSettings, RuleSettings, StripeSettings, TwilioSettings)
    stripe = load(StripeSettings, chosen)
    twilio = load(TwilioSettings, chosen)
    with engine(chosen) as made:
        try:
            done = CatchUp(
                made,
                StripeApi(stripe),
                TwilioApi(twilio),
                business_clock(chosen),
                DrainSettings(
                    twilio_account_sid=twilio.twilio_account_sid,
                    livemode=stripe.livemode,
                    bill_child_legs=load(RuleSettings, chosen).bill_child_legs,
                    meter_event_name=stripe.stripe_meter_event_name,
                ),
                timedelta(seconds=stripe.stripe_settling_seconds),
                warn if as_json else say,
            ).run()
        except (CatchUpError, StripeApiError, TwilioApiError, LookupError) as error:
            raise WrongError(
                f"not caught up yet, so nothing is sent or closed: {error}; run `altiora restore catch-up` again"
            ) from error
        figures = {
            "calls": done.calls,
            "voided": done.voided,
            "records": done.records,
            "minutes": done.minutes,
            "changes": done.changes,
            "forgotten_businesses": list(done.forgotten),
        }
        with made.begin() as connection:
            record(connection, "restore catch-up", "all", reason=reason, detail=figures)
    if as_json:
        print_json(figures)
        return
    if done.changes:
        say(f"{done.changes} subscription changes of before the backup are for a person: altiora drifts list")
    if done.forgotten:
        numbers = ", ".join(map(str, done.forgotten))
        say(f"Stripe's customers name businesses that are not here: {numbers}. Add each anew, then link it:")
        say("  altiora business add … and altiora business link-stripe ID cus_…")
    say("Caught up: everything goes on. Compare once more with `altiora reconcile`.")
