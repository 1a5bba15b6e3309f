"""Sessions in a real Chromium, on http://localhost and behind TLS: what it keeps, what scripts see, who may ask."""

import pytest
from playwright.sync_api import Browser, Page

from tests.repository.test_proxy import proxy
from tests.worlds.api import serving_api
from tests.worlds.browser import chromium
from tests.worlds.people import PASSWORD

__all__ = ["proxy"]

_ASK = """
async ([method, path, body]) => {
  const answer = await fetch(path, {method, credentials: "include", headers: {"Content-Type": "application/json"},
                                    body: body ? JSON.stringify(body) : undefined});
  return [answer.status, answer.status === 204 ? null : await answer.json()];
}
"""


@pytest.fixture
def browser():
    with chromium() as it:
        yield it


def page_at(browser: Browser, origin: str) -> Page:
    """An empty page of ours at this origin: what it asks for there is asked as the dashboard would."""
    page = browser.new_context(ignore_https_errors=True).new_page()
    open_at(page, origin)
    return page


def open_at(page: Page, origin: str) -> None:
    page.route(f"{origin}/", lambda route: route.fulfill(body="<title>A page</title>", content_type="text/html"))
    page.goto(f"{origin}/")


def ask(page: Page, method: str, path: str, body: dict[str, str] | None = None) -> tuple[int, dict[str, object] | None]:
    status, content = page.evaluate(_ASK, [method, path, body])
    return status, content


def live(page: Page, prefix: str, secure: bool) -> None:
    """A session from its beginning to its end, in one browser with two tabs."""
    status, signed_in = ask(page, "POST", "/v1/sessions", {"email": "ada@example.com", "password": PASSWORD})
    assert status == 201
    assert signed_in is not None
    assert page.evaluate("document.cookie") == "", "no script sees one"
    kept = {each["name"]: each for each in page.context.cookies()}
    assert set(kept) == {f"{prefix}altiora_refresh", f"{prefix}altiora_device"}
    for each in kept.values():
        assert (each["httpOnly"], each["sameSite"], each["secure"], each["path"]) == (True, "Strict", secure, "/")
    both = page.evaluate(
        'Promise.all([1, 2].map(() => fetch("/v1/sessions/refresh", {method: "POST"}).then(it => it.status)))'
    )
    assert both == [200, 200]
    status, refreshed = ask(page, "POST", "/v1/sessions/refresh")
    assert status == 200
    assert refreshed is not None
    assert refreshed["session_id"] == signed_in["session_id"]
    gone = page.evaluate(
        """token => fetch("/v1/sessions/present", {method: "DELETE", headers: {Authorization: `Bearer ${token}`}})
                    .then(it => it.status)""",
        refreshed["access_token"],
    )
    assert gone == 204
    assert {each["name"] for each in page.context.cookies()} == {f"{prefix}altiora_device"}
    assert ask(page, "POST", "/v1/sessions/refresh")[0] == 401


def test_on_localhost_without_tls(people, browser):
    people.user("Ada")
    with serving_api(people, "http://localhost:8001") as api:
        live(page_at(browser, api.url.replace("127.0.0.1", "localhost")), "", secure=False)


def test_behind_the_proxy_with_tls(people, browser, proxy):
    people.user("Ada")
    live(page_at(browser, proxy.dashboard), "__Host-", secure=True)


def test_a_page_of_somebody_else_gets_nothing(people, browser):
    people.user("Ada")
    with serving_api(people, "http://localhost:8001") as api:
        ours = api.url.replace("127.0.0.1", "localhost")
        page = page_at(browser, ours)
        assert ask(page, "POST", "/v1/sessions", {"email": "ada@example.com", "password": PASSWORD})[0] == 201
        before = people.rows("select number, used_at from refresh_tokens")
        open_at(page, "http://evil.example")
        refused = page.evaluate(
            """address => fetch(address, {method: "POST", credentials: "include", mode: "no-cors"})
                          .then(it => it.type, error => String(error))""",
            f"{ours}/v1/sessions/refresh",
        )
        assert refused in {"opaque", "TypeError: Failed to fetch"}
        assert people.rows("select number, used_at from refresh_tokens") == before, "nothing was refreshed"
