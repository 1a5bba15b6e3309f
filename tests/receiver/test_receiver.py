"""What a running receiver answers to good and bad requests, and what it has stored then."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from db.engine import make_engine
from ops.processes.supervisor import Supervisor, free_port
from pipeline.shared.clock import Clock
from receiver.app import App
from receiver.health import Health
from receiver.receive import StripeWebhook
from receiver.store import Store
from tests import conftest
from tests.worlds.breaking import breaks
from tests.worlds.webhooks import (
    ACCOUNT,
    PUBLIC_URL,
    STRIPE_SECRET,
    TWILIO_TOKEN,
    VOICE,
    Request,
    callback,
    from_stripe,
    from_twilio,
    get,
    send,
    send_all,
    sign_stripe,
    sign_twilio,
    start_receiver,
    stripe_event,
)


@dataclass
class Receiver:
    port: int
    engine: Engine

    def stored(self) -> list[tuple[Any, ...]]:
        """What has been stored since the last look: provider, key, type, state, reason."""
        with self.engine.begin() as connection:
            rows = connection.exec_driver_sql(
                "select provider, key, type, state, reason, id from webhook_events order by id"
            ).all()
            connection.exec_driver_sql("delete from webhook_events")
        return [tuple(row[:5]) for row in rows]


@pytest.fixture(scope="module")
def receiver(servers, administration, template_database) -> Iterator[Receiver]:
    """One for all tests here; there is no broker."""
    database = conftest._database(servers, administration, template_database)
    url = next(database)
    environment = {
        "ALTIORA_DATABASE_URL": url,
        "ALTIORA_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "ALTIORA_STRIPE_WEBHOOK_SECRET": f"whsec_new,{STRIPE_SECRET}",
        "ALTIORA_TWILIO_ACCOUNT_SID": ACCOUNT,
        "ALTIORA_TWILIO_AUTH_TOKEN": f"new,{TWILIO_TOKEN}",
        "ALTIORA_PUBLIC_URL": PUBLIC_URL + "/",
        "ALTIORA_CLOCK": "real",
    }
    engine = make_engine(url)
    with Supervisor() as supervisor:
        yield Receiver(start_receiver(supervisor, environment), engine)
    engine.dispose()
    next(database, None)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


# Good requests


@breaks(
    "receiver/store.sql",
    "\nselect provider, key, type, state,",
    "\nselect provider, key || gen_random_uuid(), type, state,",
)
def test_a_stripe_event_is_stored_once_however_often_it_comes(receiver):
    request = from_stripe(stripe_event("once"))
    answers = [send(receiver.port, request) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 200]
    assert [answer.body for answer in answers] == [b"", b"", b""]
    assert receiver.stored() == [("stripe", "evt_once", "plan.created", "pending", None)]


def test_a_thin_event_is_stored_under_its_own_id(receiver):
    thin = {"id": "evt_test_65", "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered"}
    assert send(receiver.port, from_stripe(json.dumps(thin).encode())).status == 200
    assert receiver.stored() == [("stripe", "evt_test_65", "v1.billing.meter.error_report_triggered", "pending", None)]


@pytest.mark.parametrize("secret", ["whsec_new", STRIPE_SECRET])
def test_both_secrets_of_a_rotation_are_good(receiver, secret):
    body = stripe_event(secret)
    assert send(receiver.port, from_stripe(body, Stripe_Signature=sign_stripe(body, secret))).status == 200
    assert len(receiver.stored()) == 1


def test_the_same_callback_is_one_event_and_any_other_is_another(receiver):
    first = from_twilio(callback(1))
    again = replace(first, headers={**first.headers, "I-Twilio-Idempotency-Token": "another"})
    other_order = from_twilio(list(reversed(callback(1))))
    longer = from_twilio(callback(1, CallDuration="62"))
    for request in (first, again, other_order, longer):
        assert send(receiver.port, request).status == 200
    keys = [row[1] for row in receiver.stored()]
    assert len(keys) == 2
    assert all(key.startswith(f"CA{1:032x}:completed:3:") for key in keys)


def test_a_callback_is_stored_raw(receiver):
    request = from_twilio(callback(2))
    assert send(receiver.port, request).status == 200
    with receiver.engine.connect() as connection:
        ((body, content_type),) = connection.exec_driver_sql("select body, content_type from webhook_events").all()
    assert bytes(body) == request.body
    assert content_type == "application/x-www-form-urlencoded"
    assert [row[2:] for row in receiver.stored()] == [("call.completed", "pending", None)]


def test_repeated_parameters_count_for_signature_and_key(receiver):
    repeated = [*callback(3), ("Digits", "2"), ("Digits", "1"), ("Digits", "1")]
    assert send(receiver.port, from_twilio(repeated)).status == 200
    assert send(receiver.port, from_twilio(repeated[:-1])).status == 200, "the same, by its signature"
    assert len(receiver.stored()) == 1
    assert send(receiver.port, from_twilio(repeated[:-1])).status == 200
    assert send(receiver.port, from_twilio(repeated[:-2])).status == 200
    assert len(receiver.stored()) == 2


def test_a_callback_without_a_call_or_status_is_stored_under_its_content(receiver):
    for order in (1, -1):
        request = from_twilio([("AccountSid", ACCOUNT), ("RecordingSid", "RE1")][::order])
        assert send(receiver.port, request).status == 200
    ((_, key, *rest),) = receiver.stored()
    assert (key.startswith("body:"), rest) == (True, [None, "pending", None])


@breaks(
    "receiver/receive.py",
    "_of_call(dict(form), _content_of(form), body",
    "_of_call(dict(form), hashlib.sha256(body).hexdigest(), body",
)
def test_88_the_same_callback_in_a_hundred_encodings_is_one_event(receiver):
    request, chance = from_twilio(callback(8)), random.Random(8)

    def encoded(text: str) -> str:
        usual = [chr(each) if each < 128 and chr(each).isalnum() else f"%{each:02X}" for each in text.encode()]
        odd = [f"%{each:02x}" for each in text.encode()]
        return "".join(chance.choice(pair) for pair in zip(usual, odd, strict=True))

    for _ in range(100):
        pairs = chance.sample(callback(8), len(callback(8)))
        body = "&".join(f"{encoded(name)}={encoded(value)}" for name, value in pairs).encode()
        assert send(receiver.port, replace(request, body=body)).status == 200
    assert send(receiver.port, request).status == 200
    assert len(receiver.stored()) == 1


@breaks(
    "receiver/receive.py",
    "    if _SID.fullmatch(sid):",
    '    if sid and body[:1] != b"{":',
)
@pytest.mark.parametrize(
    ("named", "key"),
    [
        ({"CallStatus": "completed", "SequenceNumber": "2"}, "completed:2:"),
        ({"CallStatus": "completed", "SequenceNumber": ":api:"}, "completed::"),
        ({"CallStatus": "api", "SequenceNumber": "0"}, ":0:"),
    ],
)
def test_87_json_and_odd_sequence_numbers_are_keyed_by_their_call_like_all_others(receiver, named, key):
    body = orjson.dumps({"CallSid": "CA5", "AccountSid": ACCOUNT, **named})
    query = f"bodySHA256={digest(body)}"
    headers = {
        "Content-Type": "application/json",
        "X-Twilio-Signature": sign_twilio([], f"{PUBLIC_URL}{VOICE}?{query}"),
    }
    assert send(receiver.port, Request(f"{VOICE}?{query}", headers, body)).status == 200
    ((_, stored, *_),) = receiver.stored()
    assert stored == f"CA5:{key}{digest(body)[:16]}"


def test_a_query_is_signed_and_the_host_header_is_not_asked(receiver):
    request = from_twilio(callback(4), query="tenant=a%20b&x=", Host="internal:9", X_Forwarded_Proto="http")
    assert send(receiver.port, request).status == 200
    assert send(receiver.port, replace(request, path=VOICE)).status == 403
    assert len(receiver.stored()) == 1


def test_twilio_json_is_signed_by_the_digest_in_its_url(receiver):
    body = b'{"CallSid": "CA5"}'
    query = f"bodySHA256={digest(body)}"
    signature = sign_twilio([], f"{PUBLIC_URL}{VOICE}?{query}")
    headers = {"Content-Type": "application/json", "X-Twilio-Signature": signature}
    assert send(receiver.port, Request(f"{VOICE}?{query}", headers, body)).status == 200
    assert send(receiver.port, Request(f"{VOICE}?{query}", headers, b'{"CallSid": "CA6"}')).status == 403
    assert send(receiver.port, Request(VOICE, headers, body)).status == 403
    assert receiver.stored() == [("twilio", f"CA5:::{digest(body)[:16]}", None, "pending", None)]


# Signed, but unreadable: it is theirs, so it is kept and answered 200; they would send the same again, or never.

NESTED = b'{"id": "evt_nested", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{broken",
        b"\xff\xfe not UTF-8",
        b"null",
        b"[]",
        b'"evt_1"',
        b"{}",
        b'{"id": null}',
        b'{"id": ""}',
        b'{"id": 7}',
        b'{"id": ["evt_1"]}',
        NESTED,
    ],
    ids=lambda body: body[:20].decode("latin-1") or "empty",
)
def test_what_stripe_signed_and_nobody_can_read_is_dead_and_kept(receiver, body):
    assert send(receiver.port, from_stripe(body, Content_Length=str(len(body)))).status == 200
    assert receiver.stored() == [("stripe", f"sha256:{digest(body)}", None, "dead", "unreadable")]


def test_what_twilio_signed_and_nobody_can_read_is_dead_and_kept(receiver):
    body = b"{broken"
    query = f"bodySHA256={digest(body)}"
    signature = sign_twilio([], f"{PUBLIC_URL}{VOICE}?{query}")
    headers = {"Content-Type": "application/json", "X-Twilio-Signature": signature}
    assert send(receiver.port, Request(f"{VOICE}?{query}", headers, body)).status == 200
    assert receiver.stored() == [("twilio", f"body:{digest(body)}", None, "dead", "unreadable")]


@pytest.mark.parametrize(
    ("fields", "key", "kind"),
    [
        ({"data": {"x": "\0"}}, "evt_odd", "plan.created"),
        ({"id": "evt_\0odd"}, "sha256:" + digest(b"evt_\0odd"), "plan.created"),
        ({"id": "e" * 301}, "sha256:" + digest(b"e" * 301), "plan.created"),
        ({"id": "e" * 300}, "e" * 300, "plan.created"),
        ({"type": "\0"}, "evt_odd", "sha256:" + digest(b"\0")),
        ({"type": "t" * 101}, "evt_odd", "sha256:" + digest(b"t" * 101)),
        ({"type": 7}, "evt_odd", None),
    ],
)
def test_odd_but_readable_events_are_stored_as_pending(receiver, fields, key, kind):
    assert send(receiver.port, from_stripe(stripe_event("odd", **fields))).status == 200
    assert receiver.stored() == [("stripe", key, kind, "pending", None)]


def test_odd_callbacks_are_stored_as_pending(receiver):
    odd = [callback(6, CallSid="CA\0"), callback(6, CallSid="C" * 1000), callback(6, CallStatus="\0" * 200)]
    assert [send(receiver.port, from_twilio(params)).status for params in odd] == [200, 200, 200]
    rows = receiver.stored()
    assert [row[3] for row in rows] == ["pending"] * 3
    assert [row[1].partition(":")[0] for row in rows] == ["body", "body", f"CA{6:032x}"]


# Bad requests

STRIPE = from_stripe(stripe_event("bad"))
TWILIO = from_twilio(callback(7))


def without(request: Request, name: str) -> Request:
    return replace(request, headers={key: value for key, value in request.headers.items() if key != name})


def having(request: Request, **headers: str) -> Request:
    return replace(request, headers={**request.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


def signed_at(seconds: float) -> Request:
    return having(STRIPE, Stripe_Signature=sign_stripe(STRIPE.body, timestamp=int(time.time() + seconds)))


BAD = {
    "no signature (Stripe)": (403, without(STRIPE, "Stripe-Signature")),
    "wrong signature (Stripe)": (403, having(STRIPE, Stripe_Signature=sign_stripe(STRIPE.body, "whsec_other"))),
    "signature of another body (Stripe)": (403, replace(STRIPE, body=stripe_event("other"))),
    "not ASCII (Stripe)": (403, having(STRIPE, Stripe_Signature="t=1,v1=\xe9")),
    "no signature (Twilio)": (403, without(TWILIO, "X-Twilio-Signature")),
    "wrong signature (Twilio)": (403, having(TWILIO, X_Twilio_Signature=sign_twilio(callback(7), token="other"))),
    "signature of another body (Twilio)": (403, replace(TWILIO, body=b"CallSid=CA9")),
    "not UTF-8 (Twilio)": (403, replace(TWILIO, body=b"CallSid=\xff")),
    "no body (Twilio)": (403, having(replace(TWILIO, body=b""), Content_Length="0")),
    "too many parameters (Twilio)": (403, replace(TWILIO, body=b"a=&" * 600)),
    "forged JSON (Twilio)": (403, having(TWILIO, Content_Type="application/json")),
    "unknown algorithm (Twilio)": (403, having(TWILIO, X_Twilio_Webhooks_Signature_Settings="algorithm=NONE")),
    "another address": (404, replace(STRIPE, path="/webhooks/paypal")),
    "GET of a webhook": (405, replace(STRIPE, method="GET", body=b"")),
    "PUT of a webhook": (405, replace(TWILIO, method="PUT")),
    "POST of a page": (405, replace(STRIPE, path="/metrics")),
    "a form for Stripe": (415, having(STRIPE, Content_Type="application/x-www-form-urlencoded")),
    "XML for Twilio": (415, having(TWILIO, Content_Type="text/xml")),
    "no type": (415, without(STRIPE, "Content-Type")),
    "1 byte too long for Stripe": (413, replace(STRIPE, body=b"x" * 1_000_001)),
    "1 byte too long for Twilio": (413, replace(TWILIO, body=b"x" * 64_001)),
}


@pytest.mark.parametrize(("status", "request_"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_gets_its_answer_and_stores_nothing(receiver, status, request_):
    answer = send(receiver.port, request_)
    assert answer.status == status
    assert answer.body
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers.get("allow") == {"/metrics": "GET"}.get(request_.path, "POST") if status == 405 else True
    assert receiver.stored() == []


@pytest.mark.parametrize(("seconds", "status"), [(-310, 403), (-290, 200), (290, 200), (310, 403)])
def test_a_stripe_signature_is_good_for_five_minutes_in_both_directions(receiver, seconds, status):
    assert send(receiver.port, signed_at(seconds)).status == status
    assert len(receiver.stored()) == (1 if status == 200 else 0)


def test_the_longest_bodies_are_taken(receiver):
    body = stripe_event("long", filling="")
    body = stripe_event("long", filling="x" * (1_000_000 - len(body)))
    assert len(body) == 1_000_000
    assert send(receiver.port, from_stripe(body)).status == 200
    assert [row[1] for row in receiver.stored()] == ["evt_long"]


def raw(port: int, head: str, body: bytes = b"", *, end: bool = False) -> bytes:
    """What comes back for these bytes, up to the end of the connection or of its first line."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        # The rest from a thread of its own: whoever is answered early must still be able to read the answer.
        sender = threading.Thread(target=_send_quietly, args=(connection, body, end))
        sender.start()
        answer = b""
        while b"\r\n" not in answer and (part := connection.recv(4096)):
            answer += part
        with contextlib.suppress(OSError):  # the other side may have ended it
            connection.shutdown(socket.SHUT_RDWR)
        sender.join()
    return answer.partition(b"\r\n")[0]


