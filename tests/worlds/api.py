"""The API over real HTTP, with people who sign in as browsers do, and programs with their keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import httpx
import pyotp
from anyio import Semaphore
from fastapi import FastAPI
from pydantic import SecretStr

from accounts.access_tokens import AccessToken, sign_access_token
from accounts.mail_sending import send_due_mails
from api.app import AT_ONCE, describable
from api.browser import Cookies
from api.door import Door
from db import roles
from db.engine import make_engine
from pipeline.shared.settings import MailSettings
from tests.worlds.asgi_server import serving_in_thread
from tests.worlds.mail_server import MailServer
from tests.worlds.people import PASSWORD, People
from tests.worlds.stripe_stand_in import TLS

DASHBOARD = "http://127.0.0.1:8001"


class Api:
    """The API at ``url``, whose pages are at DASHBOARD."""

    def __init__(self, url: str, people: People, mails: MailServer) -> None:
        self.url = url
        self.people = people
        self.mails = mails
        self._clients: list[httpx.Client] = []

    def browser(self) -> "Browser":
        return Browser(self)

    def client(self, token: str | None = None, **headers: str) -> httpx.Client:
        """A client with this access token, or key."""
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        made = httpx.Client(base_url=f"{self.url}/v1", headers=authorization | headers, timeout=30, verify=TLS)
        self._clients.append(made)
        return made

    def signed_in(self, user_id: int, *, staff: bool = False, second_factor: bool = False) -> httpx.Client:
        """A client of somebody who has signed in just now, without the work of doing so."""
        begun = self.people.session(user_id, staff=staff, second_factor=second_factor)
        return self.client(sign_access_token(self.people.keys, AccessToken(user_id, begun.session_id)))

    def mail(self, address: str | None = None) -> str:
        """Send what waits; the secret of the newest mail with a link, to this address."""
        settings = MailSettings(smtp_url=SecretStr(self.mails.url))
        send_due_mails(self.people.engine, settings, DASHBOARD)
        return self.mails.newest_secret(address)

    def close(self) -> None:
        for each in self._clients:
            each.close()


class Browser:
    """Somebody's browser on one of our pages: it keeps cookies, and says where a request comes from."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.http = api.client(**{"Sec-Fetch-Site": "same-origin"})
        self.secret: str | None = None

    def ask(self, method: str, path: str, body: Any = None, *, status: int | None = None) -> Any:
        answer = self.http.request(method, path, json=body)
        if status is None:
            assert answer.status_code < 300, (answer.status_code, answer.text)
        else:
            assert answer.status_code == status, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def get(self, path: str, *, status: int | None = None) -> Any:
        return self.ask("GET", path, status=status)

    def post(self, path: str, *, status: int | None = None, **body: Any) -> Any:
        return self.ask("POST", path, body or None, status=status)

    def patch(self, path: str, *, status: int | None = None, **body: Any) -> Any:
        return self.ask("PATCH", path, body, status=status)

    def delete(self, path: str, *, status: int | None = None) -> Any:
        return self.ask("DELETE", path, status=status)

    def sign_in(self, email: str, password: str = PASSWORD, *, status: int | None = None, **code: str) -> Any:
        answer = self.post("/sessions", email=email, password=password, status=status, **code)
        if "access_token" in answer:
            self.http.headers["Authorization"] = f"Bearer {answer['access_token']}"
        return answer

    def code(self) -> str:
        """A code of the second factor that was not used yet."""
        assert self.secret is not None
        self.api.people.run("update users set totp_step = totp_step - 5 where totp_step is not null")
        return pyotp.TOTP(self.secret).now()


@cache
def _application() -> FastAPI:
    """Put together once: it takes a tenth of a second, and each test has its own database behind it."""
    return describable()


@contextmanager
def serving_api(people: People, dashboard: str = DASHBOARD) -> Iterator[Api]:
    """The API in a thread of this process."""
    url = people.engine.url.render_as_string(hide_password=False)
    staff, tenants = (make_engine(roles.address_of(url, login)) for login in (roles.STAFF, roles.TENANT))
    app = _application()
    app.state.engine, app.state.tenants, app.state.keys = staff, tenants, people.keys
    app.state.at_once = Semaphore(AT_ONCE)
    app.state.origin, app.state.cookies = dashboard, Cookies(dashboard)
    with MailServer().running() as mails, serving_in_thread(Door(app)) as url:
        api = Api(url, people, mails)
        yield api
        api.close()
    for engine in (staff, tenants):
        engine.dispose()
