"""`altiora up`: everything on one machine, servers and stand-ins too, in real time."""

import contextlib
import secrets
import socket
import time
from typing import Annotated

import httpx
import typer

from db import roles
from ops.commands.output import WrongError, say
from ops.demo.stand_ins import FREE_NUMBERS
from ops.demo.world import PLANS
from ops.processes import embedded, environment, own_database, recipes
from ops.processes.supervisor import Supervisor, SupervisorError, free_port
from tasks.nudge import Nudge

#: Lines of its log that are shown of a process that ended.
_LOG_LINES = 15

Port = Annotated[int, typer.Option(min=1, max=65535)]


def up(port: Port = 8000, api_port: Port = 8001, flower_port: Port = 5555) -> None:
    """Run every process on this machine, with servers and stand-ins of their own, until Ctrl-C. Nothing is kept.

    --port is the receiver's, --api-port the API's. The stand-ins follow real time.
    """
    for wanted in (port, api_port, flower_port):
        _see_that_it_is_free(wanted)
    try:
        with contextlib.suppress(KeyboardInterrupt), contextlib.ExitStack() as stack:
            _run(stack, port, api_port, flower_port)
    except (environment.RunningError, embedded.EmbeddedError, SupervisorError) as error:
        raise WrongError(str(error)) from error


def _see_that_it_is_free(port: int) -> None:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise WrongError(f"port {port} of 127.0.0.1 can't be had ({error.strerror}); choose another one") from error


def _run(stack: contextlib.ExitStack, port: int, api_port: int, flower_port: int) -> None:
    say("Starting; this takes some seconds.")
    servers = stack.enter_context(embedded.servers())
    own_database.prepare(servers.database_url)
    supervisor = stack.enter_context(Supervisor())
    stripe_port, twilio_port, mail_port = free_port(), free_port(), free_port()
    settings = recipes.stand_in_settings(
        roles.address_of(servers.database_url, roles.WORKER),
        servers.broker_url,
        receiver=port,
        stripe=stripe_port,
        twilio=twilio_port,
        api=api_port,
        mail=mail_port,
    )
    file = stack.enter_context(environment.published(settings))
    password = secrets.token_urlsafe(9)
    running = (
        recipes.receiver(port),
        recipes.api(api_port),
        recipes.sandbox(stripe_port, twilio_port, "", "--mail-port", str(mail_port)),
        recipes.worker(),
        recipes.beat(supervisor.folder / "beat-schedule"),
        recipes.flower(flower_port, f"altiora:{password}"),
    )
    for process in running:
        process.start(supervisor, settings)
    _set_up_stripe(settings)
    _buy_numbers(settings)
    say(f"""Running, until Ctrl-C:
  receiver   {settings["ALTIORA_PUBLIC_URL"]}
  API        {settings["ALTIORA_DASHBOARD_URL"]}/v1  (to read and to try: /v1/docs)
  mailbox    {settings["ALTIORA_STRIPE_API_BASE"]}/_sandbox/mail  (a stand-in: no mail leaves this machine)
  Flower     http://127.0.0.1:{flower_port}  user altiora, password {password}
  Stripe     {settings["ALTIORA_STRIPE_API_BASE"]}  (a stand-in, with a meter and the plans' prices)
  Twilio     {settings["ALTIORA_TWILIO_API_BASE"]}  (a stand-in)
  numbers    {FREE_NUMBERS[0]} to {FREE_NUMBERS[-1][-2:]} are there for businesses to take
  logs       {supervisor.folder}/*.log
  settings   {file}  (commands in another terminal find them there)
In another terminal:
  altiora business add "Corner Bakery" --plan free --time-zone Europe/London
  altiora business add-number 1 +15550000001
  curl {settings["ALTIORA_TWILIO_API_BASE"]}/_sandbox/twilio/calls -d '{{"number": "+15550000001", "seconds": 3}}'
  altiora usage 1
  altiora user add --staff administrator you@example.com""")
    while supervisor.alive():
        time.sleep(1)
    for process in running:
        if not supervisor.alive(process.name):
            lines = supervisor.log(process.name).read_text(errors="replace").splitlines()[-_LOG_LINES:]
            raise WrongError("\n".join([f"{process.name} has ended; the end of its log:", *lines]))


def _buy_numbers(settings: dict[str, str]) -> None:
    """Some numbers of the Twilio account that nobody holds; the worker reads at once that they are there."""
    with httpx.Client(base_url=settings["ALTIORA_TWILIO_API_BASE"], timeout=10) as client:
        for number in FREE_NUMBERS:
            client.post("/_sandbox/twilio/numbers", json={"number": number}).raise_for_status()
    nudge = Nudge(settings["ALTIORA_BROKER_URL"])
    nudge.send("twilio.list-numbers")
    nudge.close()


def _set_up_stripe(settings: dict[str, str]) -> None:
    """What somebody does once in a Stripe account: a meter, two prices for each plan, the webhook endpoint."""
    with httpx.Client(base_url=f"{settings['ALTIORA_STRIPE_API_BASE']}/_sandbox/stripe", timeout=10) as client:

        def make(what: str, **about: object) -> None:
            client.post(what, json=about).raise_for_status()

        make("/meters", event_name=settings["ALTIORA_STRIPE_METER_EVENT_NAME"])
        for code, plan in PLANS.items():
            if plan.overage_cents is not None:
                make(
                    "/plan-prices",
                    plan=code,
                    flat_cents=plan.flat_cents,
                    included_minutes=plan.included,
                    overage_cents_decimal=plan.overage_cents,
                )
        make("/webhook-endpoints", url=f"{settings['ALTIORA_PUBLIC_URL']}/webhooks/stripe", enabled_events=["*"])
