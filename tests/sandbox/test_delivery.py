"""Webhooks leave the sandbox as Stripe and Twilio send them: signed, repeated or lost, in any order."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any
from urllib.parse import parse_qsl

import pytest
import stripe
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from twilio.request_validator import RequestValidator  # type: ignore[import-untyped]  # twilio publishes no types

from sandbox import webhooks
from sandbox.delivery import Delivery
from sandbox.faults import Faults
from sandbox.line import Line, NoAnswerError, NotConnectedError
from tests.worlds.asgi_server import serving

SECRET = "whsec_test"
TOKEN = "0123456789abcdef"
PUBLIC = "https://billing.example.com"
VOICE = f"{PUBLIC}/webhooks/twilio/voice"


class Receiver:
    """Takes down what arrives and answers with the given statuses, then 200."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.app = Starlette(routes=[Route("/{path:path}", self._take, methods=["POST"])])

    async def _take(self, request: Request) -> Response:
        self.requests.append((request.url.path, dict(request.headers), await request.body()))
        return Response("ok", self.statuses.pop(0) if self.statuses else 200)


@contextlib.asynccontextmanager
async def delivering(receiver: Receiver, faults: Faults | None = None) -> AsyncIterator[Delivery]:
    async with serving(receiver.app) as address:
        delivery = Delivery(faults or Faults(), SECRET, TOKEN, PUBLIC, address)
        delivery.start()
        try:
            yield delivery
        finally:
            await delivery.stop()


def run(receiver: Receiver, act: Callable[[Delivery], Any], faults: Faults | None = None) -> dict[str, Any]:
    """Let ``act`` queue webhooks, wait until they are done with, and return the counts."""

    async def scenario() -> dict[str, Any]:
        async with delivering(receiver, faults) as delivery:
            await act(delivery)
            await delivery.drain()
            return delivery.counts()

    return asyncio.run(scenario())


def nothing() -> None:
    """What is called for a delivered event that nobody asks about."""


@pytest.fixture
def impatient(monkeypatch):
    """Stripe's pauses without the waiting, and a machine clock that moves one second at each look."""
    monkeypatch.setattr(webhooks, "STRIPE_FIRST_DELAY", 0.001)
    monkeypatch.setattr(webhooks, "STRIPE_LONGEST_DELAY", 0.001)
    seconds = iter(range(1_800_000_000, 1_900_000_000))
    monkeypatch.setattr("sandbox.webhooks.time.time", lambda: next(seconds))


def test_a_stripe_event_is_signed_as_stripe_signs():
    receiver = Receiver()
    event = {"id": "evt_1", "object": "event", "type": "invoice.created", "data": {"object": {"name": "Müller"}}}
    told: list[bool] = []
    counts = run(receiver, lambda delivery: delivery.stripe(event, lambda: told.append(True)))

    [(path, headers, body)] = receiver.requests
    assert path == "/webhooks/stripe"
    assert json.loads(body) == event
    assert stripe.WebhookSignature.verify_header(body.decode(), headers["stripe-signature"], SECRET, tolerance=300)
    assert counts == {"pending": 0, "stripe": {"sent": 1, "delivered": 1}, "twilio": {}}
    assert told == [True]


def test_a_refused_stripe_event_comes_again_with_a_new_signature(impatient):
    receiver = Receiver(500, 302, 200)
    counts = run(receiver, lambda delivery: delivery.stripe({"id": "evt_1"}, nothing))

    signatures = [headers["stripe-signature"] for _, headers, _ in receiver.requests]
    assert len({signature.split(",")[0] for signature in signatures}) == 3
    for (_, _, body), signature in zip(receiver.requests, signatures, strict=True):
        assert stripe.WebhookSignature.verify_header(body.decode(), signature, SECRET)
    assert counts["stripe"] == {"sent": 1, "delivered": 1, "refused": 2}


def test_stripe_gives_up_at_last(impatient):
    receiver = Receiver(*[503] * 100)
    counts = run(receiver, lambda delivery: delivery.stripe({"id": "evt_1"}, nothing))
    assert len(receiver.requests) == webhooks.STRIPE_ATTEMPTS
    assert counts["stripe"] == {"sent": 1, "refused": webhooks.STRIPE_ATTEMPTS, "given_up": 1}


def test_a_twilio_callback_is_signed_for_the_public_address():
    receiver = Receiver()
    settled: list[bool] = []
    params = {"CallSid": "CA1", "To": "+15550000001", "ToCity": "", "FromCity": "São Paulo"}
    run(receiver, lambda delivery: delivery.twilio(f"{VOICE}?a=1#rc=5&rp=all", params, settled.append))

    [(path, headers, body)] = receiver.requests
    received = dict(parse_qsl(body.decode(), keep_blank_values=True))
    assert path == "/webhooks/twilio/voice"
    assert received == params
    assert RequestValidator(TOKEN).validate(f"{VOICE}?a=1", received, headers["x-twilio-signature"])
    assert headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert settled == [True]


@pytest.mark.parametrize("status", [302, 400, 403, 500, 503])
def test_a_twilio_callback_answered_with_an_error_is_lost(status):
    receiver = Receiver(status)
    settled: list[bool] = []
    counts = run(receiver, lambda delivery: delivery.twilio(VOICE, {"CallSid": "CA1"}, settled.append))
    assert len(receiver.requests) == 1
    assert settled == [False]
    assert counts["twilio"] == {"sent": 1, "refused": 1, "lost": 1}


