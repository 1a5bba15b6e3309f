"""`altiora sandbox`: stand-ins for Stripe and Twilio, on this machine."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from ops.commands.business_argument import instant
from ops.commands.output import WrongError
from pipeline.shared.settings import PublicSettings, StripeWebhookSettings, TwilioSettings, load


def sandbox(
    stripe_port: Annotated[int, typer.Option(min=1, max=65535, help="Where Stripe's API is.")] = 12111,
    twilio_port: Annotated[int, typer.Option(min=1, max=65535, help="Where Twilio's API is.")] = 12112,
    mail_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Where mails are taken; shown at /_sandbox/mail.")
    ] = None,
    target: Annotated[str, typer.Option(help="The receiver; by default at ALTIORA_PUBLIC_URL.")] = "",
    clock_file: Annotated[
        Path | None, typer.Option(help="Write business time to this file, and move it only when told to.")
    ] = None,
    start: Annotated[
        datetime | None, typer.Option(parser=instant, metavar="TIME", help="The business time to begin with.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the faults and of simulated traffic.")] = 1,
    faults: Annotated[str, typer.Option(help="none, default or heavy.")] = "none",
) -> None:
    """Stand in for Stripe and Twilio: their APIs on two ports of 127.0.0.1, and signed webhooks to the receiver."""
    secret = load(StripeWebhookSettings).stripe_webhook_secret[0].get_secret_value()
    twilio = load(TwilioSettings)
    public_url = load(PublicSettings).public_url
    from pipeline.shared import logs  # noqa: PLC0415 - for processes that go on running
    from sandbox.server import PRESETS, Config, run  # noqa: PLC0415 - what only the stand-ins need may not be there

    if faults not in PRESETS:
        raise typer.BadParameter(f"one of {', '.join(PRESETS)}", param_hint="--faults")
    logs.configure()
    config = Config(
        stripe_port=stripe_port,
        twilio_port=twilio_port,
        target=target or public_url,
        stripe_webhook_secret=secret,
        twilio_account_sid=twilio.twilio_account_sid,
        twilio_auth_token=twilio.twilio_auth_token[0].get_secret_value(),
        public_url=public_url,
        start=start,
        clock_file=clock_file,
        seed=seed,
        faults=faults,
        mail_port=mail_port,
    )
    try:
        run(config)
    except OSError as error:
        ports = " or ".join(str(port) for port in (stripe_port, twilio_port, mail_port) if port is not None)
        raise WrongError(f"port {ports} can't be opened: {error}") from error
