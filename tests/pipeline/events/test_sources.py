"""Heartbeats: who was heard when, and which silence is longer than usual."""

from datetime import timedelta

import pytest

from pipeline.events import heartbeats
from tests.worlds.world import World, at


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def read(world: World) -> dict[str, heartbeats.Source]:
    with world.engine.connect() as connection:
        return {source.name: source for source in heartbeats.read_heartbeats(connection, world.now)}


def silence(world: World, name: str, **length: int) -> None:
    """Let a source have been silent for so long."""
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "update sources set heard_machine_at = now() - %s::interval where source = %s", (timedelta(**length), name)
        )


def too_silent(world: World) -> set[str]:
    return {name for name, source in read(world).items() if source.too_silent}


def test_who_was_never_heard_is_not_silent(world):
    assert {name: source.heard_at for name, source in read(world).items()} == {
        "twilio-callbacks": None,
        "stripe-events": None,
        "twilio-listing": None,
    }
    assert {source.silent_seconds for source in read(world).values()} == {None}
    assert too_silent(world) == set()


def test_each_source_is_heard_by_what_it_sent(world):
    world.callback("a")
    world.drain()
    heard = read(world)
    assert heard["twilio-callbacks"].heard_at == world.now
    assert heard["stripe-events"].heard_at is None
    world.stripe_event("evt_1", "customer.created", {"id": "cus_1", "object": "customer"}, world.now)
    world.drain()
    assert read(world)["stripe-events"].heard_at == world.now


def test_what_we_fetched_ourselves_or_replayed_is_no_sign_of_life(world):
    world.api_answer("a")
    world.drain()
    assert read(world)["twilio-callbacks"].heard_at is None
    world.callback("b")
    world.drain()
    silence(world, "twilio-callbacks", days=4)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set state = 'pending'")
    world.drain()
    assert too_silent(world) == {"twilio-callbacks"}


def test_a_silence_is_measured_by_those_before_it(world):
    world.callback("a")
    world.drain()
    for hours in (47, 49):
        silence(world, "twilio-callbacks", hours=hours)
        assert too_silent(world) == ({"twilio-callbacks"} if hours == 49 else set())
    world.now = at("20 Nov 12:01")
    world.callback("b")
    world.drain()  # heard again after 49 hours, which is the usual from now on
    silence(world, "twilio-callbacks", hours=97)
    assert too_silent(world) == set()
    world.now = at("20 Nov 12:02")
    silence(world, "twilio-callbacks", minutes=1)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update sources set longest_gap = '1 minute'")
    world.callback("c")
    world.drain()
    silence(world, "twilio-callbacks", minutes=59)
    assert too_silent(world) == set(), "an hour is allowed whatever is usual"
    silence(world, "twilio-callbacks", minutes=61)
    assert too_silent(world) == {"twilio-callbacks"}


def test_the_listing_is_silent_by_the_business_clock(world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("insert into listings values ('twilio-calls', %s)", (at("20 Nov 9:01"),))
    assert too_silent(world) == set()
    world.now = at("20 Nov 12:02")
    assert too_silent(world) == {"twilio-listing"}


def test_a_heartbeat_is_noted_every_ten_seconds_at_most(world):
    world.callback("a")
    world.drain()
    world.now = at("20 Nov 12:01")
    world.callback("b")
    world.drain()
    assert read(world)["twilio-callbacks"].heard_at == at("20 Nov 12:00")
    silence(world, "twilio-callbacks", seconds=11)
    world.callback("c")
    world.drain()
    assert read(world)["twilio-callbacks"].heard_at == at("20 Nov 12:01")
