"""Who signed a webhook: the signatures of Stripe and of Twilio, computed on the raw bytes.

By hand, and agreed with both packages in tests: loading those cost the receiver most of its memory, Stripe's takes
timestamps from the future for good, and both raise several kinds of error on what is forged.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

#: Seconds that Stripe's signature is good for; its own tolerance.
SIGNATURE_TOLERANCE: Final = 300

#: What Twilio signs with, by the names in X-Twilio-Webhooks-Signature-Settings; without it the first.
_ALGORITHMS: Final = {"HMAC_SHA1": "sha1", "HMAC_SHA256": "sha256"}


class SignatureError(Exception):
    """A signature is missing, wrong or too old: the body came from somebody else, or can't be told to be theirs."""


def verify_stripe_signature(body: bytes, header: str | None, secrets: Sequence[SecretStr], machine_time: float) -> None:
    """Raise SignatureError unless ``Stripe-Signature`` signs this body with one of the endpoint's secrets, just now.

    ``machine_time`` in Unix seconds.
    """
    parts = [part.strip().partition("=") for part in (header or "").split(",")]
    timestamp = next((value for name, _, value in parts if name == "t"), "")
    given = [value.encode() for name, _, value in parts if name == "v1"]
    if not given or not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > 12:
        raise SignatureError("there is no Stripe-Signature with a timestamp and a v1 signature")
    signed = timestamp.encode() + b"." + body
    # Several secrets while one is rotated, several signatures while Stripe does: any pair will do.
    for secret in secrets:
        expected = hmac.digest(_key(secret), signed, "sha256").hex().encode()
        if any(hmac.compare_digest(expected, signature) for signature in given):
            break
    else:
        raise SignatureError("the signature is wrong: another secret or another body was signed")
    if abs(machine_time - int(timestamp)) > SIGNATURE_TOLERANCE:
        raise SignatureError(f"the signature's time is more than {SIGNATURE_TOLERANCE} s from ours")


def verify_twilio_signature(
    url: str,
    form: Sequence[tuple[str, str]],
    body: bytes,
    *,
    signature: str | None,
    signature_settings: str | None,
    tokens: Sequence[SecretStr],
) -> None:
    """Raise SignatureError unless ``X-Twilio-Signature`` signs this request with one of the tokens.

    ``url`` is what Twilio called, with its query; ``form`` are the body's parameters, blank and repeated ones too,
    and empty for a JSON body. ``signature_settings`` is the header X-Twilio-Webhooks-Signature-Settings, if it came.
    """
    if not signature:
        raise SignatureError("there is no X-Twilio-Signature")
    algorithm = _ALGORITHMS.get(_algorithm_named(signature_settings))
    if algorithm is None:
        raise SignatureError(f"it is signed by an algorithm that is not among {', '.join(_ALGORITHMS)}")
    try:
        # Without parameters only the URL is signed, which then has to name the body.
        if not form:
            named = parse_qs(urlsplit(url).query).get("bodySHA256", [""])[0]
            if not hmac.compare_digest(hashlib.sha256(body).hexdigest().encode(), named.lower().encode()):
                raise SignatureError("nothing signs the body: no parameters, and no bodySHA256 of it in the URL")
        # What is signed beside the URL: sorted, each pair once. A set of them all costs more than knowing that no name
        # repeats.
        pairs = form if len(dict(form)) == len(form) else set(form)
        signed = "".join([name + value for name, value in sorted(pairs)])
        given = signature.encode()
        for address in _addresses(url):
            whole = (address + signed).encode()
            for token in tokens:
                if hmac.compare_digest(base64.b64encode(hmac.digest(_key(token), whole, algorithm)), given):
                    return
    except ValueError as error:  # a port that is none, or text that is no text
        raise SignatureError(f"the signature can't be checked: {type(error).__name__}") from error
    raise SignatureError("the signature is wrong: another token, another address than PUBLIC_URL, or another body")


def _key(secret: SecretStr) -> bytes:
    return secret.get_secret_value().encode()


def _algorithm_named(settings: str | None) -> str:
    """The algorithm in a header such as ``key=…,algorithm=HMAC_SHA256``."""
    for part in (settings or "").split(","):
        name, _, value = part.partition("=")
        if name.strip() == "algorithm" and value.strip():
            return value.strip().upper()
    return "HMAC_SHA1"


def _addresses(url: str) -> Iterator[str]:
    """What Twilio may have signed for this address: with its port or without, it does both."""
    yield url
    split = urlsplit(url)
    if split.port:
        yield split._replace(netloc=split.netloc.partition(":")[0]).geturl()
    else:
        yield split._replace(netloc=f"{split.netloc}:{443 if split.scheme == 'https' else 80}").geturl()
