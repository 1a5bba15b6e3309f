"""Who may hand us events: the signatures of Stripe and Twilio, right and forged."""

import hashlib
import hmac
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
import stripe
from freezegun import freeze_time
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from twilio.request_validator import (  # type: ignore[import-untyped]  # twilio ships no types
    RequestValidator,
    get_signature_algorithm,
)

from pipeline.providers.webhook_signatures import (
    SIGNATURE_TOLERANCE,
    SignatureError,
    verify_stripe_signature,
    verify_twilio_signature,
)
from receiver.receive import StripeWebhook, TwilioWebhook, parse_form
from tests.worlds.webhooks import sign_stripe, sign_twilio

BODY = b'{"id": "evt_1", "object": "event"}'
URL = "https://billing.example.com/webhooks/twilio/voice"
NOW = 1_700_000_000
TOKENS = [SecretStr("new"), SecretStr("old")]


def stripe_takes(header: str | None, body: bytes = BODY, secrets: tuple[str, ...] = ("whsec_new",)) -> bool:
    try:
        verify_stripe_signature(body, header, list(map(SecretStr, secrets)), NOW)
    except SignatureError:
        return False
    return True


def twilio_takes(
    form: list[tuple[str, str]],
    signature: str | None,
    *,
    url: str = URL,
    body: bytes = b"",
    named: str | None = None,
) -> bool:
    try:
        verify_twilio_signature(url, form, body, signature=signature, signature_settings=named, tokens=TOKENS)
    except SignatureError:
        return False
    return True


# Stripe


def test_what_stripes_own_package_signs_is_right():
    header = stripe.WebhookSignature.generate_signature_header(BODY.decode(), "whsec_new", NOW)
    assert stripe_takes(header)
    assert not stripe_takes(header, BODY + b" ")
    assert not stripe_takes(header, secrets=("whsec_other",))


def test_any_byte_string_can_be_signed():
    body = b"\xff\x00\xfe not UTF-8"
    assert stripe_takes(sign_stripe(body, "whsec_new", NOW), body)


def test_while_a_secret_is_rotated_both_are_right():
    for signer in ("whsec_new", "whsec_old"):
        assert stripe_takes(sign_stripe(BODY, signer, NOW), secrets=("whsec_new", "whsec_old"))


def test_of_two_v1_signatures_one_must_be_right():
    right = sign_stripe(BODY, "whsec_new", NOW)
    assert stripe_takes(f"t={NOW},v1={'0' * 64},{right.split(',')[1]}")
    assert stripe_takes(f"{right},v1={'0' * 64},v0=abc")
    assert not stripe_takes(f"t={NOW},v1={'0' * 64},v1={'1' * 64}")


@pytest.mark.parametrize(("seconds", "taken"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_a_signature_is_good_for_five_minutes_in_both_directions(seconds, taken):
    assert stripe_takes(sign_stripe(BODY, "whsec_new", NOW + seconds)) is taken


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"t={NOW}",
        f"t={NOW},v1=",
        f"t={NOW},v1=é",
        f"t={NOW},v0={'0' * 64}",
        f"v1={'0' * 64}",
        f"t=,v1={'0' * 64}",
        f"t=now,v1={'0' * 64}",
        f"t=-1,v1={'0' * 64}",
        f"t={'9' * 5000},v1={'0' * 64}",
        f"t=١٢٣,v1={'0' * 64}",
        ",,,===,",
    ],
)
def test_a_forged_stripe_header_is_refused_and_raises_nothing_else(header):
    assert not stripe_takes(header)


@given(st.text())
def test_no_stripe_header_raises_anything_else(header):
    assert not stripe_takes(header)


