"""Stripe's events through the drain: rows 32 to 37 and 42 of the worked cases, and bodies that nobody expects."""

import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.businesses.consequences import Consequences
from pipeline.events.outcomes import MoreBusinesses, Outcome
from pipeline.stripe_mirror import event_types
from tests.worlds.breaking import breaks
from tests.worlds.stripe_objects import Json, invoice, line, lines, price, subscription
from tests.worlds.world import PERIOD_END, PERIOD_START, PLAN_IDS, World, at

PROCESSED = ("processed", None)


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    yield made
    made.assert_sums()


def mirrored(world: World, stripe_id: str = "sub_new") -> Any:
    return next(iter(world.rows("select * from subscriptions where stripe_id = %s", stripe_id)), None)


def plan_of(world: World, business_id: int) -> str:
    ((plan_id,),) = world.rows("select plan_id from businesses where id = %s", business_id)
    return next(code for code, number in PLAN_IDS.items() if number == plan_id)


def open_drifts(world: World) -> set[tuple[str, str]]:
    return {(row.kind, row.subject) for row in world.rows("select * from drifts where resolved_at is null")}


def happened(
    world: World, key: str, type_: str, object_: Json, created: str | datetime, **envelope: Any
) -> tuple[str, str | None]:
    """Deliver one event and drain; returns how it ended."""
    world.stripe_event(key, type_, object_, at(created) if isinstance(created, str) else created, **envelope)
    world.drain()
    return world.event(key)


