"""What a browser keeps for us: two cookies that no script reads, which are set and read for our own pages only."""

from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.responses import Response

from accounts.sessions import LONGEST
from api.problems import Problem

#: As long as browsers keep one.
_DEVICE_SECONDS: Final = 400 * 86_400


class Cookies:
    """The refresh token and the device's mark; by https with the prefix that pins them to this host (RFC 6265bis)."""

    def __init__(self, dashboard_url: str) -> None:
        self._secure = urlsplit(dashboard_url).scheme == "https"
        # Safari takes no Secure cookie over plain http; by http only this machine is served (DashboardSettings).
        prefix = "__Host-" if self._secure else ""
        self.refresh = f"{prefix}altiora_refresh"
        self.device = f"{prefix}altiora_device"

    def keep(self, response: Response, refresh: str, device: str | None = None) -> None:
        """Have the browser keep these."""
        self._set(response, self.refresh, refresh, int(LONGEST.total_seconds()))
        if device is not None:
            self._set(response, self.device, device, _DEVICE_SECONDS)

    def forget(self, response: Response) -> None:
        """Have the browser forget the session; the device stays known."""
        self._set(response, self.refresh, "", 0)

    def _set(self, response: Response, name: str, value: str, seconds: int) -> None:
        response.set_cookie(
            name, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="strict"
        )


def of_our_pages(request: Request) -> None:
    """See that a request comes from our own pages, or from a program that is no browser and says so by Origin.

    Raises Problem.
    """
    site = request.headers.get("sec-fetch-site")
    ours = site == "same-origin" if site is not None else request.headers.get("origin") == request.app.state.origin
    if not ours:
        raise Problem(
            403, "other-origin", "this is for pages of the dashboard; a program sends its address as Origin, or a key"
        )


OfOurPages = Annotated[None, Depends(of_our_pages)]


def cookies(request: Request) -> Cookies:
    """The cookies of this application."""
    found: Cookies = request.app.state.cookies
    return found


def client_address(request: Request) -> str:
    """Who is at the other end; of a trusted proxy whom that names (the server sees to it)."""
    return request.client.host if request.client else "unknown"
