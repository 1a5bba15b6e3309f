"""Yardstick: the receiver with one insert for each request. All else is the receiver's own, the nudge too."""

import psycopg

from pipeline.shared.clock import business_clock
from pipeline.shared.settings import (
    BrokerSettings,
    DatabaseSettings,
    PublicSettings,
    StripeWebhookSettings,
    TwilioSettings,
    load,
)
from receiver.app import App
from receiver.health import Health
from receiver.pool import Pool
from receiver.receive import TWILIO_PATH, StripeWebhook, TwilioWebhook, Webhook
from receiver.store import Event, NotStoredError, Store
from tasks.nudge import Nudge

#: Connections, so that many requests are committed side by side.
CONNECTIONS = 8

_INSERT = b"""
insert into webhook_events (provider, key, type, state, reason, received_at, content_type, body)
values (%s, %s, %s, %s, %s, %s, %s, %b)
on conflict (provider, key) do nothing
"""


class SingleStore(Store):
    """Stores each event in a transaction of its own."""

    def __init__(self, libpq_url: str, nudge: Nudge) -> None:
        super().__init__(libpq_url, lambda: None)
        self._nudge = nudge
        self._connections = Pool(libpq_url, CONNECTIONS)

    async def open(self) -> None:
        await self._connections.open()

    async def close(self) -> None:
        await self._connections.close()

    async def put(self, event: Event) -> None:
        try:
            async with self._connections.connection() as connection:
                inserted = await connection.execute(_INSERT, event)
        except psycopg.Error as error:
            raise NotStoredError(type(error).__name__) from error
        if inserted.rowcount:
            self._nudge.send("events.drain")


def make() -> App:
    """The receiver, but for its store."""
    database = load(DatabaseSettings).libpq_url
    nudge = Nudge(load(BrokerSettings).broker_url.get_secret_value())
    webhooks: dict[str, Webhook] = {
        "/webhooks/stripe": StripeWebhook.from_settings(load(StripeWebhookSettings)),
        TWILIO_PATH: TwilioWebhook.from_settings(load(PublicSettings), load(TwilioSettings)),
    }
    return App(webhooks, SingleStore(database, nudge), Health(database), business_clock())
