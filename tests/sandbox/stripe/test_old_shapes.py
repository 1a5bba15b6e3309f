"""The stand-in's events in the shapes of older API versions."""

from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.stripe.api.old_shapes import reshaped
from tests.worlds.stripe_stand_in import START, StandIn, seconds

END = datetime(2026, 12, 5, 10, 23, 45, tzinfo=UTC)
TODAY = "2026-10-28.endive"


def renewed(it: StandIn) -> dict[str, str]:
    """A subscription through its first renewal; its prices."""
    prices, customer = it.plan(), it.customer()
    it.subscribe(customer, prices)
    it.report(customer, "510", "i1")
    it.run(it.timeline.advance(END))
    return prices


def last(it: StandIn, kind: str) -> dict[str, Any]:
    return it.of_kind(kind)[-1]


def test_events_have_todays_shape_unless_told_otherwise(host, tmp_path):
    with host.fresh(tmp_path) as it:
        renewed(it)
        assert {event["api_version"] for event in it.events} == {TODAY}
        assert "parent" in last(it, "invoice.created")["data"]["object"]


@pytest.mark.parametrize("version", ["2020-08-27", "2024-06-20", "2025-02-24.acacia"])
def test_before_basil_the_period_is_the_subscriptions(host, tmp_path, version):
    with host.fresh(tmp_path, webhook_api_version=version) as it:
        prices = renewed(it)
        event = last(it, "customer.subscription.updated")
    assert event["api_version"] == version
    subscription = event["data"]["object"]
    assert (subscription["current_period_start"], "billing_mode" in subscription) == (seconds(END), False)
    assert "status_details" not in subscription
    for item, price in zip(subscription["items"]["data"], prices.values(), strict=True):
        assert not {"current_period_start", "current_period_end"} & set(item)
        assert (item["plan"]["id"], item["price"]["id"]) == (price, price)
    assert [item["plan"]["usage_type"] for item in subscription["items"]["data"]] == ["licensed", "metered"]
    previous = event["data"]["previous_attributes"]
    assert previous["current_period_start"] == seconds(START)
    assert previous["current_period_end"] == seconds(END)
    assert "items" not in previous
    assert isinstance(previous["latest_invoice"], str)


def test_before_basil_an_invoice_names_its_subscription_and_a_line_its_price(host, tmp_path):
    with host.fresh(tmp_path, webhook_api_version="2024-06-20") as it:
        prices = renewed(it)
        invoice = last(it, "invoice.created")["data"]["object"]
        paid = last(it, "invoice.paid")["data"]["object"]
        (subscription,) = it.sandbox.state.subscriptions
    assert (invoice["subscription"], invoice["subscription_details"]) == (subscription, {"metadata": {}})
    assert (invoice["paid"], paid["paid"]) == (False, True)
    assert not {"parent", "total_taxes", "status_details"} & set(invoice)
    assert invoice["automatically_finalizes_at"] == seconds(END) + 3600
    shown = [
        (line["price"]["id"], line["plan"]["id"], line["quantity"], line["amount"]) for line in invoice["lines"]["data"]
    ]
    minutes, flat = prices["metered"], prices["flat"]
    assert shown == [(minutes, minutes, 500, 0), (minutes, minutes, 10, 120), (flat, flat, 1, 4900)]
    for line in invoice["lines"]["data"]:
        assert (line["subscription"], line["type"], line["proration"]) == (subscription, "subscription", False)
        assert line["subscription_item"].startswith("si_")
        assert not {"parent", "pricing", "quantity_decimal"} & set(line)


def test_between_the_versions(host, tmp_path):
    with host.fresh(tmp_path, webhook_api_version="2025-03-31.basil") as it:
        renewed(it)
        basil = last(it, "customer.subscription.updated")["data"]["object"]
        line = last(it, "invoice.created")["data"]["object"]["lines"]["data"][0]
        assert ("billing_mode" in basil, "current_period_end" in basil) == (False, False)
        assert ("parent" in line, "quantity_decimal" in line) == (True, False)
        it.control("/stripe/rules", webhook_api_version="2025-09-30.clover")
        it.subscribe(it.customer(), it.plan())
        clover = last(it, "customer.subscription.created")["data"]["object"]
        assert (clover["billing_mode"]["type"], "status_details" in clover) == ("flexible", False)


def test_an_event_keeps_its_version_while_the_api_speaks_todays(host, tmp_path):
    with host.fresh(tmp_path, webhook_api_version="2024-06-20") as it:
        renewed(it)
        event = last(it, "invoice.created")
        endpoint = it.control("/stripe/webhook-endpoints", url="http://localhost/webhooks/stripe", enabled_events=["*"])
        assert it.sandbox.state.webhook_endpoints[endpoint]["api_version"] == "2024-06-20"
        stored = it.http.get(f"/v1/events/{event['id']}").json()
        assert (stored["api_version"], "subscription" in stored["data"]["object"]) == ("2024-06-20", True)
        fetched = it.client.v1.invoices.retrieve(event["data"]["object"]["id"])
        assert fetched.parent is not None
        subscription = str(event["data"]["object"]["subscription"])
        assert it.client.v1.invoices.create_preview({"subscription": subscription}).parent is not None


def test_previous_attributes_may_be_partial(host, tmp_path):
    with host.fresh(tmp_path) as it:
        prices = renewed(it)
        event = last(it, "customer.subscription.updated")["data"]
        known = it.sandbox.state.prices
    partial: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"status": "past_due"}, {"status": "past_due"}),
        ({"billing_mode": {"type": "classic"}}, {}),
        ({"metadata": {"a": "b"}}, {"metadata": {"a": "b"}}),
        ({}, {}),
    ]
    for previous, expected in partial:
        data = {"object": event["object"] | {"metadata": {"a": "c"}}, "previous_attributes": previous}
        assert reshaped(data, "2024-06-20", known)["previous_attributes"] == expected
    items = [dict(item) for item in event["object"]["items"]["data"]]
    items[1] = items[1] | {"price": known[prices["metered"]] | {"id": "price_before"}}
    swapped = {"object": event["object"], "previous_attributes": {"items": {"data": items}}}
    previous = reshaped(swapped, "2024-06-20", known)["previous_attributes"]
    assert set(previous) == {"items"}
    assert previous["items"]["data"][1]["plan"]["id"] == "price_before"
    assert "current_period_end" not in previous["items"]["data"][1]