def test_twilio_tries_twice_to_connect_and_no_more(monkeypatch):
    attempts: list[str] = []

    async def no_connection(self, path, headers, body, _seconds):
        attempts.append(headers["I-Twilio-Idempotency-Token"])
        raise NotConnectedError

    monkeypatch.setattr(Line, "post", no_connection)
    settled: list[bool] = []
    run(Receiver(), lambda delivery: delivery.twilio(VOICE, {"CallSid": "CA1"}, settled.append))
    assert len(attempts) == 2
    assert len(set(attempts)) == 1
    assert settled == [False]


def test_a_callback_that_got_no_answer_is_lost_and_not_sent_again(monkeypatch):
    attempts: list[str] = []

    async def no_answer(self, path, headers, body, _seconds):
        attempts.append(path)
        raise NoAnswerError

    monkeypatch.setattr(Line, "post", no_answer)
    settled: list[bool] = []
    run(Receiver(), lambda delivery: delivery.twilio(VOICE, {"CallSid": "CA1"}, settled.append))
    assert attempts == ["/webhooks/twilio/voice"]
    assert settled == [False]


def test_a_duplicate_is_the_same_request_twice_and_settled_once():
    receiver = Receiver(500, 200)
    settled: list[bool] = []
    faults = Faults(duplicate=1.0, random=Random(1))
    counts = run(receiver, lambda delivery: delivery.twilio(VOICE, {"CallSid": "CA1"}, settled.append), faults)

    first, second = receiver.requests
    assert first[2] == second[2]
    assert first[1]["i-twilio-idempotency-token"] == second[1]["i-twilio-idempotency-token"]
    assert settled == [True], "one copy was answered 200"
    assert counts["twilio"] == {"sent": 2, "refused": 1, "delivered": 1}


def test_shuffled_webhooks_overtake_each_other_and_all_arrive():
    receiver = Receiver()

    async def act(delivery):
        for number in range(30):
            await delivery.stripe({"id": f"evt_{number}"}, nothing)

    run(receiver, act, Faults(shuffle=1.0, random=Random(1)))
    arrived = [json.loads(body)["id"] for _, _, body in receiver.requests]
    sent = [f"evt_{number}" for number in range(30)]
    assert sorted(arrived) == sorted(sent)
    assert arrived != sent


def test_a_dropped_callback_is_never_sent():
    receiver = Receiver()
    settled: list[bool] = []
    faults = Faults(drop_callback=1.0)
    counts = run(receiver, lambda delivery: delivery.twilio(VOICE, {"CallSid": "CA1"}, settled.append), faults)
    assert receiver.requests == []
    assert settled == [False]
    assert counts["twilio"] == {"dropped": 1}


def test_drain_tells_of_a_sender_that_broke():
    def breaks(answered: bool) -> None:
        raise RuntimeError("nobody expected this")

    with pytest.raises(RuntimeError, match="nobody expected this"):
        run(Receiver(), lambda delivery: delivery.twilio(VOICE, {"CallSid": "CA1"}, breaks))


def test_who_waits_for_a_drain_is_let_go_when_the_sending_stops():
    async def scenario() -> object:
        async with delivering(Receiver(*[500] * 100)) as delivery:
            await delivery.stripe({"id": "evt_1"}, nothing)
            waiting = asyncio.create_task(delivery.drain())
            await asyncio.sleep(0.1)
            await delivery.stop()
            await waiting
            return delivery.counts()["pending"]

    assert asyncio.run(scenario()) == 1


def answering(*answers: bytes) -> Callable[[Callable[[str], Any]], Any]:
    """Run a client against a server that gives these raw answers in turn.

    It closes the connection after an empty one, after one that says so, and after one that ends in ``bye``.
    """
    left = list(answers)
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while left:
                await reader.readuntil(b"\r\n\r\n")
                answer = left.pop(0)
                writer.write(answer)
                if not answer or b"close" in answer or answer.endswith(b"bye"):
                    break
        writer.close()

    def run_client(client: Callable[[str], Any]) -> Any:
        async def scenario() -> Any:
            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            async with server:
                result = await client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            for connection in connections:
                connection.close()
                await connection.wait_closed()
            return result

        return asyncio.run(scenario())

    return run_client


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
def test_a_line_reads_every_form_of_answer_and_goes_on(answer):
    async def client(address: str) -> list[int]:
        line = Line(address)
        statuses = [await line.post("/", {}, b"", 5) for _ in range(3)]
        await line.close()
        return statuses

    assert answering(answer, answer, answer)(client) in ([200] * 3, [204] * 3)


def test_a_line_that_was_closed_in_silence_is_opened_again():
    async def client(address: str) -> list[int]:
        line = Line(address)
        statuses = []
        for _ in range(2):
            statuses.append(await line.post("/", {}, b"", 5))
            await asyncio.sleep(0.1)
        await line.close()
        return statuses

    bye = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbye"
    assert answering(bye, bye)(client) == [200, 200]


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nclose"])
def test_a_line_without_a_whole_answer_says_so_and_does_not_send_again(answer):
    async def client(address: str) -> None:
        line = Line(address)
        with pytest.raises(NoAnswerError):
            await line.post("/", {}, b"", 5)

    answering(answer)(client)


def test_nothing_listens():
    async def client(address: str) -> str:
        return address

    address = answering()(client)
    with pytest.raises(NotConnectedError):
        asyncio.run(Line(address).post("/", {}, b"", 5))


def test_a_target_that_is_no_address_is_refused_at_once():
    with pytest.raises(ValueError, match="an address like http"):
        Line("127.0.0.1:8000")
