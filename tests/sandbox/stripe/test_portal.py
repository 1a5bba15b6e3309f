"""The stand-in's customer portal, in a browser: a plan is ended and kept, a card changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.worlds.browser import chromium
from tests.worlds.stripe_stand_in import StandIn


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


def subscribed(it: StandIn) -> tuple[str, Any]:
    customer, prices = it.customer(), it.plan()
    items: Any = [{"price": price} for price in prices.values()]
    return customer, it.client.v1.subscriptions.create({"customer": customer, "items": items})


@pytest.mark.parametrize("width", [390, 1200])
def test_a_customer_ends_a_plan_keeps_it_and_changes_the_card(it, width):
    customer, subscription = subscribed(it)
    look = it.client.v1.subscriptions.retrieve
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(f"{it.url}/_sandbox/stripe/portal/{customer}")
        page.get_by_role("button", name="Cancel the plan").click()
        page.get_by_text("ends 5 December 2026").wait_for()
        told = look(subscription.id)
        assert (told.cancel_at, told.cancel_at_period_end) == (told["items"].data[0].current_period_end, False)
        page.get_by_role("button", name="Keep the plan").click()
        page.get_by_role("button", name="Cancel the plan").wait_for()
        assert look(subscription.id).cancel_at is None
        page.get_by_label("Visa 0341, which is declined").check()
        page.get_by_role("button", name="Use this card").click()
        it.advance(2026, 12, 5, 12)
        assert look(subscription.id).status == "past_due"
        page.get_by_label("Visa 4242, which pays").check()
        page.get_by_role("button", name="Use this card").click()
        page.get_by_text("active").wait_for()
        assert look(subscription.id).status == "active"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert it.kinds().count("customer.subscription.updated") >= 4


def test_what_the_page_does_not_offer_is_refused(it):
    customer, subscription = subscribed(it)
    other = it.customer()
    address = f"/_sandbox/stripe/portal/{other}"
    assert it.http.get("/_sandbox/stripe/portal/cus_none").status_code == 404
    assert it.http.post(f"{address}/cancel", data={"subscription": subscription.id}).status_code == 400
    assert it.http.post(f"{address}/card", data={"card": "1"}).status_code == 400
    it.client.v1.subscriptions.cancel(subscription.id)
    own = f"/_sandbox/stripe/portal/{customer}"
    assert it.http.post(f"{own}/keep", data={"subscription": subscription.id}).status_code == 400
    assert "No plan at present." in it.http.get(own).text