def _send_quietly(connection: socket.socket, body: bytes, end: bool) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(body)
        if end:
            connection.shutdown(socket.SHUT_WR)


HEAD = "POST /webhooks/stripe HTTP/1.1\nHost: x\nContent-Type: application/json"


def test_ten_megabytes_are_refused_before_they_are_there(receiver):
    assert raw(receiver.port, f"{HEAD}\nContent-Length: 10000000", b"x" * 10_000_000).startswith(b"HTTP/1.1 413")
    # Nothing of the body was sent: the size alone decides.
    assert raw(receiver.port, f"{HEAD}\nContent-Length: 10000000").startswith(b"HTTP/1.1 413")
    assert receiver.stored() == []


def test_a_body_without_a_stated_size_is_refused_while_it_comes(receiver):
    chunks = b"".join(b"10000\r\n" + b"x" * 0x10000 + b"\r\n" for _ in range(160))
    # Its end never comes, so whoever waits for it never answers.
    head = f"{HEAD}\nTransfer-Encoding: chunked\nStripe-Signature: forged"
    assert raw(receiver.port, head, chunks).startswith(b"HTTP/1.1 413")
    assert receiver.stored() == []


def test_a_chunked_event_is_stored(receiver):
    body = stripe_event("chunked")
    head = f"{HEAD}\nTransfer-Encoding: chunked\nStripe-Signature: {sign_stripe(body)}"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))
    assert raw(receiver.port, head, chunks + b"0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert [row[1] for row in receiver.stored()] == ["evt_chunked"]


@pytest.mark.parametrize("size", ["-1", "many", "1, 2"])
def test_a_size_that_is_none_is_refused(receiver, size):
    assert raw(receiver.port, f"{HEAD}\nContent-Length: {size}").startswith(b"HTTP/1.1 400")
    assert receiver.stored() == []


def test_a_body_that_ends_early_is_never_stored(receiver):
    body = stripe_event("cut")
    head = f"{HEAD}\nContent-Length: {len(body)}\nStripe-Signature: {sign_stripe(body)}"
    assert raw(receiver.port, head, body[:-1], end=True)[:12] in {b"HTTP/1.1 400", b""}
    assert get(receiver.port, "/health/live").status == 200
    assert receiver.stored() == []


# In this process: what no request can bring about at will


def status_of(app: App, request: Request, receive_message: Callable[[], Awaitable[Any]]) -> int:
    sent: list[Any] = []

    async def send_message(message: Any) -> None:
        sent.append(message)

    headers = [(name.lower().encode(), value.encode()) for name, value in request.headers.items()]
    scope = {"type": "http", "method": request.method, "path": request.path, "query_string": b"", "headers": headers}

    async def served() -> None:
        await app.start()
        try:
            await app(scope, receive_message, send_message)
        finally:
            await app.stop()

    asyncio.run(served())
    return int(sent[0]["status"])


def app_with(clock: Clock) -> App:
    url = "postgresql:///never-asked"
    return App(
        {"/webhooks/stripe": StripeWebhook([SecretStr(STRIPE_SECRET)])}, Store(url, lambda: None), Health(url), clock
    )


async def never() -> None:
    await asyncio.Event().wait()


def test_a_body_that_never_comes_is_given_up(monkeypatch):
    monkeypatch.setattr("receiver.app.BODY_TIMEOUT", 0.05)
    monkeypatch.setattr("receiver.app.LOOK", 0.05)
    assert status_of(app_with(Clock()), STRIPE, never) == 400


def test_a_request_that_the_server_ends_is_no_slow_body():
    async def ended() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        status_of(app_with(Clock()), STRIPE, ended)


def test_a_body_that_breaks_off_is_refused():
    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    assert status_of(app_with(Clock()), STRIPE, gone) == 400


def test_whatever_goes_wrong_the_sender_is_told_to_send_it_again(tmp_path):
    async def body() -> dict[str, Any]:
        return {"type": "http.request", "body": STRIPE.body}

    assert status_of(app_with(Clock(tmp_path / "no such clock")), STRIPE, body) == 503


# Groups


def test_one_poisonous_body_in_a_group_disturbs_none_of_the_others(receiver):
    poisons = [
        from_stripe(stripe_event("nul", data={"x": "\0"})),
        from_stripe(stripe_event("\0")),
        from_stripe(NESTED),
        from_stripe(b"\xff\xfe"),
        from_twilio(callback(8, CallSid="\0")),
        having(STRIPE, Stripe_Signature="t=1"),
    ]
    for number, poison in enumerate(poisons):
        others = [from_stripe(stripe_event(f"{number}_{index}")) for index in range(63)]
        statuses = send_all([receiver.port], [*others[:31], poison, *others[31:]], clients=64)
        assert statuses == ({200: 63, 403: 1} if poison is poisons[-1] else {200: 64})
        pending = {row[1] for row in receiver.stored() if row[3] == "pending"}
        assert {f"evt_{number}_{index}" for index in range(63)} <= pending


def test_a_stopping_receiver_answers_what_it_has_received(environment, processes, engine):
    port = start_receiver(processes, environment)
    statuses: list[int] = []

    def sender() -> None:
        with contextlib.suppress(OSError):  # until it has stopped
            for number in itertools.count():
                request = from_stripe(stripe_event(f"{threading.get_ident()}_{number}"))
                statuses.append(send(port, request).status)

    senders = [threading.Thread(target=sender) for _ in range(8)]
    for thread in senders:
        thread.start()
    while len(statuses) < 50:
        time.sleep(0.01)
    assert processes.stop("receiver") == 0
    for thread in senders:
        thread.join()
    assert set(statuses) <= {200, 503}
    with engine.connect() as connection:
        stored = connection.exec_driver_sql("select count(*) from webhook_events").scalar_one()
    assert stored >= statuses.count(200) >= 50