def test_only_v1_counts_and_only_as_it_is_written():
    timestamp, right = sign_stripe(BODY, "whsec_new", NOW).split(",")
    digest = right.removeprefix("v1=")
    assert stripe_takes(f"{timestamp},v1={digest}")
    for other in (f"v0={digest}", f"v2={digest}", f"v1={digest.upper()}", f"v1={digest[:-1]}", f"v1={digest}0"):
        assert not stripe_takes(f"{timestamp},{other}")
    assert not stripe_takes(f"t={NOW + 1},{right}"), "the timestamp is signed too"
    assert not stripe_takes(f"t=0{NOW},{right}"), "as it is written"


@pytest.mark.parametrize("timestamp", ["now", "", "-1", "1.5", "\u0661\u0667" + 8 * "\u0660", "1" * 13, "9" * 5000])
def test_a_timestamp_that_is_none_is_refused_although_it_is_signed(timestamp):
    digest = hmac.digest(b"whsec_new", timestamp.encode() + b"." + BODY, "sha256").hex()
    assert not stripe_takes(f"t={timestamp},v1={digest}")


def test_of_two_timestamps_the_first_is_the_signed_one():
    timestamp, right = sign_stripe(BODY, "whsec_new", NOW).split(",")
    assert stripe_takes(f"{timestamp},t={NOW - 9999},{right}")
    assert not stripe_takes(f"t={NOW - 9999},{timestamp},{right}")


def test_without_a_secret_nobody_is_let_in():
    assert not stripe_takes(sign_stripe(BODY, "", NOW), secrets=())


@pytest.mark.parametrize("webhook", [StripeWebhook([SecretStr("whsec_x")]), TwilioWebhook(URL, [SecretStr("whsec_x")])])
def test_a_webhook_does_not_show_its_secrets(webhook):
    assert "whsec_x" not in f"{webhook!r} {webhook}"


# Twilio


def vectors(payloads: Path) -> Iterator[tuple[str, str, list[tuple[str, str]], bytes, str, bool]]:
    """Name, URL, parameters, body, signature, and whether it is right; all under the token 12345."""
    for vector in json.loads((payloads / "twilio_signatures.json").read_text())["vectors"]:
        params: Any = vector["params"] or []
        form = [(n, v) for n, v in (params.items() if isinstance(params, dict) else params)]
        body = (vector["body"] or urlencode(form)).encode()
        yield vector["name"], vector["url"], form, body, vector["signature"], vector["valid"]


def test_twilios_own_vectors(payloads):
    wrong = []
    for name, url, form, body, signature, valid in vectors(payloads):
        try:
            tokens = [SecretStr("other"), SecretStr("12345")]
            verify_twilio_signature(url, form, body, signature=signature, signature_settings=None, tokens=tokens)
        except SignatureError:
            wrong += [name] if valid else []
        else:
            wrong += [] if valid else [name]
    assert len(list(vectors(payloads))) >= 19
    assert wrong == []


def test_twilios_own_vectors_as_raw_requests(payloads):
    """The same from what comes in: the address that we are known by, the query and the body as they stand."""
    wrong = []
    for name, url, form, body, signature, valid in vectors(payloads):
        address, _, query = url.partition("?")
        kind = "application/x-www-form-urlencoded; charset=UTF-8" if form else "application/json"
        headers = {"content-type": kind, "x-twilio-signature": signature}
        try:
            TwilioWebhook(address, [SecretStr("12345")]).read(headers, query, body, datetime.now(UTC))
        except SignatureError:
            wrong += [name] if valid else []
        else:
            wrong += [] if valid else [name]
    assert wrong == []


@given(st.lists(st.tuples(st.sampled_from(["CallSid", "To", "Täg", "a", "ab"]), st.text()), min_size=1))
def test_what_is_signed_of_a_form_is_what_the_package_signs(form):
    class Form(dict[str, list[str]]):
        def getall(self, name: str) -> list[str]:
            return self[name]

    values: Form = Form()
    for name, value in form:
        values.setdefault(name, []).append(value)
    try:
        signature = RequestValidator("new").compute_signature(URL, values)
    except UnicodeEncodeError:  # a lone surrogate, which no form can hold
        return
    assert twilio_takes(form, signature)
    assert not twilio_takes([*form, ("CallSid", "another")], signature) or ("CallSid", "another") in form


