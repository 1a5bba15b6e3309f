"""The mirror of subscriptions and prices: shapes of all years, plans, and streams of events in any order."""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from pipeline.businesses.consequences import Consequences
from pipeline.drain import Drain, DrainSettings
from pipeline.events import fetch_requests
from pipeline.providers import stripe_fields
from pipeline.providers.stripe_api import StripeApi
from pipeline.providers.stripe_fields import Invoice, Price, Subscription
from pipeline.shared.clock import Clock
from pipeline.shared.settings import StripeSettings
from pipeline.stripe_mirror import snapshots
from pipeline.stripe_mirror.fetching import StripeFetcher
from tests.worlds.stripe_objects import Json, in_the_shape_of_2020, invoice, line, lines, price, subscription
from tests.worlds.stripe_stand_in import START, StandIn
from tests.worlds.world import ACCOUNT, PERIOD_END, PERIOD_START, PLAN_IDS, World, at

# Shapes


def read_subscription(object_: Json) -> Subscription:
    read = stripe_fields.read_subscription(object_)
    assert read is not None
    return read


def read_invoice(object_: Json) -> Invoice:
    read = stripe_fields.read_invoice(object_)
    assert read is not None
    return read


def read_price(object_: Json) -> Price:
    read = stripe_fields.read_price(object_)
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("api_version", "known"),
    [
        ("2020-08-27", True),
        ("2023-10-16", True),
        ("2024-09-30.acacia", True),
        ("2025-03-31.basil", True),
        ("2026-10-28.endive", True),
        ("2026-12-16.endive", True),
        ("2020-03-02", False),
        ("2027-01-27.foxglove", False),
        ("", False),
        (None, False),
        ("2025-03-31.basil; drop", False),
    ],
)
def test_which_versions_are_known(api_version, known):
    assert snapshots.known_version(api_version) is known


def test_the_period_is_read_from_the_items_or_from_the_top():
    modern, old = subscription(), in_the_shape_of_2020(subscription())
    assert "current_period_start" not in old["items"]["data"][0]
    assert read_subscription(modern).items[0].period == (PERIOD_START, PERIOD_END)
    assert read_subscription(modern).period is None
    assert read_subscription(old).period == (PERIOD_START, PERIOD_END)


def test_a_plan_of_old_stands_for_a_price():
    item = {"id": "si_1", "plan": {"id": "gold-plan", "usage_type": "metered", "product": "prod_1", "active": False}}
    read = read_subscription(subscription() | {"items": {"data": [item]}})
    assert read.items[0].price == Price("gold-plan", "prod_1", "metered", None, False, None, False)


@pytest.mark.parametrize(
    ("fields", "plan", "certain"),
    [
        ({"metadata": {"altiora_plan": "starter"}}, "starter", True),
        ({"lookup_key": "altiora_professional_minutes_v2"}, "professional", True),
        ({"lookup_key": "altiora_enterprise"}, "enterprise", True),
        ({"lookup_key": "altioraenterprise"}, None, False),
        ({"product": {"id": "prod_1", "metadata": {"altiora_plan": "starter"}}}, "starter", True),
        ({"product": {"id": "prod_1", "metadata": {}}}, None, True),
        (
            {"metadata": {"altiora_plan": "starter"}, "lookup_key": "altiora_enterprise"},
            "starter",
            True,
        ),
        ({}, None, False),
    ],
)
def test_how_a_price_names_its_plan(fields, plan, certain):
    read = read_price(price(plan=None) | fields)
    assert (read.plan_code, read.certain) == (plan, certain)


def test_an_invoice_of_any_year_names_its_subscription():
    modern = invoice()
    old = invoice(parent=None, subscription="sub_new")
    expanded = invoice(parent=None, subscription=subscription())
    assert {read_invoice(each).subscription_id for each in (modern, old, expanded)} == {"sub_new"}
    for other in (invoice(parent=None), invoice(id=None), invoice() | {"object": "invoice_payment"}):
        assert stripe_fields.read_invoice(other) is None


@pytest.mark.parametrize(
    ("row", "metered"),
    [
        ({"price": {"id": "p", "recurring": {"usage_type": "metered"}}}, True),
        ({"price": {"id": "p", "recurring": {"usage_type": "licensed"}}}, False),
        ({"plan": {"id": "p", "usage_type": "metered"}}, True),
        ({"pricing": {"price_details": {"price": "p"}}}, None),
        ({"pricing": {"price_details": {"price": {"id": "p", "recurring": {"usage_type": "metered"}}}}}, True),
    ],
)
def test_a_line_says_whether_it_is_metered_or_leaves_it_open(row, metered):
    bare = {key: value for key, value in line().items() if key != "pricing"}
    (read,) = read_invoice(invoice(lines=lines(bare | row))).lines
    assert (read.price_id, read.metered) == ("p", metered)


