"""What somebody put into the broker that is no message of ours: each is thrown away, and the worker goes on (86)."""

import json
import os
import time
import uuid
from typing import Any

import pytest
import redis
from kombu import Connection
from sqlalchemy import text

from ops.processes import embedded, recipes
from tasks import broker_messages
from tasks.broker_messages import message_of
from tests.worlds.breaking import breaks
from tests.worlds.webhooks import from_stripe, send, start_receiver, stripe_event

_LEFT_OUT = object()
_NONE: tuple[object, ...] = (_LEFT_OUT, None, [], "x")


def raw(**changes: object) -> bytes:
    """A message as kombu writes it to Redis, with some fields changed: ``headers__eta`` is the header ``eta``."""
    made = message_of("events.drain")
    message: dict[str, Any] = {
        "body": json.dumps(made.body),
        "content_encoding": "utf-8",
        "content_type": "application/json",
        "headers": dict(made.headers),
        "properties": {
            "correlation_id": made.headers["id"],
            "delivery_info": {"exchange": "", "routing_key": "events"},
            "delivery_tag": str(uuid.uuid4()),
        },
    }
    for path, value in changes.items():
        *way, name = path.split("__")
        at: Any = message
        for step in way:
            at = at[step]
        at[name] = value
        if value is _LEFT_OUT:
            del at[name]
    return json.dumps({name.replace("_", "-"): value for name, value in message.items()}).encode()


#: What kombu or Celery raised at, each in its own way; some of it took the worker or a place in its pool with it.
MALFORMED = [
    *(b"garbage", b"", b"[]", b"1", b"null", b'"x"', b"{}", b"\xff\xfe\x00", b"[" * 100_000),
    *(raw(**{name: value}) for name in ("properties", "headers") for value in _NONE),
    *(raw(properties__delivery_tag=value) for value in (_LEFT_OUT, None, 1, {})),
    *(raw(headers__task=value) for value in (_LEFT_OUT, None, {}, "nobody.knows", "events.nothing", "celery.chord")),
]
#: A task of ours all the same; what else they say counts for nothing.
ODD = [
    *(raw(body=value) for value in (_LEFT_OUT, None, "garbage", "{}", "[[1, 2], {}, {}]", "[[], {}, {}]" * 100_000)),
    *(raw(**{f"headers__{name}": "x"}) for name in ("eta", "expires", "retries", "timelimit", "chord", "group")),
    *(raw(headers__id=value) for value in (None, ["x"], 1)),
    *(raw(properties__delivery_info=value) for value in (_LEFT_OUT, None, {"exchange": "nowhere"})),
    raw(properties__body_encoding="zip"),
    raw(content_type="application/x-python-serialize"),
    raw(content_encoding="klingon"),
    raw(headers__eta="2999-01-01T00:00:00+00:00"),
    raw(headers__compression="application/x-nothing"),
]


def test_a_channel_that_outlives_its_connection_fails_as_a_broker_that_is_away(broker_url):
    """Anything else ended the worker, which was closing its channels after the broker had gone."""
    with Connection(broker_url, transport=broker_messages.Transport) as connection:
        channel: Any = connection.channel()
        channel._disconnect_pools()
        channel.connection.client = None
        with pytest.raises(connection.connection_errors):
            channel.qos.ack("what it holds")


@breaks("tasks/app.py", "broker_messages.let_in_only_ours()\n", "")
def test_86_malformed_messages_are_thrown_away_and_the_worker_lives(environment, processes, engine):
    broker_url = embedded.start_valkey(processes)
    environment |= {"ALTIORA_BROKER_URL": broker_url}
    recipes.worker(1, queues="events").start(processes, environment)
    worker = processes.pid("worker")
    port = start_receiver(processes, environment)

    def applied(number: int) -> None:
        """An event that is stored now is applied at once, because of the receiver's nudge."""
        assert send(port, from_stripe(stripe_event(number))).status == 200
        until = time.monotonic() + 20
        while True:
            with engine.connect() as connection:
                done = connection.execute(text("select count(*) from webhook_events where state <> 'pending'"))
                if done.scalar_one() == number:
                    return
            assert time.monotonic() < until, "the worker does not take what is due"
            time.sleep(0.1)

    applied(1)
    with redis.Redis.from_url(broker_url) as client:

        def taken() -> None:
            until = time.monotonic() + 20
            while client.llen("events") or client.hlen("unacked") > client.hexists("unacked", "garbage"):
                assert time.monotonic() < until, "messages are left"
                time.sleep(0.1)

        for number, messages in enumerate((MALFORMED, ODD), start=2):
            client.lpush("events", *messages)
            taken()
            applied(number)
        client.publish("/0.celery.pidbox", b"garbage")
        client.publish("/0.celery.pidbox", raw(body="garbage"))
        client.hset("unacked", "garbage", b"garbage")
        client.zadd("unacked_index", {"garbage": 0})
        applied(4)
        taken()
        for key in ("events", "unacked", "unacked_index"):  # what stands there is nothing that a queue could be
            client.delete(key)
            client.set(key, b"garbage")
        until = time.monotonic() + 30
        while b"string" in {client.type(key) for key in ("events", "unacked", "unacked_index")}:
            assert time.monotonic() < until, "what is no queue is not removed"
            time.sleep(0.1)
        applied(5)
        taken()
    os.kill(worker, 0)
    assert processes.pid("worker") == worker
    log = (processes.folder / "worker.log").read_text()
    # "events.nothing" is Celery's to refuse; and one by which kombu finds no queue came by remote control.
    assert log.count('"malformed-message"') == len(MALFORMED) - 1
    assert "Connection to broker lost" not in log