def test_blank_parameters_are_signed_too():
    form = parse_qsl("CallSid=CA1&ToZip=&To=%2B15550000001", keep_blank_values=True)
    assert twilio_takes(form, sign_twilio(form, URL, "new"))
    assert not twilio_takes([pair for pair in form if pair[1]], sign_twilio([*form, ("x", "y")], URL, "new"))


_PIECES = [
    "&",
    "=",
    "%",
    "+",
    "%26",
    "%3D",
    "%3d",
    "%00",
    "\0",
    "%2B",
    "%C3%A3",
    "%c3",
    "%ff",
    "ã",
    "a",
    "To",
    ";",
    "?",
]


@given(st.lists(st.sampled_from(_PIECES)).map("".join) | st.text(st.characters(codec="utf-8")))
def test_a_form_is_read_as_pythons_own_parser_reads_it(text):
    assert parse_form(text.encode()) == parse_qsl(text, keep_blank_values=True)


def test_a_form_of_too_many_parameters_or_other_bytes_is_none():
    assert len(parse_form(b"&".join([b"a=%41"] * 500))) == 500
    for body in (b"&".join([b"a=b"] * 501), b"&".join([b"a=%3D"] * 501), b"a=\xff"):
        with pytest.raises(ValueError):
            parse_form(body)


def test_while_a_token_is_rotated_both_are_right():
    form = [("CallSid", "CA1")]
    assert twilio_takes(form, sign_twilio(form, URL, "new"))
    assert twilio_takes(form, sign_twilio(form, URL, "old"))
    assert not twilio_takes(form, sign_twilio(form, URL, "older"))


def test_the_algorithm_is_the_one_that_the_header_names():
    form = [("CallSid", "CA1")]
    signature = sign_twilio(form, URL, "new", "sha256")
    assert twilio_takes(form, signature, named="key=webhooks_sharedkey_1,algorithm=HMAC_SHA256")
    assert not twilio_takes(form, signature)
    assert not twilio_takes(form, signature, named="key=webhooks_sharedkey_1,algorithm=HMAC_MD5")
    plain = sign_twilio(form, URL, "new")
    for nothing in ("", "algorithm=", "key=x", "algorithm= HMAC_SHA1 "):
        assert twilio_takes(form, plain, named=nothing)
    assert not twilio_takes(form, plain, named="algorithm=HMAC_SHA256")
    assert twilio_takes(form, signature, named="algorithm=hmac_sha256")


def test_a_body_without_parameters_must_be_named_by_the_url():
    body = b'{"CallSid": "CA1"}'
    url = f"{URL}?bodySHA256={hashlib.sha256(body).hexdigest()}"
    signature = sign_twilio([], url, "new")
    assert twilio_takes([], signature, url=url, body=body)
    assert not twilio_takes([], signature, url=url, body=b'{"CallSid": "CA2"}')
    # The package itself takes an empty form for any body.
    assert RequestValidator("new").validate(url, {}, signature)
    assert not twilio_takes([], signature, url=url, body=b"")


def test_a_body_that_the_url_does_not_name_is_refused_although_the_url_is_signed():
    body = b'{"CallSid": "CA1"}'
    for query in ("", "?a=b", "?bodySHA256="):
        assert not twilio_takes([], sign_twilio([], URL + query, "new"), url=URL + query, body=body)
    loud = f"{URL}?bodySHA256={hashlib.sha256(body).hexdigest().upper()}"
    assert twilio_takes([], sign_twilio([], loud, "new"), url=loud, body=body)