@pytest.mark.parametrize(
    ("exact", "plain", "quantity"),
    [("12.5", 12, "12.5"), (None, 12, "12"), ("nan", 12, "12"), ("1e99", 12, "12"), ("many", None, "0")],
)
def test_the_exact_quantity_of_a_line_counts(exact, plain, quantity):
    rows = lines(line() | {"quantity_decimal": exact, "quantity": plain})
    assert str(read_invoice(invoice(lines=rows)).lines[0].quantity) == quantity


@pytest.mark.parametrize("value", ["\x00", "a b", "", "x" * 256, 7, None, [], {"id": ["x"]}, {"object": "customer"}])
def test_what_is_no_id(value):
    assert stripe_fields.identifier(value) is None


# Plans


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    with engine.begin() as connection:  # these tests give B subscriptions of their own
        connection.exec_driver_sql("delete from subscriptions")
    yield made
    made.assert_sums()


def tell(
    world: World,
    object_: Json,
    created: str | datetime = "20 Nov 10:00",
    type_: str = "customer.subscription.updated",
) -> None:
    """Deliver one event and drain."""
    key = f"evt_{len(world.rows('select id from webhook_events'))}"
    world.stripe_event(key, type_, object_, at(created) if isinstance(created, str) else created)
    world.drain()
    assert world.event(key) == ("processed", None)


def plan_of(world: World, business_id: int) -> str:
    ((plan_id,),) = world.rows("select plan_id from businesses where id = %s", business_id)
    return next(code for code, number in PLAN_IDS.items() if number == plan_id)


def kinds(world: World) -> set[str]:
    return {row.kind for row in world.rows("select kind from drifts where resolved_at is null")}


@pytest.mark.parametrize("status", ["active", "trialing", "past_due", "unpaid", "paused", "something_new"])
def test_a_living_subscription_gives_its_plan(world, status):
    tell(world, subscription(prices=[price("price_pro", "professional")], status=status))
    assert plan_of(world, world.b) == "professional"


@pytest.mark.parametrize("status", ["incomplete", "incomplete_expired"])
def test_a_subscription_whose_first_payment_never_came_gives_none(world, status):
    tell(world, subscription(prices=[price("price_pro", "professional")], status=status))
    assert plan_of(world, world.b) == "free"


def test_the_last_subscription_that_ends_leaves_the_business_on_free(world):
    tell(world, subscription("sub_1"))
    flat = price("price_flat", "professional", usage_type="licensed")
    tell(world, subscription("sub_2", prices=[flat]))
    assert plan_of(world, world.b) == "starter"  # the metered one decides
    end = int(at("20 Nov 11:00").timestamp())
    tell(world, subscription("sub_1", status="canceled", ended_at=end), "20 Nov 11:00")
    assert plan_of(world, world.b) == "professional"
    tell(world, subscription("sub_2", prices=[flat], status="canceled", ended_at=end), "20 Nov 11:01")
    assert plan_of(world, world.b) == "free"


def test_an_old_cancelled_one_without_periods_keeps_what_was_known(world):
    tell(world, subscription())
    gone = subscription(status="canceled", canceled_at=int(at("21 Nov").timestamp()))
    gone["items"]["data"] = []
    tell(world, gone, "21 Nov 10:00", "customer.subscription.deleted")
    (row,) = world.rows("select * from subscriptions")
    assert (row.status, row.ended_at, row.period_end) == ("canceled", at("21 Nov"), PERIOD_END)


def test_two_living_metered_subscriptions_are_a_drift_until_one_ends(world):
    tell(world, subscription("sub_1"))
    assert kinds(world) == set()
    tell(world, subscription("sub_2"))
    assert kinds(world) == {"second-metered-subscription"}
    end = int(at("20 Nov 11:00").timestamp())
    tell(world, subscription("sub_2", status="canceled", ended_at=end), "20 Nov 11:00")
    assert kinds(world) == set()


def test_the_metered_items_period_counts_where_items_differ(world):
    flat = price("price_flat", usage_type="licensed")
    both = subscription(prices=[flat, price()])
    year = int((PERIOD_START + timedelta(days=365)).timestamp())
    both["items"]["data"][0]["current_period_end"] = year
    tell(world, both)
    (row,) = world.rows("select * from subscriptions")
    assert (row.period_end, row.metered_item_id) == (PERIOD_END, "si_price_starter")
    rows = world.rows("select price_id, role from subscription_items order by 1")
    assert rows == [("price_flat", "fee"), ("price_starter", "minutes")]


