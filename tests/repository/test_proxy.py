"""The proxy's configuration, tried with the program itself: TLS, and nothing but /webhooks/ and /v1/ comes in."""

import http.client
import json
import os
import shutil
import ssl
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from accounts.secret_keys import SecretKeys
from ops.processes import recipes
from ops.processes.repository import REPOSITORY
from ops.processes.supervisor import free_port
from tests.worlds.people import PASSWORD, People
from tests.worlds.webhooks import from_stripe, start_receiver, stripe_event

CADDY = shutil.which("caddy")


@pytest.fixture
def proxy(environment, processes, tmp_path):
    """A receiver behind it; gives a function that asks the proxy by TLS."""
    if CADDY is None:
        pytest.skip("caddy is not installed here")
    receiver = start_receiver(processes, environment)
    port, api, people = (free_port() for _ in range(3))
    dashboard = f"https://localhost:{people}"
    trusting = {"ALTIORA_DASHBOARD_URL": dashboard, "ALTIORA_TRUSTED_PROXIES": "127.0.0.1"}
    recipes.api(api).start(processes, environment | trusting)
    given = {
        "ALTIORA_DASHBOARD_URL": dashboard,
        "ALTIORA_API": f"127.0.0.1:{api}",
        "ALTIORA_PUBLIC_URL": f"https://localhost:{port}",
        "ALTIORA_RECEIVER": f"127.0.0.1:{receiver}",
        "CADDY_HTTP_PORT": str(free_port()),
        "CADDY_HTTPS_PORT": str(port),
        "CADDY_ADMIN": "off",  # one port less that somebody else may take meanwhile
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    untrusting = ssl.create_default_context()
    untrusting.check_hostname = False
    untrusting.verify_mode = ssl.CERT_NONE

    def answer(
        method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, *, of_people: bool = False
    ) -> http.client.HTTPResponse:
        connection = http.client.HTTPSConnection(
            "localhost", people if of_people else port, timeout=20, context=untrusting
        )
        try:
            connection.request(method, path, body, headers or {})
            found = connection.getresponse()
            found.read()
            return found
        finally:
            connection.close()

    def ask(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> int:
        return answer(method, path, body, headers).status

    def answers() -> bool:
        try:
            return ask("GET", "/") == 404
        except OSError:
            return False

    command = [CADDY, "run", "--config", str(REPOSITORY / "Caddyfile"), "--adapter", "caddyfile"]
    processes.start("proxy", command, os.environ | given, ready=answers)
    return SimpleNamespace(ask=ask, answer=answer, dashboard=dashboard)


def test_people_reach_the_api_alone_by_their_own_address_and_are_known_by_it(proxy, engine):
    People(engine, SecretKeys([SecretStr("k" * 40)])).user("Ada")
    body = json.dumps({"email": "ada@example.com", "password": PASSWORD}).encode()
    headers = {
        "Content-Type": "application/json",
        "Origin": proxy.dashboard,
        "X-Forwarded-For": "203.0.113.9",
        "X-Forwarded-Proto": "http",
    }
    signed_in = proxy.answer("POST", "/v1/sessions", body, headers, of_people=True)
    assert signed_in.status == 201
    cookies = signed_in.headers.get_all("set-cookie")
    assert cookies[0].startswith("__Host-altiora_refresh=")
    assert all("Secure" in each and "HttpOnly" in each for each in cookies)
    assert "max-age=31536000" in signed_in.headers["strict-transport-security"]
    with engine.connect() as connection:
        found = connection.exec_driver_sql("select address from sessions").scalar_one()
    assert found in {"127.0.0.1", "::1"}, "not what a client says of itself"
    for path in ("/", "/metrics", "/health/live", "/webhooks/stripe", "/v1", "/v1/../metrics", "/v1/%2e%2e/metrics"):
        assert proxy.answer("GET", path, of_people=True).status == 404, path
    assert proxy.answer("GET", "/v1/me").status == 404, "not by the address of the webhooks"


def test_only_webhooks_come_in_and_as_they_were_sent(proxy):
    proxy = proxy.ask
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
    proxy = proxy.ask
    for path in ("/webhooks/../metrics", "/webhooks/%2e%2e/metrics", "/webhooks//../metrics", "/WEBHOOKS/../metrics"):
        assert proxy("GET", path) == 404, path
