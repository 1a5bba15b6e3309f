"""Group commit: who is told what, and when, whatever happens to a neighbour, the database or the sender."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url, text

from db import migrate
from db.engine import make_engine
from ops.processes import embedded
from pipeline.events.outcomes import EventState
from receiver.receive import StripeWebhook, receive
from receiver.store import Event, NotStoredError, Store
from tests.worlds.superuser import superuser
from tests.worlds.webhooks import STRIPE_SECRET, sign_stripe, stripe_event


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def event(key: str, provider: str = "stripe", body: bytes = b"{}") -> Event:
    return Event(provider, key, "plan.created", EventState.PENDING, None, datetime.now(UTC), "application/json", body)


class Nudges:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@contextlib.asynccontextmanager
async def opened(url: str, nudges: Nudges | None = None) -> AsyncIterator[Store]:
    store = Store(libpq(url), nudges or Nudges())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def put_all(store: Store, events: list[Event]) -> list[BaseException | None]:
    """Put them all at once; what each was told."""
    return await asyncio.gather(*(store.put(one) for one in events), return_exceptions=True)


@pytest.fixture
def keys(engine):
    def read() -> set[str]:
        with engine.connect() as connection:
            return set(connection.execute(text("select key from webhook_events")).scalars())

    return read


def test_events_that_come_together_are_committed_together(database_url, keys):
    nudges = Nudges()

    async def run() -> None:
        async with opened(database_url, nudges) as store:
            assert await put_all(store, [event(f"evt_{number}") for number in range(300)]) == [None] * 300

    asyncio.run(run())
    assert len(keys()) == 300
    assert 1 <= nudges.count <= 10


def test_when_put_returns_the_event_is_committed(database_url, keys):
    async def run() -> None:
        async with opened(database_url) as store:
            for number in range(5):
                await store.put(event(f"evt_{number}"))
                assert f"evt_{number}" in keys()

    asyncio.run(run())


def test_what_was_stored_before_is_no_error_and_no_news(database_url, keys):
    nudges = Nudges()

    async def run() -> None:
        async with opened(database_url, nudges) as store:
            await store.put(event("evt_1"))
            assert await put_all(store, [event("evt_1")] * 20) == [None] * 20

    asyncio.run(run())
    assert keys() == {"evt_1"}
    assert nudges.count == 1


def test_89_what_is_dead_and_sent_again_is_wished_back_and_changed_by_no_receiver(database_url, engine):
    nudges = Nudges()

    async def run() -> None:
        async with opened(database_url, nudges) as store:
            await put_all(store, [event(key) for key in ("evt_dead", "evt_done", "evt_pending")])
            with engine.begin() as connection:
                connection.exec_driver_sql(
                    "update webhook_events set state = w.state, reason = 'failed: X' from (values"
                    " ('evt_dead', 'dead'), ('evt_done', 'processed')) as w (key, state)"
                    " where webhook_events.key = w.key"
                )
            for _ in range(2):
                told = await put_all(store, [event(key) for key in ("evt_dead", "evt_done", "evt_pending", "evt_new")])
                assert told == [None] * 4

    asyncio.run(run())
    with engine.connect() as connection:
        states = dict(connection.exec_driver_sql("select key, state from webhook_events").all())
        wished = connection.exec_driver_sql(
            "select key from webhook_events join resent_events on event_id = id"
        ).scalars()
        assert list(wished) == ["evt_dead"]
    assert states == {"evt_dead": "dead", "evt_done": "processed", "evt_pending": "pending", "evt_new": "pending"}


def test_89_the_workers_are_told_of_a_wish(database_url, engine):
    nudges = Nudges()

    async def run() -> None:
        async with opened(database_url, nudges) as store:
            await store.put(event("evt_1"))
            with engine.begin() as connection:
                connection.exec_driver_sql("update webhook_events set state = 'dead', reason = 'failed: X'")
            before = nudges.count
            await store.put(event("evt_1"))
            assert nudges.count == before + 1

    asyncio.run(run())


def test_an_event_that_the_database_refuses_is_refused_alone(database_url, keys):
    async def run() -> list[BaseException | None]:
        group = [event(f"evt_{number:02}") for number in range(64)]
        group[20] = event("evt_20", provider="nobody")  # breaks a constraint
        group[40] = event("evt_\0")  # can't even be sent
        async with opened(database_url) as store:
            return await put_all(store, group)

    told = asyncio.run(run())
    assert [index for index, error in enumerate(told) if error is not None] == [20, 40]
    assert all(isinstance(told[index], NotStoredError) for index in (20, 40))
    assert keys() == {f"evt_{number:02}" for number in range(64)} - {"evt_20", "evt_40"}


def test_a_sender_that_goes_away_cancels_nothing(database_url, keys):
    async def run() -> None:
        async with opened(database_url) as store:
            waiting = [asyncio.create_task(store.put(event(f"evt_{number}"))) for number in range(30)]
            await asyncio.sleep(0)
            for task in waiting[::2]:
                task.cancel()
            assert await asyncio.gather(*waiting[1::2]) == [None] * 15

    asyncio.run(run())
    assert len(keys()) == 30


def test_closing_stores_what_waits_and_takes_nothing_more(database_url, keys):
    async def run() -> None:
        async with opened(database_url) as store:
            waiting = [asyncio.create_task(store.put(event(f"evt_{number}"))) for number in range(300)]
            await asyncio.sleep(0)
        assert await asyncio.gather(*waiting) == [None] * 300
        with pytest.raises(NotStoredError, match="closing"):
            await store.put(event("evt_late"))

    asyncio.run(run())
    assert len(keys()) == 300


def test_two_receivers_with_the_same_events_in_opposite_order_never_deadlock(database_url, engine, keys):
    async def run() -> None:
        async with opened(database_url) as one, opened(database_url) as other:
            for turn in range(10):
                events = [event(f"evt_{turn}_{number}") for number in range(200)]
                for told in await asyncio.gather(put_all(one, events), put_all(other, events[::-1])):
                    assert told == [None] * 200

    asyncio.run(run())
    assert len(keys()) == 2000
    with engine.connect() as connection:
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        assert connection.execute(text(deadlocks)).scalar_one() == 0


def test_connections_that_broke_are_replaced_without_losing_an_event(database_url, engine, keys):
    async def run() -> None:
        async with opened(database_url) as store:
            await put_all(store, [event(f"evt_{number}") for number in range(50)])
            with superuser(engine) as connection:
                broken = connection.execute(
                    text(
                        "select count(pg_terminate_backend(pid)) from pg_stat_activity"
                        " where application_name = 'altiora-receiver' and datname = current_database()"
                    )
                ).scalar_one()
            assert broken == 2
            assert await put_all(store, [event(f"evt_{number}") for number in range(50, 100)]) == [None] * 50

    asyncio.run(run())
    assert len(keys()) == 100


def test_83_connections_to_a_node_that_became_read_only_are_thrown_away(database_url, keys):
    async def run() -> None:
        async with opened(database_url) as store:
            await store.put(event("evt_before"))
            async with store._pool.connection() as one, store._pool.connection() as other:
                for connection in (one, other):
                    await connection.execute("set default_transaction_read_only = on")
            assert await put_all(store, [event(f"evt_{number}") for number in range(20)]) == [None] * 20

    asyncio.run(run())
    assert len(keys()) == 21


def test_a_database_that_is_away_or_hangs_is_told_and_survived(processes):
    url = embedded.start_postgres(processes)
    migrate.upgrade(url)
    server = processes.pid("postgres")
    engine = make_engine(url)

    def hang(signal_number: signal.Signals) -> None:
        """The server and all its processes."""
        for pid in [server, *embedded_children(server)]:
            os.kill(pid, signal_number)

    async def run() -> None:
        async with asyncio.timeout(60), opened(url) as store:
            await store.put(event("evt_before"))
            hang(signal.SIGSTOP)
            told = await put_all(store, [event(f"evt_hanging_{number}") for number in range(10)])
            assert all(isinstance(error, NotStoredError) for error in told)
            hang(signal.SIGCONT)
            await put_until_stored(store, "evt_after_hanging")
            processes.stop("postgres")
            with pytest.raises(NotStoredError):
                await store.put(event("evt_away"))
            embedded.start_postgres(processes)
            await put_until_stored(store, "evt_back")

    asyncio.run(run())
    with engine.connect() as connection:
        stored = set(connection.execute(text("select key from webhook_events")).scalars())
    engine.dispose()
    assert {"evt_before", "evt_after_hanging", "evt_back"} <= stored


async def put_until_stored(store: Store, key: str) -> None:
    """As a sender that tries again."""
    while True:
        try:
            return await store.put(event(key))
        except NotStoredError:
            await asyncio.sleep(0.1)


def embedded_children(server: int) -> list[int]:
    with open(f"/proc/{server}/task/{server}/children", encoding="ascii") as children:  # noqa: PTH123 - a file of the kernel's
        return [int(pid) for pid in children.read().split()]


def test_somebody_elses_web_application_can_receive(database_url, keys):
    """Nothing of ours but ``receive``, a webhook and a store: headers, query and body as any framework has them."""

    async def run() -> None:
        webhook = StripeWebhook([SecretStr(STRIPE_SECRET)])
        body = stripe_event("theirs")
        headers = {"content-type": "application/json", "stripe-signature": sign_stripe(body)}
        now = datetime.now(UTC)
        async with opened(database_url) as store:
            assert await receive(webhook, store, headers, "", body, now) == (200, "")
            assert (await receive(webhook, store, headers, "", body + b" ", now)).status == 403
            assert (await receive(webhook, store, {}, "", body, now)).status == 415
            assert (await receive(webhook, store, headers, "", b"x" * 1_000_001, now)).status == 413
        assert (await receive(webhook, store, headers, "", body, now)).status == 503

    asyncio.run(run())
    assert keys() == {"evt_theirs"}