def test_of_two_metered_items_the_one_that_a_plan_claims_counts_minutes(world):
    tell(world, subscription(prices=[price("price_other", plan=None), price()]))
    (row,) = world.rows("select * from subscriptions")
    assert (row.metered_price_id, row.plan_id) == ("price_starter", PLAN_IDS["starter"])
    assert kinds(world) == {"second-minutes-item", "unmapped-price"}


def test_a_renewal_gives_the_next_records_plan_and_leaves_the_old_one(world):
    tell(world, subscription())
    world.callback("old", ended=at("4 Dec 10:00"), CallDuration=61)
    world.now = at("5 Dec 11:00")
    world.callback("new", ended=at("5 Dec 10:30"), CallDuration=61)
    world.drain()
    assert [(row.plan_id, row.provisional) for row in world.records(world.b)] == [(2, False), (2, True)]
    renewed = subscription(
        prices=[price("price_pro", "professional")], start=PERIOD_END, end=PERIOD_END + timedelta(days=31)
    )
    tell(world, renewed, PERIOD_END)
    rows = [(row.plan_id, row.included_minutes, row.provisional) for row in world.records(world.b)]
    assert rows == [(2, 500, False), (3, 2000, False)]


def test_26_a_smaller_plan_raises_an_alert_for_what_is_above_it_and_deletes_nothing(world):
    tell(world, subscription(prices=[price("price_pro", "professional")]))
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into ai_agents (business_id, name, created_at) select %s, 'A', now() from generate_series(1, 7)",
            (world.b,),
        )
    world.now = at("5 Dec 11:00")
    tell(world, subscription(start=PERIOD_END, end=PERIOD_END + timedelta(days=31)), PERIOD_END)
    assert world.alerts(world.b) == [("agents", 7)]
    assert world.rows("select count(*) from ai_agents where ended_at is null") == [(7,)]
    tell(world, subscription(prices=[price("price_pro", "professional")]), "5 Dec 10:59")
    assert world.rows("select kind from usage_alerts where resolved_at is null") == []


def test_a_renewal_without_metered_lines_tells_nothing_of_periods(world):
    tell(world, subscription())
    tell(world, price("price_flat", usage_type="licensed"), type_="price.created")
    flat_only = lines(line("price_flat", 1, PERIOD_END, PERIOD_END + timedelta(days=31)))
    tell(world, invoice(lines=flat_only), PERIOD_END, "invoice.created")
    assert world.rows("select * from stripe_invoice_lines") == []


def test_a_price_that_turns_out_unmapped_leaves_the_business_and_asks_for_its_subscriptions(world):
    tell(world, subscription())
    shown = {"product": {"id": "prod_minutes", "object": "product", "metadata": {}}, "currency_options": {}}
    snapshot = snapshots.Snapshot(
        read_price(price(plan=None) | shown),
        at("20 Nov 12:00"),
        None,
        fetched=True,
        seen=at("20 Nov 10:00"),
    )
    consequences = Consequences()
    with world.engine.begin() as connection:
        target = snapshots.Mirror(
            connection,
            [snapshot],
            locked=set(),
            consequences=consequences,
            event_name="call_minutes",
            now=at("20 Nov 12:00"),
        )
        target.apply(snapshot)
        consequences.settle(connection, at("20 Nov 12:00"))
    assert world.rows("select plan_id from stripe_prices") == [(None,)]
    assert plan_of(world, world.b) == "starter"
    assert world.wanted() == {"sub_new": "price-mapped"}


# Streams


