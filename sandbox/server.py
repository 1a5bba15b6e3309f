"""The sandbox as one process: both stand-ins on their ports, loopback only, and the webhooks that they send."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox.control import Control
from sandbox.delivery import Delivery
from sandbox.faults import Faults, HangUpProtocol
from sandbox.mailbox import Mailbox
from sandbox.stripe.stand_in import StripeSandbox
from sandbox.timeline import Timeline
from sandbox.twilio.stand_in import TwilioSandbox

HOST = "127.0.0.1"

#: Seconds that requests in progress are given when the process is told to stop.
GRACE = 3

#: The rates of faults (see Faults) that go by a name.
PRESETS: dict[str, dict[str, float]] = {
    "none": {},
    "default": {
        "rate_429": 0.01,
        "rate_500": 0.01,
        "rate_lost_answer": 0.01,
        "duplicate": 0.05,
        "shuffle": 0.10,
        "drop_callback": 0.01,
    },
    "heavy": {
        "rate_429": 0.05,
        "rate_500": 0.05,
        "rate_lost_answer": 0.05,
        "rate_slow": 0.02,
        "duplicate": 0.25,
        "shuffle": 0.30,
        "drop_callback": 0.05,
    },
}


@dataclass(frozen=True)
class Config:
    """How the sandbox is started. Port 0 means any free one; the line printed at the start names it.

    ``target`` is where the receiver listens, ``public_url`` what Twilio signs (the target if it is empty). With a
    ``clock_file`` business time begins at ``start`` and moves by ``POST /_sandbox/advance`` alone; without one it is
    the machine's. ``faults`` is a name of PRESETS. With a ``mail_port`` mails are taken there, and shown.
    """

    stripe_port: int
    twilio_port: int
    target: str
    stripe_webhook_secret: str
    twilio_account_sid: str
    twilio_auth_token: str
    public_url: str = ""
    start: datetime | None = None
    clock_file: Path | None = None
    seed: int = 1
    faults: str = "none"
    mail_port: int | None = None


def run(config: Config) -> None:
    """Serve until SIGTERM or SIGINT, and then return. Prints one line of JSON, the addresses, when it is ready.

    Raises OSError when a port is taken and ValueError for a preset that does not exist.
    """
    if config.faults not in PRESETS:
        raise ValueError(f"{config.faults}: the faults are one of {', '.join(PRESETS)}")
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, _nothing)  # uvicorn raises the signal again after its shutdown; it has done its work then
    asyncio.run(_serve(config))


async def _serve(config: Config) -> None:
    faults = Faults(random=Random(config.seed))
    faults.set_rates(**PRESETS[config.faults])
    timeline = Timeline(config.start, config.clock_file)
    delivery = Delivery(
        faults,
        config.stripe_webhook_secret,
        config.twilio_auth_token,
        config.public_url or config.target,
        config.target,
    )

    async def deliver(event: dict[str, Any]) -> None:
        def delivered() -> None:
            if event["object"] == "event":  # Stripe says of snapshots whether they were delivered
                stripe.mark_delivered(event["id"])

        await delivery.stripe(event, delivered)

    stripe = StripeSandbox(timeline, deliver, faults)
    twilio = TwilioSandbox(
        timeline, delivery, faults, config.twilio_account_sid, config.twilio_auth_token, seed=config.seed
    )
    mailbox = Mailbox()
    smtp = None if config.mail_port is None else await mailbox.listen(HOST, config.mail_port)
    sockets = [_listen(config.stripe_port), _listen(config.twilio_port)]
    stripe_port, twilio_port = (listening.getsockname()[1] for listening in sockets)
    control = [*Control(timeline, delivery, twilio).routes, *mailbox.routes]
    doors = _Doors(control, {stripe_port: stripe.app, twilio_port: twilio.app})
    settings = uvicorn.Config(
        doors,
        http=HangUpProtocol,
        lifespan="off",
        log_level="warning",
        access_log=False,
        date_header=False,  # the stand-in for Stripe dates its answers by its business clock
        timeout_keep_alive=60,
        timeout_graceful_shutdown=GRACE,
    )
    server = _Server(
        settings, {"stripe": f"http://{HOST}:{stripe_port}", "twilio": f"http://{HOST}:{twilio_port}"}, delivery
    )
    delivery.start()
    following = None if timeline.owns_time else asyncio.create_task(timeline.follow())
    if following is not None:
        following.add_done_callback(lambda _: setattr(server, "should_exit", True))  # time that broke ends the rest
    try:
        await server.serve(sockets=sockets)
    finally:
        if smtp is not None:
            smtp.close()
        if following is not None and not following.cancel():
            following.result()


class _Doors:
    """One ASGI app for both ports: the control routes on each, all others to the stand-in whose port it is."""

    def __init__(self, control: Sequence[Route], by_port: dict[int, ASGIApp]) -> None:
        self._control = Starlette(routes=control)
        self._control_paths = {route.path for route in control}
        self._by_port = by_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._control if scope["path"] in self._control_paths else self._by_port[scope["server"][1]]
        await app(scope, receive, send)


class _Server(uvicorn.Server):
    """uvicorn, which says when it listens, and stops the webhooks before the requests that wait for them."""

    def __init__(self, config: uvicorn.Config, addresses: dict[str, str], delivery: Delivery) -> None:
        super().__init__(config)
        self._addresses = addresses
        self._delivery = delivery

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(json.dumps(self._addresses) + "\n")
        sys.stdout.flush()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._delivery.stop()
        await super().shutdown(sockets)


def _listen(port: int) -> socket.socket:
    # The protocol is named because asyncio switches Nagle's algorithm off only for sockets that say they are TCP;
    # with it on, every answer waits 40 ms for the client's acknowledgement.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, port))
    return listening


def _nothing(*_: object) -> None:
    """Handle a signal that uvicorn has acted on."""
