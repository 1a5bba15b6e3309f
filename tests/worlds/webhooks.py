"""Signed webhooks, a receiver to send them to, and clients that send many at once."""

import asyncio
import base64
import hashlib
import hmac
import http.client
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from ops.processes import recipes
from ops.processes.supervisor import Supervisor, free_port

STRIPE_SECRET = "whsec_test"
TWILIO_TOKEN = "0123456789abcdef0123456789abcdef"
PUBLIC_URL = "http://127.0.0.1:8000"
VOICE = "/webhooks/twilio/voice"
ACCOUNT = "AC" + "0" * 32


@dataclass(frozen=True)
class Request:
    path: str
    headers: Mapping[str, str]
    body: bytes
    method: str = "POST"


def sign_stripe(body: bytes, secret: str = STRIPE_SECRET, timestamp: int | None = None) -> str:
    """The header Stripe-Signature, as Stripe's documentation describes it."""
    seconds = int(time.time()) if timestamp is None else timestamp
    return f"t={seconds},v1={hmac.new(secret.encode(), b'%d.%b' % (seconds, body), hashlib.sha256).hexdigest()}"


def sign_twilio(
    params: Iterable[tuple[str, str]], url: str = PUBLIC_URL + VOICE, token: str = TWILIO_TOKEN, algorithm: str = "sha1"
) -> str:
    """The header X-Twilio-Signature, as Twilio's documentation describes it."""
    signed = url + "".join(name + value for name, value in sorted(set(params)))
    return base64.b64encode(hmac.new(token.encode(), signed.encode(), algorithm).digest()).decode()


def from_stripe(body: bytes, **headers: str) -> Request:
    given = {"Content-Type": "application/json; charset=utf-8", "Stripe-Signature": sign_stripe(body)}
    return Request("/webhooks/stripe", given | {name.replace("_", "-"): value for name, value in headers.items()}, body)


def stripe_event(number: int | str, **fields: Any) -> bytes:
    event = {"id": f"evt_{number}", "object": "event", "type": "plan.created", "livemode": False, "api_version": None}
    return json.dumps(
        {**event, "created": 1, "data": {"object": {"id": "plan_1", "object": "plan"}}, **fields}
    ).encode()


def from_twilio(params: Sequence[tuple[str, str]], query: str = "", **headers: str) -> Request:
    path = f"{VOICE}?{query}" if query else VOICE
    given = {
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
        "X-Twilio-Signature": sign_twilio(params, PUBLIC_URL + path),
    }
    return Request(path, given | {k.replace("_", "-"): v for k, v in headers.items()}, urlencode(params).encode())


def callback(number: int, **params: str) -> list[tuple[str, str]]:
    """The parameters of a completed call, a blank one among them."""
    usual = {
        "CallSid": f"CA{number:032x}",
        "AccountSid": ACCOUNT,
        "CallStatus": "completed",
        "CallDuration": "61",
        "From": "+15557654321",
        "To": "+15550000001",
        "ToZip": "",
        "ToCity": "São Paulo",
        "Direction": "inbound",
        "SequenceNumber": "3",
    }
    return list((usual | params).items())


def start_receiver(supervisor: Supervisor, environment: Mapping[str, str]) -> int:
    """Start a receiver as the supervisor's child ``receiver``; returns its port."""
    port = free_port()
    recipes.receiver(port).start(supervisor, environment)
    return port


@dataclass(frozen=True)
class Answered:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def send(port: int, request: Request) -> Answered:
    """Send one request on a connection of its own; header names of the answer in lower case."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(request.method, request.path, request.body or None, dict(request.headers))
        answer = connection.getresponse()
        return Answered(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def get(port: int, path: str) -> Answered:
    return send(port, Request(path, {}, b"", "GET"))


def send_all(ports: Sequence[int], requests: Sequence[Request], clients: int = 16) -> Counter[int]:
    """Send all requests over ``clients`` connections at once; how often each status came back."""
    statuses: Counter[int] = Counter()
    todo = list(reversed(requests))

    async def client(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while todo:
            writer.write(_raw(todo.pop()))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            statuses[int(head.split()[1])] += 1
        writer.close()
        await writer.wait_closed()

    async def clients_at_once() -> None:
        await asyncio.gather(*(client(ports[number % len(ports)]) for number in range(clients)))

    asyncio.run(clients_at_once())
    return statuses


def _raw(request: Request) -> bytes:
    headers = {"Host": "127.0.0.1", "Content-Length": str(len(request.body)), **request.headers}
    lines = [f"{request.method} {request.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body
