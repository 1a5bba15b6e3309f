"""Sessions as browsers have them: cookies, origins, two tabs, and what is asked for again."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pyotp
import pytest

from accounts import attempt_limits
from accounts.rights import Role
from api.app import build
from api.browser import Cookies
from api.door import Door
from api.server import config
from tests.worlds.api import serving_api
from tests.worlds.asgi_server import serving_in_thread
from tests.worlds.people import PASSWORD


def cookie(answer: httpx.Response, name: str) -> str:
    (found,) = [each for each in answer.headers.get_list("set-cookie") if each.startswith(f"{name}=")]
    return found


def test_cookies_are_for_http_alone_and_by_https_pinned_to_the_host(people):
    people.user("Ada")
    for dashboard, prefix, secure in (
        ("https://app.example.com", "__Host-", True),
        ("http://localhost:8001", "", False),
    ):
        with serving_api(people, dashboard) as api:
            answer = api.browser().http.post("/sessions", json={"email": "ada@example.com", "password": PASSWORD})
            for name in ("altiora_refresh", "altiora_device"):
                kept = cookie(answer, prefix + name).lower()
                assert "httponly" in kept
                assert "samesite=strict" in kept
                assert "path=/" in kept
                assert "domain" not in kept
                assert ("secure" in kept) == secure
            assert "refresh" not in answer.text, "no script sees it"


def test_a_session_goes_on_by_its_cookie_and_ends_with_it(api, people):
    people.user("Ada")
    ada = api.browser()
    first = ada.sign_in("ada@example.com")
    token = ada.http.cookies["altiora_refresh"]
    second = ada.post("/sessions/refresh")
    assert second["session_id"] == first["session_id"]
    assert ada.http.cookies["altiora_refresh"] != token
    ada.delete("/sessions/present")
    assert "altiora_refresh" not in ada.http.cookies
    ada.get("/me", status=401)
    ada.http.cookies["altiora_refresh"] = token
    ada.post("/sessions/refresh", status=401)


def test_eight_tabs_that_refresh_at_once_all_go_on(api, people):
    people.user("Ada")
    ada = api.browser()
    ada.sign_in("ada@example.com")
    token = ada.http.cookies["altiora_refresh"]
    headers = {"Cookie": f"altiora_refresh={token}", "Sec-Fetch-Site": "same-origin"}

    def refresh(_: int) -> tuple[int, str]:
        answer = httpx.post(f"{api.url}/v1/sessions/refresh", headers=headers)
        return answer.status_code, cookie(answer, "altiora_refresh").partition(";")[0]

    with ThreadPoolExecutor(8) as pool:
        assert len({*pool.map(refresh, range(8))}) == 1


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "http://127.0.0.1:8001"}, True),
        ({}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "none"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8001"}, False),
        ({"Origin": "http://127.0.0.1:8001.evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "https://127.0.0.1:8001"}, False),
        ({"Referer": "http://127.0.0.1:8001/"}, False),
    ],
    ids=str,
)
def test_what_sets_or_reads_a_cookie_is_for_our_own_pages(api, people, headers, allowed):
    people.user("Ada")
    client = api.client(**headers)
    for path, body in (
        ("/sessions", {"email": "ada@example.com", "password": PASSWORD}),
        ("/sessions/refresh", None),
        ("/sign-ups", {"email": "zoe@example.com"}),
        ("/password-resets", {"email": "zoe@example.com"}),
        ("/links/look", {"secret": "x"}),
        ("/links/accept", {"secret": "x"}),
    ):
        answer = client.post(path, json=body)
        assert (answer.status_code != 403) == allowed, (path, answer.text)
    assert bool(people.rows("select from sessions")) == allowed


def test_a_link_is_made_of_the_setting_whatever_the_request_calls_us(api):
    host = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Sec-Fetch-Site": "same-origin"}
    assert api.client(**host).post("/sign-ups", json={"email": "ada@example.com"}).status_code == 202
    api.mail()
    assert "evil.example" not in str(api.mails.mails[-1])
    assert "http://127.0.0.1:8001/link#" in str(api.mails.mails[-1].get_body(("plain",)))


def test_what_would_hurt_is_asked_for_again_after_fifteen_minutes(api, people):
    ada = people.user("Ada")
    bakery = people.business("Bakery", owner=ada)
    browser = api.browser()
    browser.sign_in("ada@example.com")
    people.run("update sessions set proven_at = proven_at - interval '16 minutes'")
    for method, path, body in (
        ("POST", f"/businesses/{bakery}/api-keys", {"name": "x", "scopes": ["members:read"]}),
        ("POST", f"/businesses/{bakery}/invitations", {"email": "b@example.com", "role": "member"}),
        ("POST", f"/businesses/{bakery}/ownership", {"email": "b@example.com"}),
        ("DELETE", f"/businesses/{bakery}", None),
        ("POST", "/me/password", {"password": PASSWORD}),
        ("POST", "/me/email", {"email": "b@example.com"}),
        ("DELETE", "/me/second-factor", None),
        ("DELETE", "/me", None),
    ):
        assert browser.ask(method, path, body, status=403)["type"].endswith(":prove-again")
    browser.patch("/me", name="Ada B")
    browser.post("/me/proofs", password="wrong", status=401)
    browser.post("/me/proofs", password=PASSWORD)
    browser.post(f"/businesses/{bakery}/api-keys", name="x", scopes=["members:read"])


def test_staff_without_a_second_factor_may_set_one_up_and_nothing_else(api, people):
    people.user("Root", staff=Role.ADMINISTRATOR)
    root = api.browser()
    root.sign_in("root@example.com")
    assert root.get("/users", status=403)["type"].endswith(":second-factor-needed")
    assert root.get("/businesses", status=403)["type"].endswith(":second-factor-needed")
    root.patch("/me", name="Other", status=403)
    root.secret = root.post("/me/second-factor")["secret"]
    root.post("/me/second-factor/confirmations", code=root.code())
    assert len(root.get("/users")["data"]) == 1
    root.delete("/me/second-factor", status=409)
    other = api.browser()
    other.sign_in("root@example.com", status=401)
    other.secret = root.secret
    other.sign_in("root@example.com", code=other.code())
    assert other.get("/me")["staff_role"] == "administrator"


def test_a_code_that_was_used_signs_nobody_in_again(api, people):
    ada = people.user("Ada")
    secret, _ = people.enrol(ada)
    code = pyotp.TOTP(secret).now()
    api.browser().sign_in("ada@example.com", code=code)
    assert api.browser().sign_in("ada@example.com", code=code, status=422)["type"].endswith(":code-refused")


# Limits


def test_strangers_have_few_attempts_and_lock_nobody_out(api, people):
    people.user("Ada")
    ada = api.browser()
    ada.sign_in("ada@example.com")
    stranger = api.browser()
    limit = attempt_limits.SIGN_IN_BY_ACCOUNT.count
    for _ in range(limit - 1):  # the first sign-in was from a browser that was not known
        stranger.sign_in("ada@example.com", "a guess", status=401)
    answer = stranger.http.post("/sessions", json={"email": "ADA@example.com", "password": PASSWORD})
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 0
    assert ada.sign_in("ada@example.com")["access_token"], "her own browser is known"


def test_mails_to_an_address_are_few_and_what_is_answered_tells_nothing(api, people):
    people.user("Ada")
    browser = api.browser()
    answers = {
        browser.http.post(path, json={"email": email}).text
        for path in ("/sign-ups", "/password-resets")
        for email in ("ada@example.com", "zoe@example.com")
    }
    assert len(answers) == 1
    for _ in range(attempt_limits.MAILS_TO.count - 1):
        browser.post("/sign-ups", email="Ada@example.com")
    browser.post("/sign-ups", email="ada@example.com", status=429)
    # Whoever signs somebody up again and again keeps nobody from a new password.
    browser.post("/password-resets", email="ada@example.com")
    browser.post("/password-resets", email="other@example.com")


def test_nobody_has_us_write_to_everybody(api, people):
    ada = people.user("Ada")
    bakery = people.business("Bakery", owner=ada)
    client = api.signed_in(ada)

    def invite(address: str) -> int:
        body = {"email": address, "role": "member"}
        return int(client.post(f"/businesses/{bakery}/invitations", json=body).status_code)

    limit = attempt_limits.MAILS_TO.count
    assert [invite("bob@example.com") for _ in range(limit + 1)] == [201] * limit + [429]
    others = [invite(f"bob{number}@example.com") for number in range(attempt_limits.MAILS_BY_USER.count)]
    assert others[-1] == 429
    assert people.one("select count(*) from mails") == attempt_limits.MAILS_BY_USER.count


@pytest.mark.parametrize(("trusted", "seen"), [((), "127.0.0.1"), (("127.0.0.1",), "203.0.113.9")])
def test_whom_a_proxy_names_counts_only_when_the_proxy_is_trusted(people, trusted, seen):
    people.user("Ada")
    app = Door(build(people.engine, people.engine, people.keys, "http://127.0.0.1:8001", livemode=False))
    with serving_in_thread(app, config(app, trusted, host="127.0.0.1", port=0)) as url:
        headers = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "Sec-Fetch-Site": "same-origin"}
        answer = httpx.post(
            f"{url}/v1/sessions", json={"email": "ada@example.com", "password": PASSWORD}, headers=headers
        )
        assert answer.status_code == 201
        assert "server" not in answer.headers
    assert people.one("select address from sessions") == seen


def test_the_names_of_the_cookies():
    assert Cookies("https://app.example.com").refresh == "__Host-altiora_refresh"
    assert Cookies("http://127.0.0.1:8001").refresh == "altiora_refresh"


# Time


def test_known_and_unknown_addresses_can_not_be_told_apart_by_the_time(api, people, monkeypatch):
    """200 of each, interleaved: the chance that a known one took longer than an unknown one is about a half."""
    for name in ("SIGN_IN_BY_ADDRESS", "SIGN_IN_BY_ACCOUNT"):
        monkeypatch.setattr(attempt_limits, name, replace(getattr(attempt_limits, name), count=10_000))
    people.user("Ada")
    browser = api.browser()
    times: dict[str, list[float]] = {"ada@example.com": [], "zoe@example.com": []}
    for _ in range(200):
        for email, taken in times.items():
            began = time.perf_counter()
            answer = browser.http.post("/sessions", json={"email": email, "password": "not the right one at all"})
            taken.append(time.perf_counter() - began)
            assert answer.status_code == 401
    known, unknown = times.values()
    auc = sum((a > b) + (a == b) / 2 for a in known for b in unknown) / len(known) / len(unknown)
    assert 0.40 < auc < 0.60, auc
