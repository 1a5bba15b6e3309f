"""The proxy's configuration, tried with the program itself: TLS, and nothing but /webhooks/ comes in."""

import http.client
import os
import shutil
import ssl

import pytest

from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import free_port
from tests.worlds.webhooks import from_stripe, start_receiver, stripe_event

CADDY = shutil.which("caddy")


@pytest.fixture
def proxy(environment, processes, tmp_path):
    """A receiver behind it; gives a function that asks the proxy by TLS."""
    if CADDY is None:
        pytest.skip("caddy is not installed here")
    receiver = start_receiver(processes, environment)
    port, admin = free_port(), free_port()
    given = {
        "ALTIORA_PUBLIC_URL": f"https://localhost:{port}",
        "ALTIORA_RECEIVER": f"127.0.0.1:{receiver}",
        "CADDY_HTTP_PORT": str(free_port()),
        "CADDY_HTTPS_PORT": str(port),
        "CADDY_ADMIN": f"127.0.0.1:{admin}",
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    untrusting = ssl.create_default_context()
    untrusting.check_hostname = False
    untrusting.verify_mode = ssl.CERT_NONE

    def ask(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=untrusting)
        try:
            connection.request(method, path, body, headers or {})
            return connection.getresponse().status
        finally:
            connection.close()

    def answers() -> bool:
        try:
            return ask("GET", "/") == 404
        except OSError:
            return False

    command = [CADDY, "run", "--config", str(REPOSITORY / "Caddyfile"), "--adapter", "caddyfile"]
    processes.start("proxy", command, os.environ | given, ready=answers)
    return ask


def test_only_webhooks_come_in_and_as_they_were_sent(proxy):
    event = from_stripe(stripe_event(1))
    assert proxy("POST", event.path, event.body, dict(event.headers)) == 200
    assert proxy("POST", event.path, event.body + b" ", dict(event.headers)) == 403
    for path in ("/", "/metrics", "/health/live", "/health/ready", "/health/backlog", "/webhooks", "/webhooksx/stripe"):
        assert proxy("GET", path) == 404, path
    assert proxy("GET", "/webhooks/stripe") == 405
    large = stripe_event("large", filling="x" * 1_100_000)
    signed = from_stripe(large)
    assert proxy("POST", signed.path, signed.body, dict(signed.headers)) in {413, 502}


def test_paths_that_lead_out_of_webhooks_lead_nowhere(proxy):
    for path in ("/webhooks/../metrics", "/webhooks/%2e%2e/metrics", "/webhooks//../metrics", "/WEBHOOKS/../metrics"):
        assert proxy("GET", path) == 404, path
