"""The stand-in's customer portal: a page on which a customer ends a plan or keeps it, and changes the card."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.stripe.account.lifecycle import ENDED
from sandbox.stripe.account.state import Object, instant
from sandbox.stripe.by_hand import StripeAccount

PATH = "/_sandbox/stripe/portal"

#: The cards that can be chosen: Stripe's own numbers of a test account.
CARDS = {"4242": "Visa 4242, which pays", "0341": "Visa 0341, which is declined"}

#: Some of the currencies that have no smaller unit.
_WITHOUT_DIGITS = frozenset({"jpy", "krw", "vnd", "clp"})

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def portal_routes(stripe: StripeAccount) -> list[Route]:
    """The page of a customer, and what its buttons do; every click leads back to it."""

    async def show(request: Request) -> Response:
        customer = stripe.state.customers.get(request.path_params["customer"])
        if customer is None or customer.get("deleted"):
            return HTMLResponse("There is no such customer.", status_code=404)
        living = [
            _shown(each)
            for each in stripe.state.subscriptions.values()
            if each["customer"] == customer["id"] and each["status"] not in ENDED
        ]
        invoices = [
            {"number": each["number"], "status": each["status"], "total": _money(each["total"], each["currency"])}
            for each in stripe.state.invoices.values()
            if each["customer"] == customer["id"] and each["number"] is not None
        ]
        page = _PAGES.get_template("portal.html").render(
            customer=customer, subscriptions=living, invoices=invoices[::-1], cards=CARDS, address=_address(customer)
        )
        return HTMLResponse(page)

    async def cancel(subscription: str) -> None:
        await stripe.cancel_in_portal(subscription)

    async def keep(subscription: str) -> None:
        await stripe.keep_in_portal(subscription)

    async def change_card(request: Request) -> Response:
        customer, card = request.path_params["customer"], await _field(request, "card")
        if customer not in stripe.state.customers or card not in CARDS:
            return HTMLResponse("Choose one of the cards that are offered.", status_code=400)
        await stripe.change_card(customer, pays=card == "4242")
        return _back(customer)

    def of_subscription(act: Callable[[str], Awaitable[None]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            customer, subscription = request.path_params["customer"], await _field(request, "subscription")
            stored = stripe.state.subscriptions.get(subscription)
            if stored is None or stored["customer"] != customer or stored["status"] in ENDED:
                return HTMLResponse("This plan has ended already, or is somebody else's.", status_code=400)
            await act(subscription)
            return _back(customer)

        return endpoint

    page = PATH + "/{customer}"
    return [
        Route(page, show, methods=["GET"]),
        Route(f"{page}/cancel", of_subscription(cancel), methods=["POST"]),
        Route(f"{page}/keep", of_subscription(keep), methods=["POST"]),
        Route(f"{page}/card", change_card, methods=["POST"]),
    ]


def _address(customer: Object) -> str:
    return f"{PATH}/{customer['id']}"


def _back(customer: str) -> Response:
    return RedirectResponse(f"{PATH}/{customer}", status_code=303)


async def _field(request: Request, name: str) -> str:
    return parse_qs((await request.body()).decode()).get(name, [""])[0]


def _shown(subscription: Object) -> Object:
    ends = subscription["cancel_at"]
    return {
        "id": subscription["id"],
        "status": subscription["status"].replace("_", " "),
        "items": [item["price"]["nickname"] or item["price"]["id"] for item in subscription["items"]["data"]],
        "ends": None if ends is None else f"{instant(ends):%-d %B %Y, %H:%M} UTC",
    }


def _money(amount: int, currency: str) -> str:
    whole = f"{amount:,}" if currency in _WITHOUT_DIGITS else f"{amount / 100:,.2f}"
    return f"{whole} {currency.upper()}"