class Life:
    """Some weeks of two customers at the stand-in, told to us in any order, with losses."""

    def __init__(self, engine: Engine, stripe: StandIn, seed: int) -> None:
        self.engine, self.stripe, self.random = engine, stripe, random.Random(seed)
        self.clock = Clock(stripe.timeline._clock_file)
        settings = StripeSettings(stripe_api_key=SecretStr("sk_test_stand_in"), stripe_api_base=stripe.url)
        self.fetcher = StripeFetcher(engine, StripeApi(settings), self.clock)
        with engine.begin() as connection:
            self.businesses = [
                connection.exec_driver_sql(
                    "insert into businesses (name, time_zone, plan_id, created_at)"
                    " values ('B', 'UTC', 1, %s) returning id",
                    (START,),
                ).scalar_one()
                for _ in range(2)
            ]

    def live(self) -> None:
        starter, professional = self.stripe.plan(), self.stripe.plan(2000, flat=14900, plan="professional")
        client = self.stripe.client.v1
        subscriptions = [
            self.stripe.subscribe(
                self.stripe.control("/stripe/customers", name="B", metadata={"business_id": str(business)}), starter
            )
            for business in self.businesses
        ]
        day = START
        for _ in range(self.random.randint(6, 12)):
            day += timedelta(hours=self.random.choice([0, 5, 200]))
            self.stripe.advance(*day.timetuple()[:6])
            one = self.random.choice(subscriptions)
            shown = client.subscriptions.retrieve(one)
            if shown.status == "canceled":
                continue
            match self.random.randint(0, 4):
                case 0:
                    client.subscriptions.update(one, {"cancel_at_period_end": not shown.cancel_at_period_end})
                case 1:
                    client.subscriptions.update(one, {"pause_collection": {"behavior": "keep_as_draft"}})
                case 2:
                    client.subscriptions.update(one, {"pause_collection": ""})
                case 3:
                    self.stripe.control("/stripe/cancel", subscription=one)
                case 4:
                    other = self.random.choice([starter, professional])
                    items = [
                        {"id": item.id, "price": price}
                        for item, price in zip(shown["items"].data, other.values(), strict=True)
                    ]
                    anew: Any = {"items": items, "billing_cycle_anchor": {"type": "now"}, "proration_behavior": "none"}
                    client.subscriptions.update(one, anew)
            if self.random.random() < 0.5:
                self.tell_some()
        self.stripe.advance(*(day + timedelta(days=40)).timetuple()[:6])

    def tell_some(self) -> None:
        """Deliver some of the events that have left so far, some of them twice, and drain and fetch in between."""
        told = self.random.sample(self.stripe.events, self.random.randint(0, len(self.stripe.events)))
        for event in told:
            with self.engine.begin() as connection:
                connection.exec_driver_sql(
                    "insert into webhook_events (provider, key, type, received_at, content_type, body)"
                    " values ('stripe', %s, %s, %s, 'application/json', %s) on conflict do nothing",
                    (event["id"], event["type"], self.clock.now(), json.dumps(event).encode()),
                )
            if self.random.random() < 0.3:
                self.settle(once=True)

    def settle(self, *, once: bool = False) -> None:
        """Drain and fetch, until nothing is left to do."""
        for _ in range(1 if once else 10):
            with self.engine.begin() as connection:
                connection.exec_driver_sql("update webhook_events set due_at = now() where state = 'pending'")
                connection.exec_driver_sql("update refreshes set due_at = now() where mark > fetched_mark")
            drained = Drain(self.engine, DrainSettings(ACCOUNT, livemode=False), self.clock).run().counts
            if not self.fetcher.run() and not drained:
                return

    def refresh_all(self) -> None:
        with self.engine.begin() as connection:
            for subscription_id in self.stripe.sandbox.state.subscriptions:
                fetch_requests.request_fetch(connection, "subscription", subscription_id, "test")
        self.settle()

    def mirrored(self) -> dict[str, tuple[Any, ...]]:
        return {
            row.stripe_id: (
                row.status,
                row.cancel_at_period_end,
                row.period_end,
                row.ended_at,
                bool(row.pause_collection),
            )
            for row in self.rows("select * from subscriptions")
        }

    def true(self) -> dict[str, tuple[Any, ...]]:
        return {
            one["id"]: (
                one["status"],
                one["cancel_at_period_end"],
                datetime.fromtimestamp(one["items"]["data"][0]["current_period_end"], UTC),
                datetime.fromtimestamp(one["ended_at"], UTC) if one["ended_at"] else None,
                bool(one["pause_collection"]),
            )
            for one in self.stripe.sandbox.state.subscriptions.values()
        }

    def rows(self, sql: str) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(sql))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lost", [False, True])
def test_whatever_the_order_of_events_the_mirror_ends_as_stripe_is(engine, tmp_path, host, seed, lost):
    with host.fresh(tmp_path) as stripe:
        life = Life(engine, stripe, seed)
        life.live()
        if lost:
            life.refresh_all()
        else:
            life.random = random.Random(seed + 100)
            for event in life.random.sample(stripe.events, len(stripe.events)):
                stripe.events.remove(event)
                stripe.events.append(event)
            with engine.begin() as connection:
                for event in stripe.events:
                    connection.exec_driver_sql(
                        "insert into webhook_events (provider, key, type, received_at, content_type, body)"
                        " values ('stripe', %s, %s, %s, 'application/json', %s) on conflict do nothing",
                        (event["id"], event["type"], life.clock.now(), json.dumps(event).encode()),
                    )
            life.settle()
        assert life.mirrored() == life.true()
        statuses = {one["id"]: one["status"] for one in stripe.sandbox.state.invoices.values()}
        found = {row.id: row.status for row in life.rows("select * from stripe_invoices")}
        assert found.items() <= statuses.items()
        if not lost:
            assert found == statuses
        assert life.rows("select state, reason from webhook_events where state not in ('processed', 'ignored')") == []