def test_a_newer_snapshot_is_applied(world):
    assert happened(world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00") == PROCESSED
    later = subscription(cancel_at_period_end=True)
    assert happened(world, "evt_2", "customer.subscription.updated", later, "20 Nov 10:01") == PROCESSED
    row = mirrored(world)
    assert (row.business_id, row.status, row.plan_id, row.cancel_at_period_end) == (
        world.b,
        "active",
        PLAN_IDS["starter"],
        True,
    )
    assert (row.period_start, row.period_end, row.metered_item_id) == (PERIOD_START, PERIOD_END, "si_price_starter")
    assert world.wanted().get("sub_new") == "tiers-unknown", "nor is what came before known; one fetch asks for both"


@pytest.mark.parametrize(("created", "reason"), [("20 Nov 9:59", "older-snapshot"), ("20 Nov 10:00", "same-second")])
def test_32_an_older_snapshot_or_one_of_the_same_second_is_fetched_once_instead(world, created, reason):
    happened(world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00")
    for number in range(3):
        key = f"evt_old_{number}"
        past_due = subscription(status="past_due")
        assert happened(world, key, "customer.subscription.updated", past_due, created) == PROCESSED
    assert mirrored(world).status == "active"
    assert world.wanted()["sub_new"] == reason
    assert world.rows("select count(*) from refreshes where object_id = 'sub_new'") == [(1,)]


def test_32_in_one_batch_the_order_is_that_of_the_snapshots(world):
    world.stripe_event("evt_3", "customer.subscription.updated", subscription(status="past_due"), at("20 Nov 10:02"))
    world.stripe_event("evt_1", "customer.subscription.created", subscription(), at("20 Nov 10:00"))
    world.stripe_event("evt_2", "customer.subscription.updated", subscription(status="unpaid"), at("20 Nov 10:01"))
    assert world.drain().counts == {"processed": 3}
    assert mirrored(world).status == "past_due"
    assert world.wanted().get("sub_new") == "tiers-unknown"


@pytest.mark.parametrize("api_version", [None, "2017-08-15", "2027-03-31.foxglove", "nonsense"])
def test_a_shape_that_we_do_not_know_is_fetched(world, api_version):
    event = happened(
        world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00", api_version=api_version
    )
    assert event == PROCESSED
    assert mirrored(world) is None
    assert world.wanted()["sub_new"] == "unknown-version"


def test_33_a_price_that_no_plan_has_is_a_drift_until_it_is_mapped(world):
    stranger = subscription(prices=[price("price_odd", plan=None)])
    assert happened(world, "evt_1", "customer.subscription.created", stranger, "20 Nov 10:00") == PROCESSED
    assert mirrored(world).plan_id is None
    assert plan_of(world, world.b) == "starter"
    assert ("unmapped-price", "price:price_odd") in open_drifts(world)
    assert world.wanted()["price_odd"] == "plan-unknown"

    assert happened(world, "evt_2", "price.updated", price("price_odd", "professional"), "20 Nov 10:05") == PROCESSED
    assert open_drifts(world) & {("unmapped-price", "price:price_odd")} == set()
    assert world.wanted()["sub_new"] == "price-mapped"
    mapped = subscription(prices=[price("price_odd", plan=None)])
    happened(world, "evt_3", "customer.subscription.updated", mapped, "20 Nov 10:06")
    assert plan_of(world, world.b) == "professional"


def test_34_a_customer_is_linked_by_the_subscriptions_metadata(world):
    owned = subscription(customer="cus_new", metadata={"business_id": str(world.f)})
    assert happened(world, "evt_1", "customer.subscription.created", owned, "20 Nov 10:00") == PROCESSED
    assert world.rows("select stripe_customer_id from businesses where id = %s", world.f) == [("cus_new",)]
    assert plan_of(world, world.f) == "starter"


@pytest.mark.parametrize("together", [True, False])
def test_34_else_by_the_customers_own_metadata(world, together):
    customer = {"id": "cus_new", "object": "customer", "metadata": {"business_id": str(world.f)}}
    world.stripe_event("evt_sub", "customer.subscription.created", subscription(customer="cus_new"), at("20 Nov 10:00"))
    if not together:
        assert world.drain().counts == {"pending": 1}
        assert world.event("evt_sub") == ("pending", "awaiting-customer")
        assert world.wanted() == {"cus_new": "unknown-customer"}
    world.stripe_event("evt_cus", "customer.created", customer, at("20 Nov 9:59"))
    world.drain()
    world.drain()
    assert world.event("evt_sub") == PROCESSED
    assert mirrored(world).business_id == world.f


@pytest.mark.parametrize("named", [{}, {"business_id": "nobody"}, {"business_id": "999999"}, {"business_id": "-1"}])
def test_34_a_customer_of_nobody_is_dead_once_it_is_known(world, named):
    customer = {"id": "cus_new", "object": "customer", "metadata": named}
    happened(world, "evt_cus", "customer.created", customer, "20 Nov 9:59")
    unknown = ("dead", "unknown-customer")
    assert (
        happened(world, "evt_1", "customer.subscription.created", subscription(customer="cus_new"), "20 Nov 10:00")
        == unknown
    )
    assert happened(world, "evt_2", "invoice.created", invoice(customer="cus_new"), "20 Nov 10:00") == unknown
    with world.engine.begin() as connection:  # what `business link-stripe` and `events replay` do
        connection.exec_driver_sql("update businesses set stripe_customer_id = 'cus_new' where id = %s", (world.f,))
        connection.exec_driver_sql("update webhook_events set state = 'pending', due_at = now() where state = 'dead'")
    world.drain()
    assert (world.event("evt_1"), world.event("evt_2")) == (PROCESSED, PROCESSED)


def test_34_a_business_has_one_customer(world):
    other = subscription(customer="cus_other", metadata={"business_id": str(world.b)})
    assert happened(world, "evt_1", "customer.subscription.created", other, "20 Nov 10:00") == (
        "ignored",
        "second-customer",
    )
    assert ("second-customer", "subscription:sub_new") in open_drifts(world)
    assert world.rows("select stripe_customer_id from businesses where id = %s", world.b) == [("cus_B",)]


def test_35_an_event_of_the_other_mode_is_ignored(world):
    live = happened(world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00", livemode=True)
    assert live == ("ignored", "other-mode")
    assert mirrored(world) is None


@breaks(
    "pipeline/stripe_mirror/event_types.py",
    'if body.get("account"):',
    'if body.get("nobody"):',
)
def test_54_an_event_of_a_connected_account_is_ignored(world):
    connected = happened(
        world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00", account="acct_1"
    )
    assert connected == ("ignored", "other-account")
    assert mirrored(world) is None


@pytest.mark.parametrize("kind", ["customer", "subscription", "invoice"])
def test_54_objects_on_a_test_clock_are_ignored(world, kind):
    clock = {"test_clock": "clock_1"}
    type_, object_ = {
        "customer": ("customer.created", {"id": "cus_T", "object": "customer", "metadata": {"business_id": "1"}}),
        "subscription": ("customer.subscription.created", subscription()),
        "invoice": ("invoice.created", invoice()),
    }[kind]
    assert happened(world, "evt_1", type_, object_ | clock, "20 Nov 10:00") == ("ignored", "test-clock")
    assert world.rows("select from stripe_customers") + world.rows("select from stripe_invoices") == []
    assert mirrored(world) is None
    assert world.wanted() == {}


def test_36_a_draft_renewal_makes_the_record_wait_for_the_close(world):
    happened(world, "evt_1", "customer.subscription.created", subscription("sub_2"), "20 Nov 10:00")
    cancelled = subscription(f"sub_{world.b}", status="canceled", ended_at=int(PERIOD_START.timestamp()))
    happened(world, "evt_2", "customer.subscription.deleted", cancelled, "20 Nov 10:00")
    world.callback("late", ended=at("5 Dec 10:23:44"), CallDuration=61)
    world.drain()
    assert world.record(world.b).state == "open"

    world.now = at("5 Dec 10:24")
    world.stripe_event("evt_3", "invoice.created", invoice(subscription_id="sub_2"), PERIOD_END)
    follow_ups = world.drain().follow_ups
    assert follow_ups >= {"periods.close-due", "stripe.plan-meter-pushes"}
    assert world.event("evt_3") == PROCESSED
    assert [record.state for record in world.records(world.b)] == ["closing"]
    (draft,) = world.rows("select * from stripe_invoices")
    assert draft.status == "draft"
    assert world.rows("select period_end, minutes from stripe_invoice_lines") == [(PERIOD_END, 0)]
    assert draft.automatically_finalizes_at == PERIOD_END + timedelta(hours=1)


def test_36_a_draft_of_a_period_that_runs_on_leaves_the_record_open(world):
    happened(world, "evt_1", "customer.subscription.updated", subscription(f"sub_{world.b}"), "20 Nov 10:00")
    world.callback(CallDuration=61)
    world.drain()
    draft = invoice(subscription_id=f"sub_{world.b}", billing_reason="subscription_update")
    assert happened(world, "evt_2", "invoice.created", draft, "20 Nov 11:00") == PROCESSED
    assert world.record(world.b).state == "open"


@pytest.mark.parametrize(
    "type_",
    ["checkout.session.completed", "charge.refunded", "invoice.upcoming", "invoiceitem.created", "v1.unheard.of", "x"],
)
def test_37_what_nothing_here_needs_is_ignored(world, type_):
    assert happened(world, "evt_1", type_, {"id": "in_upcoming", "object": "invoice"}, "20 Nov 10:00") == (
        "ignored",
        "not-needed",
    )


def test_37_an_invoice_without_a_subscription_is_not_needed(world):
    one_off = invoice(parent=None, billing_reason="manual")
    assert happened(world, "evt_1", "invoice.paid", one_off, "20 Nov 10:00") == ("ignored", "not-needed")


def test_42_a_meter_error_report_is_fetched_for_its_data(world):
    type_ = "v1.billing.meter.error_report_triggered"
    assert happened(world, "evt_thin", type_, {}, "20 Nov 10:00", object="v2.core.event") == PROCESSED
    assert world.wanted() == {"evt_thin": "meter-errors"}


def test_an_invoice_of_a_price_that_is_not_known_yet_is_fetched(world):
    assert happened(world, "evt_1", "invoice.created", invoice(), PERIOD_END) == PROCESSED
    assert world.rows("select * from stripe_invoices") == []
    assert world.wanted()["in_1"] == "unknown-price"


def test_an_invoice_with_more_lines_than_it_shows_is_fetched(world):
    happened(world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00")
    many = invoice(lines=lines(line(), has_more=True))
    assert happened(world, "evt_2", "invoice.created", many, PERIOD_END) == PROCESSED
    assert world.wanted()["in_1"] == "more-lines"


def test_what_the_invoice_says_is_the_minutes_of_all_tiers(world):
    happened(world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00")
    happened(world, "evt_2", "price.created", price("price_flat", usage_type="licensed"), "20 Nov 10:00")
    final = invoice(
        status="open",
        lines=lines(
            line(quantity=500),
            line(quantity="33.0"),
            line("price_flat", quantity=1, start=PERIOD_END, end=PERIOD_END + timedelta(days=31)),
        ),
    )
    happened(world, "evt_3", "invoice.finalized", final, PERIOD_END)
    (row,) = world.rows("select * from stripe_invoice_lines")
    assert (row.minutes, row.period_start) == (533, PERIOD_START)
    assert world.rows("select status from stripe_invoices") == [("open",)]


def test_a_deleted_draft_is_void(world):
    happened(world, "evt_1", "customer.subscription.created", subscription(), "20 Nov 10:00")
    happened(world, "evt_2", "invoice.created", invoice(), PERIOD_END)
    happened(world, "evt_3", "invoice.deleted", invoice(), PERIOD_END + timedelta(seconds=1))
    assert world.rows("select status from stripe_invoices") == [("void",)]


def test_nothing_is_applied_to_a_business_that_is_not_locked(world):
    """Somebody linked the customer between the look before the locks and the locks."""
    world.stripe_event("evt_1", "customer.subscription.created", subscription(), at("20 Nov 10:00"))
    with world.engine.connect() as connection:
        (row,) = connection.exec_driver_sql("select id, key, type, body from webhook_events")
        event = event_types.decode_event(*row)
        assert isinstance(event, event_types.StripeEvent)
        with pytest.raises(MoreBusinesses) as raised:
            event_types.apply_events(
                connection, [event], {world.f}, Consequences(), world.now, livemode=False, event_name="call_minutes"
            )
        assert raised.value.business_ids == {world.b}
        connection.rollback()
    assert world.drain().counts == {"processed": 1}


# Whatever comes

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
_types = st.sampled_from(
    [
        "customer.created",
        "customer.deleted",
        "customer.subscription.created",
        "customer.subscription.deleted",
        "invoice.created",
        "invoice.deleted",
        "price.created",
        "product.updated",
        "v1.billing.meter.error_report_triggered",
    ]
)


def _damaged(draw: Any, document: Any) -> Any:
    """The document with some of its values replaced by anything."""
    if isinstance(document, dict):
        return {key: _damaged(draw, value) for key, value in document.items() if draw(st.integers(0, 9)) > 0}
    if isinstance(document, list):
        return [_damaged(draw, value) for value in document]
    return draw(_json) if draw(st.integers(0, 9)) == 0 else document


@st.composite
def _bodies(draw):
    type_ = draw(_types)
    whole = {"customer": {"id": "cus_new", "metadata": {"business_id": "1"}}, "price": price(), "product": {"id": "p"}}
    object_ = next((value for name, value in whole.items() if type_.split(".")[0] == name), {})
    if "subscription" in type_:
        object_ = subscription(pause_collection={"behavior": "void", "resumes_at": 1795168800})
    elif type_.startswith("invoice"):
        object_ = invoice()
    event = {
        "id": "evt_x",
        "type": type_,
        "created": 1795168800,
        "livemode": False,
        "api_version": "2026-10-28.endive",
        "data": {"object": object_},
    }
    return _damaged(draw, event)


@given(body=st.binary(max_size=60) | _json.map(lambda value: json.dumps(value).encode()))
def test_decoding_never_raises(body):
    decoded = event_types.decode_event(1, "evt_x", None, body)
    assert isinstance(decoded, Outcome | event_types.StripeEvent)
    if isinstance(decoded, Outcome):
        assert (decoded.state, decoded.reason) == ("dead", "unreadable")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=_bodies())
def test_a_damaged_event_ends_and_disturbs_nobody(world, body):
    """Applied for real and rolled back: no field of a body may reach the database as what it can't take."""
    decoded = event_types.decode_event(1, "evt_x", None, json.dumps(body).encode())
    if isinstance(decoded, Outcome):
        return
    with world.engine.connect() as connection:
        locked = event_types.businesses_of_events(connection, [decoded])
        consequences = Consequences()
        (outcome,) = event_types.apply_events(
            connection, [decoded], locked, consequences, at("20 Nov 12:00"), livemode=False, event_name="call_minutes"
        )
        consequences.settle(connection, at("20 Nov 12:00"))
        connection.rollback()
    assert outcome.state in {"processed", "ignored", "dead", "pending"}


def test_every_real_payload_ends(world, payloads):
    for number, path in enumerate(sorted((payloads / "stripe").glob("*.json"))):
        body = path.read_bytes()
        world._store("stripe", f"evt_{number}", json.loads(body)["type"], body, "application/json")
    world.drain()
    ends = set(world.rows("select state, reason from webhook_events where provider = 'stripe'"))
    assert ends <= {
        ("processed", None),
        ("ignored", "not-needed"),
        ("ignored", "other-mode"),
        ("dead", "unknown-customer"),
        ("pending", "awaiting-customer"),
    }
