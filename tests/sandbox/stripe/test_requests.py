"""The stand-in for Stripe as a door: keys, versions, parameters, lists, idempotency, and faults on demand."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import stripe

from tests.worlds.stripe_stand_in import StandIn

METER_EVENTS = "POST /v1/billing/meter_events"


@pytest.fixture
def it(host, tmp_path: Path) -> Iterator[StandIn]:
    with host.fresh(tmp_path) as it:
        yield it


@pytest.mark.parametrize("key", ["sk_live_1", "pk_test_1", "sk_test_"])
def test_only_a_secret_test_key_opens(it, key):
    client = stripe.StripeClient(key, base_addresses={"api": it.url})
    with pytest.raises(stripe.AuthenticationError) as refused:
        client.v1.customers.list()
    assert refused.value.http_status == 401
    assert it.http.get("/v1/customers", headers={"Authorization": ""}).status_code == 401


def test_a_key_can_come_as_basic_user_name(it):
    assert it.http.get("/v1/customers", headers={"Authorization": ""}, auth=("sk_test_1", "")).status_code == 200


def test_answers_name_their_request_and_version(it):
    answer = it.http.get("/v1/customers")
    assert answer.headers["Request-Id"].startswith("req_")
    assert answer.headers["Stripe-Version"] == "2026-10-28.endive" == stripe.api_version
    assert it.http.get("/v1/customers", headers={"Stripe-Version": "2020-08-27"}).status_code == 400


def test_unknown_urls_and_ids(it):
    lost = it.http.get("/v1/nothing")
    assert (lost.status_code, lost.json()["error"]["type"]) == (404, "invalid_request_error")
    assert "Unrecognized request URL (GET: /v1/nothing)" in lost.json()["error"]["message"]
    assert it.http.delete("/v1/invoices/in_1").status_code == 404
    with pytest.raises(stripe.InvalidRequestError) as refused:
        it.client.v1.customers.retrieve("cus_lost")
    assert (refused.value.http_status, refused.value.code, refused.value.param) == (404, "resource_missing", "id")


def test_a_body_must_be_a_form_of_known_parameters(it):
    assert it.http.post("/v1/customers", json={"name": "B"}).status_code == 400
    refused = it.http.post("/v1/customers", data={"name": "B", "plan": "x"}).json()["error"]
    assert (refused["code"], refused["param"]) == ("parameter_unknown", "plan")
    assert it.http.get("/v1/customers", params={"limit": "101"}).status_code == 400
    assert it.http.get("/v1/customers", params={"limit": "many"}).status_code == 400


def test_nested_parameters_and_metadata_that_merges(it):
    customer = it.client.v1.customers.create({"name": "B", "metadata": {"a": "1", "b": "2"}})
    updated = it.client.v1.customers.update(customer.id, {"metadata": {"a": "", "c": "3"}})
    assert updated.metadata is not None
    assert updated.metadata.to_dict() == {"b": "2", "c": "3"}
    assert it.client.v1.customers.update(customer.id, {"metadata": ""}).to_dict()["metadata"] == {}


def test_a_deleted_customer_is_still_named(it):
    customer = it.customer()
    it.client.v1.customers.delete(customer)
    assert it.client.v1.customers.retrieve(customer).to_dict() == {
        "id": customer,
        "object": "customer",
        "deleted": True,
    }
    assert it.client.v1.customers.list().data == []
    assert it.of_kind("customer.deleted")[0]["data"]["object"]["metadata"] == {"business_id": "b1"}


def test_lists_page_newest_first_and_backwards_in_order_of_time(it):
    made = [it.client.v1.customers.create({"name": str(n)}).id for n in range(7)]
    first = it.client.v1.customers.list({"limit": 3})
    assert ([each.id for each in first.data], first.has_more) == (made[:3:-1], True)
    assert [each.id for each in first.auto_paging_iter()] == made[::-1]
    later = it.client.v1.customers.list({"limit": 2, "ending_before": made[1]})
    assert [each.id for each in later.auto_paging_iter()] == made[2:]
    with pytest.raises(stripe.InvalidRequestError):
        it.client.v1.customers.list({"starting_after": "cus_lost"})


def test_expand_puts_objects_in_place_of_ids(it):
    prices, customer = it.plan(), it.customer()
    subscription = it.subscribe(customer, prices)
    fetched = it.client.v1.subscriptions.retrieve(
        subscription, {"expand": ["customer", "latest_invoice", "items.data.price.tiers"]}
    )
    assert isinstance(fetched.customer, stripe.Customer)
    assert isinstance(fetched.latest_invoice, stripe.Invoice)
    tiers = fetched.items.data[1].price.tiers
    assert tiers is not None
    assert [tier.up_to for tier in tiers] == [500, None]
    plain = it.client.v1.prices.retrieve(prices["metered"])
    assert "tiers" not in plain
    listed = it.client.v1.prices.list({"product": str(plain.product), "expand": ["data.product", "data.tiers"]})
    assert all(isinstance(price.product, stripe.Product) for price in listed.data)
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        it.client.v1.prices.retrieve(prices["flat"], {"expand": ["nickname"]})


def test_prices_are_found_by_lookup_key_and_metered_ones_need_a_meter(it):
    it.plan()
    product = it.client.v1.products.create({"name": "Extra"})
    it.client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 100,
            "recurring": {"interval": "month"},
            "lookup_key": "extra",
            "metadata": {"altiora_plan": "starter"},
        }
    )
    found = it.client.v1.prices.list({"lookup_keys": ["extra"]}).data
    assert [price.metadata.to_dict() for price in found] == [{"altiora_plan": "starter"}]
    with pytest.raises(stripe.InvalidRequestError) as refused:
        it.client.v1.prices.create(
            {
                "currency": "usd",
                "product": product.id,
                "unit_amount": 1,
                "recurring": {"interval": "month", "usage_type": "metered"},
            }
        )
    assert refused.value.param == "recurring[meter]"


def test_the_same_key_replays_the_first_answer(it):
    first = it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})
    again = it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})
    assert again.id == first.id
    answer = it.http.post("/v1/customers", data={"name": "B"}, headers={"Idempotency-Key": "k"})
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert len(it.client.v1.customers.list().data) == 1
    it.control("/stripe/machine-time", seconds=24 * 3600)
    assert it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"}).id != first.id


def test_the_same_key_with_other_parameters_is_refused(it):
    it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})
    with pytest.raises(stripe.IdempotencyError) as refused:
        it.client.v1.customers.create({"name": "C"}, options={"idempotency_key": "k"})
    assert refused.value.http_status == 400
    with pytest.raises(stripe.InvalidRequestError):
        it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k" * 256})


def test_a_500_is_replayed_under_its_key_and_not_under_another(it):
    it.faults.script("POST /v1/customers", ["500"])
    for _ in range(2):
        with pytest.raises(stripe.APIError) as failed:
            it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})
        assert failed.value.http_status == 500
    assert it.client.v1.customers.list().data == []
    it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k:2"})
    assert len(it.client.v1.customers.list().data) == 1


def test_failed_checks_of_parameters_and_429_leave_the_key_free(it):
    with pytest.raises(stripe.InvalidRequestError):
        it.client.v1.products.create({"name": ""}, options={"idempotency_key": "k"})
    it.faults.script("POST /v1/products", ["429"])
    with pytest.raises(stripe.RateLimitError) as limited:
        it.client.v1.products.create({"name": "P"}, options={"idempotency_key": "k"})
    assert limited.value.headers is not None
    assert limited.value.error is not None
    assert limited.value.headers["Stripe-Rate-Limited-Reason"] == "global-rate"
    assert limited.value.error.code == "rate_limit"
    assert it.client.v1.products.create({"name": "P"}, options={"idempotency_key": "k"}).name == "P"


def test_the_same_key_at_the_same_time_is_a_conflict(it):
    it.faults.script("POST /v1/customers", ["slow:1"])

    def first() -> None:
        it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})

    slow = threading.Thread(target=first)
    slow.start()
    it.wait_until(lambda: it.sandbox._door._keys._kept)
    with pytest.raises(stripe.APIError) as conflict:
        it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})
    slow.join(10)
    assert conflict.value.error is not None
    assert (conflict.value.http_status, conflict.value.error.code) == (409, "idempotency_key_in_use")
    assert len(it.client.v1.customers.list().data) == 1


def test_get_and_delete_have_no_idempotency(it):
    customer = it.customer()
    for _ in range(2):
        assert it.http.get(f"/v1/customers/{customer}", headers={"Idempotency-Key": "k"}).status_code == 200
    assert it.http.delete(f"/v1/customers/{customer}", headers={"Idempotency-Key": "k"}).status_code == 200


def test_a_lost_answer_was_done_and_its_key_replays(it):
    it.faults.script("POST /v1/customers", ["lose_answer"])
    with pytest.raises(stripe.APIConnectionError) as lost:
        it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"})
    assert lost.value.should_retry
    made = it.client.v1.customers.list().data
    assert len(made) == 1
    assert it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "k"}).id == made[0].id


def test_500_done_does_it_and_down_does_nothing(it):
    it.faults.script("POST /v1/customers", ["500_done"])
    with pytest.raises(stripe.APIError):
        it.client.v1.customers.create({"name": "B"})
    assert len(it.client.v1.customers.list().data) == 1
    it.control("/faults", down={"stripe": 0.3})
    with pytest.raises(stripe.APIConnectionError):
        it.client.v1.customers.create({"name": "C"})
    it.wait_until(lambda: not it.faults.is_down("stripe"))
    assert len(it.client.v1.customers.list().data) == 1


def test_scripts_are_used_up_in_order_and_rates_apply_to_the_api_only(it):
    it.control("/faults/script", request=METER_EVENTS, faults=["429", "ok"])
    customer = it.plan() and it.customer()
    with pytest.raises(stripe.RateLimitError):
        it.report(customer, "1", "i1")
    assert it.report(customer, "1", "i1").identifier == "i1"
    it.control("/faults", rate_429=1.0)
    with pytest.raises(stripe.RateLimitError):
        it.client.v1.customers.list()
    assert it.look("summary", customer=customer)["total"] == 1
    it.control("/faults", rate_429=0)
    assert it.client.v1.customers.retrieve(customer).id == customer
    assert it.http.post("/_sandbox/faults", json={"rate_of_luck": 1}).status_code == 400
    assert it.http.post("/_sandbox/faults/script", json={"request": "x", "faults": ["boom"]}).status_code == 400


def test_the_client_retries_a_lost_answer_by_itself_without_doing_it_twice(it):
    it.faults.script("POST /v1/customers", ["lose_answer"])
    client = stripe.StripeClient("sk_test_1", base_addresses={"api": it.url}, max_network_retries=2)
    customer = client.v1.customers.create({"name": "B"})
    assert [each.id for each in it.client.v1.customers.list().data] == [customer.id]


def test_own_writes_are_recognised_in_their_events(it):
    it.client.v1.customers.create({"name": "B"}, options={"idempotency_key": "mine"})
    request = it.of_kind("customer.created")[0]["request"]
    assert request["id"].startswith("req_")
    assert request["idempotency_key"] == "mine"
    it.customer()
    assert it.of_kind("customer.created")[1]["request"] == {"id": None, "idempotency_key": None}


def test_events_are_listed_by_type_time_and_delivery(it):
    customer = it.customer()
    it.client.v1.customers.update(customer, {"name": "New"})
    it.advance(2026, 11, 6)
    it.client.v1.customers.update(customer, {"name": "Newer"})
    created, updated, newer = it.events
    found = it.client.v1.events.list({"types": ["customer.created", "customer.updated"]}).data
    assert [event.id for event in found] == [newer["id"], updated["id"], created["id"]]
    assert updated["data"]["previous_attributes"] == {"name": "A business"}
    assert updated["api_version"] == "2026-10-28.endive"
    later = it.client.v1.events.list({"created": {"gte": newer["created"]}}).data
    assert [event.id for event in later] == [newer["id"]]
    it.control("/stripe/delivered", event=created["id"])
    assert len(it.client.v1.events.list({"delivery_success": False}).data) == 2
    assert it.client.v1.events.retrieve(created["id"]).pending_webhooks == 0
    with pytest.raises(stripe.InvalidRequestError):
        it.client.v1.events.list({"type": "customer.created", "types": ["customer.updated"]})


def test_an_update_that_changes_nothing_makes_no_event(it):
    customer = it.customer()
    it.client.v1.customers.update(customer, {"name": "A business"})
    assert it.kinds() == ["customer.created"]


def test_webhook_endpoints_are_listed(it):
    it.control("/stripe/webhook-endpoints", url="http://127.0.0.1:8000/webhooks/stripe", enabled_events=["*"])
    listed = it.client.v1.webhook_endpoints.list().data
    assert [(each.url, each.api_version) for each in listed] == [
        ("http://127.0.0.1:8000/webhooks/stripe", "2026-10-28.endive")
    ]


def test_an_end_is_an_instant_or_a_flag_and_each_is_cleared_by_itself(it):
    subscription = it.subscribe(it.customer(), it.plan())
    change = it.client.v1.subscriptions.update
    end = it.client.v1.subscriptions.retrieve(subscription).items.data[0].current_period_end
    for cancel_at in (end, "max_period_end", "min_period_end"):
        changed = change(subscription, {"cancel_at": cancel_at})
        assert (changed.cancel_at, changed.cancel_at_period_end) == (end, False)
    assert change(subscription, {"cancel_at_period_end": False}).cancel_at == end
    assert change(subscription, {"cancel_at": ""}).cancel_at is None
    for wrong in ({"cancel_at": end, "cancel_at_period_end": True}, {"cancel_at": end + 1}, {"cancel_at": "soon"}):
        with pytest.raises(stripe.InvalidRequestError):
            change(subscription, wrong)