@pytest.mark.parametrize(
    ("signed", "called", "taken"),
    [
        ("https://b.example.com/v", "https://b.example.com:443/v", True),
        ("https://b.example.com/v", "https://b.example.com:8443/v", True),
        ("https://b.example.com:443/v", "https://b.example.com/v", True),
        ("http://b.example.com:80/v", "http://b.example.com/v", True),
        ("https://b.example.com:80/v", "https://b.example.com/v", False),
        ("https://b.example.com:8443/v", "https://b.example.com:443/v", False),
        ("https://b.example.com/v", "https://b.example.com/w", False),
    ],
)
def test_an_address_is_signed_with_its_port_or_without(signed, called, taken):
    form = [("CallSid", "CA1")]
    assert twilio_takes(form, sign_twilio(form, signed, "new"), url=called) is taken
    assert RequestValidator("new").validate(called, dict(form), sign_twilio(form, signed, "new")) is taken


@pytest.mark.parametrize("url", [URL + "?a=\udcff", "https://billing.example.com:99999/x", "https://[/x", ""])
@pytest.mark.parametrize("signature", [None, "", "é", "x" * 28])
@pytest.mark.parametrize("form", [[], [("CallSid", "\ud800")]])
def test_a_forged_twilio_request_is_refused_and_raises_nothing_else(url, signature, form):
    assert not twilio_takes(form, signature, url=url, body=b"\xff")


# Agreement with the packages


_HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@settings(deadline=None)
@given(
    body=st.text(st.characters(codec="utf-8"), max_size=40),
    signed=st.text(st.characters(codec="utf-8"), max_size=40) | st.none(),
    secret=st.sampled_from(["whsec_new", "whsec_old"]),
    seconds=st.integers(-400, 0),
    others=st.lists(_HEX, max_size=2),
)
def test_stripes_own_package_agrees(body, signed, secret, seconds, others):
    """``signed`` None: the body itself. The package takes timestamps from the future, so none is here."""
    header = sign_stripe((body if signed is None else signed).encode(), secret, NOW + seconds)
    header += "".join(f",v1={other}" for other in others)
    with freeze_time(datetime.fromtimestamp(NOW, UTC)):
        try:
            agreed = stripe.WebhookSignature.verify_header(body, header, "whsec_new", SIGNATURE_TOLERANCE)
        except stripe.SignatureVerificationError:
            agreed = False
    assert stripe_takes(header, body.encode()) is agreed


_PORTS = st.sampled_from(["", ":443", ":80", ":8443"])


@settings(deadline=None)
@given(
    scheme=st.sampled_from(["https", "http"]),
    ports=st.tuples(_PORTS, _PORTS),
    queries=st.sampled_from([("", ""), ("?a=b&c=%C3%A9", "?a=b&c=%C3%A9"), ("?x=1:2", "?x=1:2"), ("", "?a=b")]),
    params=st.dictionaries(
        st.sampled_from(["CallSid", "To", "Täg", "a", "ab"]), st.text(st.characters(codec="utf-8")), min_size=1
    ),
    added=st.dictionaries(st.just("Extra"), st.text(st.characters(codec="utf-8")), max_size=1),
    token=st.sampled_from(["new", "older"]),
    algorithm=st.sampled_from(["HMAC_SHA1", "HMAC_SHA256"]),
    named=st.sampled_from([None, "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256", "algorithm=hmac_sha1", "key=x"]),
)
def test_twilios_own_package_agrees(scheme, ports, queries, params, added, token, algorithm, named):
    """Signed for one address and called at another, with a parameter that was not signed, by this token."""
    url, called = (f"{scheme}://billing.example.com{ports[n]}/webhooks/twilio/voice{queries[n]}" for n in (0, 1))
    signature = RequestValidator(token).compute_signature(url, params, algorithm)
    sent = params | added
    agreed = RequestValidator("new").validate(called, sent, signature, get_signature_algorithm(named))
    assert twilio_takes(list(sent.items()), signature, url=called, named=named) is agreed


def test_the_receiver_loads_neither_package_nor_sqlalchemy():
    """Together they were more than half of its memory and of the time in which it starts."""
    program = "import sys, receiver.app; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "psycopg" in loaded.stdout.split()
    assert {"stripe", "twilio", "requests", "sqlalchemy"} & set(loaded.stdout.split()) == set()
