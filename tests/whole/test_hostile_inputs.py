"""Bodies that nobody would send, rightly signed: each is answered, each ends, and nothing grows or stands still.

Mutations of real bodies, as far as ALTIORA_PAYLOADS names some, else of ours. Some hundreds here; `make soak` sends
100,000.
"""

import copy
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import psutil
import pytest

from ops.processes import recipes
from ops.processes.supervisor import free_port
from tests.receiver.test_receiver_outages import count
from tests.worlds.webhooks import (
    ACCOUNT,
    PUBLIC_URL,
    VOICE,
    Request,
    callback,
    from_stripe,
    send_all,
    sign_twilio,
    start_receiver,
    stripe_event,
)

#: In place of whatever stood there.
_STRANGE: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**70), 10**400, 1.5, 1e308, float("nan"), float("-inf")),
    *("", " ", "0", "-1", "x" * 20_000, "\0", "\ud800", "\u202e", "'; drop table calls; --", "%s%(x)s", "{}", "null"),
    *([], [[]], {}, {"": None}, [None] * 50, {"data": {"object": {}}}, ["x"], {"id": {"id": "x"}}),
    *("2026-11-20T12:00:00Z", "1970-01-01", "9999999999999", "cus_x", "sub_x", "CA" + "f" * 32, "+15550000001"),
]
_STRANGE_TEXTS = [each for each in _STRANGE if isinstance(each, str) and "\ud800" not in each]


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value inside, as keys and indexes."""
    if way:
        yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from _places(each, (*way, key))


def _change(document: Any, chance: random.Random) -> Any:
    """The document with one value replaced, taken away, doubled or put a level deeper."""
    places = list(_places(document))
    if not places:
        return copy.deepcopy(chance.choice(_STRANGE))
    *way, last = chance.choice(places)
    at = document
    for step in way:
        at = at[step]
    match chance.randrange(6):
        case 0:
            del at[last]
        case 1 if isinstance(at, dict):
            at[chance.choice(["id", "object", "type", "data", "items", "lines", "x" * 200])] = copy.deepcopy(at[last])
        case 2:
            at[last] = [at[last]]
        case 3:
            at[last] = {"object": at[last]}
        case _:
            at[last] = copy.deepcopy(chance.choice(_STRANGE))
    return document


def _spoil(body: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, cut off, or with something in front."""
    match chance.randrange(5):
        case 0:
            return body[: chance.randrange(len(body) + 1)]
        case 1:
            return chance.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b" " * 1000, b"[" * 2000, b'{"a":' * 500]) + body
        case 2:
            return body * 2
        case _:
            changed = bytearray(body)
            for _ in range(chance.randrange(1, 20)):
                if changed:
                    changed[chance.randrange(len(changed))] = chance.randrange(256)
            return bytes(changed)


def of_stripe(real: list[str], number: int, chance: random.Random) -> Request:
    document = json.loads(chance.choice(real))
    document["id"] = f"evt_hostile_{number}"
    for _ in range(chance.randrange(1, 5)):
        document = _change(document, chance)
    body = json.dumps(document).encode()
    return from_stripe(_spoil(body, chance) if chance.random() < 0.2 else body)


def of_twilio(real: list[dict[str, str]], number: int, chance: random.Random) -> Request:
    params = {**chance.choice(real), "AccountSid": ACCOUNT, "CallSid": f"CA{number:032x}"}
    for _ in range(chance.randrange(1, 5)):
        name = chance.choice([*params, "CallDuration", "Timestamp", "ParentCallSid", "x"])
        params[name] = chance.choice(_STRANGE_TEXTS)
        if chance.random() < 0.2:
            del params[name]
    body = urlencode(list(params.items())).encode()
    if chance.random() < 0.2:
        body = bytes(each for each in _spoil(body, chance) if each < 128)
    try:
        signed = parse_qsl(body.decode(), keep_blank_values=True)
    except ValueError:
        signed = []
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Twilio-Signature": sign_twilio(signed, PUBLIC_URL + VOICE),
    }
    return Request(VOICE, headers, body)


@pytest.mark.parametrize("total", [300, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_000)])])
def test_whatever_is_signed_is_answered_and_ends(environment, processes, engine, tmp_path, total):
    folder = os.environ.get("ALTIORA_PAYLOADS")
    stripe = [stripe_event(1).decode()]
    twilio = [dict(callback(1))]
    if folder:
        stripe += [file.read_text() for file in sorted(Path(folder, "stripe").glob("*.json"))]
        twilio += [json.loads(file.read_text()) for file in sorted(Path(folder, "twilio").glob("*.json"))]
        twilio = [{name: str(value) for name, value in params.items()} for params in twilio]
    stripe_port, twilio_port = free_port(), free_port()
    environment |= {
        "ALTIORA_STRIPE_API_BASE": f"http://127.0.0.1:{stripe_port}",
        "ALTIORA_TWILIO_API_BASE": f"http://127.0.0.1:{twilio_port}",
    }
    recipes.sandbox(stripe_port, twilio_port, "http://127.0.0.1:1").start(processes, environment)
    port = start_receiver(processes, environment)
    worker = recipes.worker(2).start(processes, environment)
    recipes.beat(tmp_path / "beat").start(processes, environment)
    chance = random.Random(total)
    slowest, first = 0.0, 0
    for begin in range(0, total, 1_000):
        requests = [
            (of_stripe(stripe, number, chance) if chance.random() < 0.6 else of_twilio(twilio, number, chance))
            for number in range(begin, min(begin + 1_000, total))
        ]
        answers = send_all([port], requests, clients=8)
        assert set(answers) <= {200, 400, 403, 413, 415}, answers
        assert answers[200] > len(requests) / 2
        began = time.monotonic()
        while count(engine, "state = 'pending' and due_at <= now()"):
            assert time.monotonic() - began < 60, "the drain stands still"
            time.sleep(0.2)
        slowest = max(slowest, time.monotonic() - began)
        memory = sum(child.memory_info().rss for child in psutil.Process(worker).children(recursive=True))
        first = first or memory
        assert memory < 1.5 * first + 50_000_000, "the worker's memory grows"
    for _ in range(600):
        if not count(engine, "state = 'pending'"):
            break
        time.sleep(0.2)
        with engine.begin() as connection:  # what waits for its customer or its call, which nobody has
            connection.exec_driver_sql("update webhook_events set due_at = now() where state = 'pending'")
    assert count(engine, "state = 'pending'") == 0, "each has ended"
    assert count(engine, "state = 'dead' and (reason = 'kills-its-worker' or starts_with(reason, 'stuck'))") == 0
    assert count(engine, "starts_with(reason, 'failed')") == 0, "none of them makes a rule of ours fail"
    with engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from halts").scalar_one() == 0
