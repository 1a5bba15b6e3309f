"""The queue of what must be fetched, and fetching it from the stand-in for Stripe through the real client."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from psycopg import errors as pg
from pydantic import SecretStr
from sqlalchemy import Connection, Engine

from pipeline.drain import Drain, DrainResult, DrainSettings
from pipeline.events import fetch_requests
from pipeline.events.fetch_requests import FetchError, FetchRequest
from pipeline.providers import stripe_api
from pipeline.providers.stripe_api import StripeApi
from pipeline.shared.clock import Clock, move
from pipeline.shared.settings import StripeSettings
from pipeline.stripe_mirror.fetching import StripeFetcher
from tests.worlds.breaking import breaks
from tests.worlds.stripe_stand_in import START, StandIn
from tests.worlds.world import ACCOUNT, PLAN_IDS

# The queue


def due_now(engine: Engine, kind: str = "invoice") -> FetchRequest | None:
    claimed = fetch_requests.claim_request(engine, [kind])
    if claimed is not None:  # give the lease back: these tests look more than once
        with engine.begin() as connection:
            connection.exec_driver_sql("update refreshes set due_at = now() where kind = %s", (kind,))
    return claimed


def ask(engine: Engine, object_id: str = "in_1", reason: str = "older-snapshot", *, due_in_seconds: int = 0) -> None:
    with engine.begin() as connection:
        fetch_requests.request_fetch(connection, "invoice", object_id, reason, due_in_seconds=due_in_seconds)


def test_what_is_asked_for_many_times_is_fetched_once(engine):
    for number in range(3):
        ask(engine, reason=f"reason {number}")
    fetched: list[FetchRequest] = []

    def handler(due: FetchRequest) -> None:
        fetched.append(due)
        with engine.begin() as connection:
            fetch_requests.mark_fetched(connection, due)

    assert fetch_requests.fetch_due(engine, {"invoice": handler}) == {"fetched": 1}
    assert fetch_requests.fetch_due(engine, {"invoice": handler}) == {}
    assert [due.object_id for due in fetched] == ["in_1"]


def test_a_request_during_a_fetch_is_not_cleared_by_it(engine):
    ask(engine)
    due = fetch_requests.claim_request(engine, ["invoice"])
    assert due is not None
    ask(engine)
    with engine.begin() as connection:
        fetch_requests.mark_fetched(connection, due)
    again = due_now(engine)
    assert again is not None
    assert again.mark > due.mark


def test_a_late_settling_of_an_old_fetch_takes_nothing_back(engine):
    ask(engine)
    old = fetch_requests.claim_request(engine, ["invoice"])
    ask(engine)
    new = due_now(engine)
    assert old is not None
    assert new is not None
    with engine.begin() as connection:
        fetch_requests.mark_fetched(connection, new)
        fetch_requests.mark_fetched(connection, old)
    assert due_now(engine) is None


def test_a_lease_keeps_others_off_and_a_kind_is_only_for_its_own(engine):
    ask(engine)
    assert fetch_requests.claim_request(engine, ["price", "call"]) is None
    assert fetch_requests.claim_request(engine, ["invoice"]) is not None
    assert fetch_requests.claim_request(engine, ["invoice"]) is None


def test_later_means_not_before(engine):
    ask(engine, due_in_seconds=60)
    assert due_now(engine) is None
    ask(engine)
    assert due_now(engine) is not None


def test_a_failed_fetch_waits_longer_each_time_and_new_events_do_not_hurry_it(engine):
    def handler(due: FetchRequest) -> None:
        raise FetchError("no connection")

    ask(engine)
    waits = []
    for _ in range(4):
        assert fetch_requests.fetch_due(engine, {"invoice": handler}) == {"failed": 1}
        ask(engine)
        with engine.begin() as connection:
            row = connection.exec_driver_sql(
                "select attempts, error, extract(epoch from due_at - now())::float from refreshes"
            ).one()
            waits.append(row[2])
            connection.exec_driver_sql("update refreshes set due_at = now()")
    assert (row.attempts, row.error) == (4, "FetchError: no connection")
    assert 3 < waits[0] < 7
    assert all(later > earlier for earlier, later in pairwise(waits))


@breaks("pipeline/events/fetch_requests.py", "{Fault.CONNECTION, Fault.WAIT}", "{Fault.CONNECTION}")
@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (pg.AdminShutdown(), 0),
        (pg.ReadOnlySqlTransaction(), 0),
        (pg.LockNotAvailable(), 0),
        (pg.DeadlockDetected(), 0),
        (pg.UndefinedColumn(), 1),
        (pg.CheckViolation(), 1),
        (ZeroDivisionError(), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_82_what_says_nothing_of_the_object_costs_it_no_attempt(engine, error, attempts):
    def handler(_: FetchRequest) -> None:
        raise error

    ask(engine)
    assert fetch_requests.fetch_due(engine, {"invoice": handler}) == {"failed": 1}
    with engine.begin() as connection:
        assert connection.exec_driver_sql("select attempts from refreshes").scalar_one() == attempts


def test_a_handler_that_breaks_stops_nobody_else(engine):
    for number in range(5):
        ask(engine, f"in_{number}")

    def handler(due: FetchRequest) -> None:
        if due.object_id == "in_2":
            raise ZeroDivisionError
        with engine.begin() as connection:
            fetch_requests.mark_fetched(connection, due)

    assert fetch_requests.fetch_due(engine, {"invoice": handler}) == {"failed": 1, "fetched": 4}


# Fetching from Stripe


class Shop:
    """The stand-in with one plan, and our side of it: a business, a drain, a fetcher."""

    def __init__(self, engine: Engine, stripe: StandIn) -> None:
        self.engine = engine
        self.stripe = stripe
        self.clock = Clock(stripe.timeline._clock_file)
        self.prices = stripe.plan()
        self.api = StripeApi(StripeSettings(stripe_api_key=SecretStr("sk_test_stand_in"), stripe_api_base=stripe.url))
        with engine.begin() as connection:
            self.business = connection.exec_driver_sql(
                "insert into businesses (name, time_zone, plan_id, created_at) values ('B', 'UTC', 1, %s) returning id",
                (START,),
            ).scalar_one()
        self.customer = stripe.control("/stripe/customers", name="B", metadata={"business_id": str(self.business)})
        self.delivered = 0

    def deliver(self, *, only: Any = None) -> None:
        """Store the events that have left since the last time, in our inbox."""
        with self.engine.begin() as connection:
            for event in self.stripe.events[self.delivered :]:
                if only is None or event["type"] in only:
                    store(connection, event, self.clock.now())
        self.delivered = len(self.stripe.events)

    def drain(self) -> DrainResult:
        return Drain(self.engine, DrainSettings(ACCOUNT, livemode=False), self.clock).run()

    def ask(self, kind: str, object_id: str) -> None:
        with self.engine.begin() as connection:
            fetch_requests.request_fetch(connection, kind, object_id, "test")

    def refresh(self) -> tuple[dict[str, int], set[str]]:
        """Fetch what is due; returns the counts and the follow-ups."""
        fetcher = StripeFetcher(self.engine, self.api, self.clock)
        return fetcher.run(), fetcher.follow_ups

    def rows(self, sql: str, *parameters: object) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.exec_driver_sql(sql, parameters or None))

    def subscription(self) -> Any:
        return next(iter(self.rows("select * from subscriptions")), None)

    def waiting(self) -> set[tuple[str, str]]:
        return {tuple(row) for row in self.rows("select kind, reason from refreshes where mark > fetched_mark")}


def store(connection: Connection, event: dict[str, Any], now: datetime) -> None:
    connection.exec_driver_sql(
        "insert into webhook_events (provider, key, type, received_at, content_type, body)"
        " values ('stripe', %s, %s, %s, 'application/json', %s) on conflict do nothing",
        (event["id"], event["type"], now, json.dumps(event).encode()),
    )


@pytest.fixture
def shop(engine, tmp_path, host):
    with host.fresh(tmp_path) as stripe:
        yield Shop(engine, stripe)


def test_a_fetched_subscription_brings_its_invoices_and_its_plan(shop):
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.ask("subscription", subscription)
    assert shop.refresh()[0] == {"fetched": 2}  # the subscription for nobody, then its customer with what it has
    row = shop.subscription()
    assert (row.business_id, row.plan_id, row.metered_price_id) == (
        shop.business,
        PLAN_IDS["starter"],
        shop.prices["metered"],
    )
    assert row.period_start == START
    assert shop.rows("select plan_id from businesses") == [(PLAN_IDS["starter"],)]
    shop.ask("subscription", subscription)
    shop.refresh()
    assert shop.rows("select status, billing_reason from stripe_invoices") == [("paid", "subscription_create")]
    assert shop.waiting() == set()


def test_a_lost_renewal_is_found_by_a_fetch(shop):
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    shop.stripe.report(shop.customer, "42", "push-1")
    shop.stripe.advance(2026, 12, 5, 10, 30)
    shop.deliver(only=set())  # all of the renewal's events are lost
    shop.ask("subscription", subscription)
    counts, follow_ups = shop.refresh()
    assert counts == {"fetched": 1}
    assert follow_ups >= {"periods.close-due", "stripe.plan-meter-pushes"}
    assert shop.subscription().period_start == START.replace(month=12)
    (draft,) = shop.rows("select * from stripe_invoices where status = 'draft'")
    (line,) = shop.rows("select * from stripe_invoice_lines where invoice_id = %s", draft.id)
    assert (line.minutes, line.period_end) == (42, START.replace(month=12))
    assert draft.automatically_finalizes_at == START.replace(month=12) + timedelta(hours=1)


def test_an_event_with_the_content_of_a_fetch_is_a_tie_or_newer_and_ends_right(shop):
    shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    before = shop.subscription()
    shop.stripe.client.v1.subscriptions.update(before.stripe_id, {"cancel_at_period_end": True})
    shop.deliver()
    shop.drain()  # of the same second as what is stored
    assert ("subscription", "same-second") in shop.waiting()
    shop.refresh()
    assert shop.subscription().cancel_at_period_end
    assert shop.waiting() == set()


@breaks(
    "pipeline/stripe_mirror/fetching.py",
    "self._api.answered_at or self._clock.now()",
    "self._clock.now()",
)
def test_62_a_fetch_is_dated_by_stripes_clock_since_ours_may_be_slow(shop, tmp_path):
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    shop.stripe.advance(2026, 11, 20, 12, 0, 30)
    shop.stripe.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
    (late,) = shop.stripe.of_kind("customer.subscription.updated")[-1:]
    shop.stripe.advance(2026, 11, 20, 12, 2)
    shop.stripe.client.v1.subscriptions.cancel(subscription)
    shop.clock = Clock(tmp_path / "slow")
    move(tmp_path / "slow", shop.stripe.timeline.now - timedelta(seconds=120))
    shop.ask("subscription", subscription)
    shop.refresh()
    assert shop.subscription().status == "canceled"
    assert shop.subscription().snapshot_at == shop.stripe.timeline.now
    with shop.engine.begin() as connection:
        store(connection, late, shop.clock.now())
    shop.drain()
    assert shop.subscription().status == "canceled"


def test_what_changed_during_a_fetch_is_fetched_again(shop, monkeypatch):
    """A newer snapshot is applied while the answer is under way: the answer must not undo it."""
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    ask_stripe = shop.api.get_subscription
    raced = threading.Event()

    def slow(stripe_id):
        answer = ask_stripe(stripe_id)
        if not raced.is_set():
            raced.set()
            shop.stripe.advance(2026, 11, 6)
            shop.stripe.client.v1.subscriptions.update(subscription, {"cancel_at_period_end": True})
            shop.deliver()
            shop.drain()
            assert shop.subscription().cancel_at_period_end
        return answer

    monkeypatch.setattr(shop.api, "get_subscription", slow)
    shop.ask("subscription", subscription)
    assert shop.refresh()[0] == {"fetched": 2}
    assert shop.subscription().cancel_at_period_end
    assert shop.waiting() == set()


def test_a_waiting_event_goes_on_when_its_customer_has_been_fetched(shop):
    shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver(only={"customer.subscription.created"})
    assert shop.drain().counts == {"pending": 1}
    counts, follow_ups = shop.refresh()
    assert counts == {"fetched": 1}
    assert "events.drain" in follow_ups
    assert shop.drain().counts == {"processed": 1}
    assert shop.rows("select stripe_customer_id from businesses") == [(shop.customer,)]


def test_a_price_is_mapped_by_its_products_metadata(shop):
    product = shop.stripe.client.v1.products.create({"name": "Minutes", "metadata": {"altiora_plan": "enterprise"}})
    price = shop.stripe.client.v1.prices.create(
        {
            "currency": "usd",
            "product": product.id,
            "unit_amount": 1000,
            "recurring": {"interval": "month", "usage_type": "licensed"},
        }
    )
    shop.stripe.control("/stripe/subscriptions", customer=shop.customer, prices=[price.id])
    shop.deliver()
    shop.drain()
    for _ in range(3):  # the price, then the subscriptions that have it
        shop.refresh()
    assert shop.rows("select plan_id from businesses") == [(PLAN_IDS["enterprise"],)]
    # It has the fee only: nothing bills its minutes.
    assert shop.rows("select kind from drifts where resolved_at is null") == [("paid-plan-unbilled",)]

    shop.stripe.client.v1.products.update(product.id, {"metadata": {"altiora_plan": "professional"}})
    shop.deliver()
    shop.drain()
    for _ in range(3):
        shop.refresh()
    assert shop.rows("select plan_id from businesses") == [(PLAN_IDS["professional"],)]


def test_an_object_that_is_gone_is_a_drift_and_is_not_asked_for_for_ever(shop):
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    kept = shop.stripe.sandbox.state.subscriptions.pop(subscription)
    shop.ask("subscription", subscription)
    assert shop.refresh()[0] == {"fetched": 1}
    assert shop.waiting() == set()
    assert shop.rows("select kind, subject from drifts where resolved_at is null") == [
        ("gone-at-stripe", f"subscription:{subscription}")
    ]
    assert shop.subscription().status == "active"
    shop.stripe.sandbox.state.subscriptions[subscription] = kept
    shop.ask("subscription", subscription)
    shop.refresh()
    assert shop.rows("select kind from drifts where resolved_at is null") == []


@pytest.mark.parametrize(("fault", "attempts"), [("429", 0), ("401", 0), ("500", 1), ("down", 1)])
def test_trouble_at_stripe_is_waited_out(shop, fault, attempts):
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    shop.ask("subscription", subscription)
    shop.stripe.faults.script("GET /v1/subscriptions/*", [fault])
    assert shop.refresh()[0] == {"failed": 1}
    ((stored, error),) = shop.rows("select attempts, error from refreshes where mark > fetched_mark")
    assert stored == attempts
    assert error.startswith("FetchError: ")
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("update refreshes set due_at = now()")
    assert shop.refresh()[0] == {"fetched": 1}
    assert shop.rows("select attempts, error from refreshes where object_id = %s", subscription) == [(0, None)]


def test_a_renewal_that_stripe_does_not_show_yet_is_looked_for_again(shop):
    """A call ended after the period, before Stripe had renewed: its record stays provisional and is asked about."""
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    with shop.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end, provisional,"
            " included_minutes, opened_at) select business_id, plan_id, id, period_start - interval '1 month',"
            " period_start, true, 500, period_start from subscriptions"
        )
    shop.ask("subscription", subscription)
    shop.refresh()
    assert ("subscription", "provisional-period") in shop.waiting()
    ((wait,),) = shop.rows("select extract(epoch from due_at - now())::float from refreshes where mark > fetched_mark")
    assert 10 < wait < 25


# Meter errors


def push(shop: Shop, identifier: str, minutes: int, state: str = "sent") -> None:
    with shop.engine.begin() as connection:
        record = connection.exec_driver_sql(
            "insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end,"
            " included_minutes, minutes, pushed_minutes, opened_at)"
            " select business_id, plan_id, id, period_start, period_end, 500, %(minutes)s, %(minutes)s, period_start"
            " from subscriptions on conflict (business_id, period_start)"
            " do update set pushed_minutes = usage_records.pushed_minutes + %(minutes)s returning id",
            {"minutes": minutes},
        ).scalar_one()
        connection.exec_driver_sql(
            "insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id,"
            " minutes, timestamp, state, created_at) values (%s, %s, %s, 'call_minutes', 'cus', %s, %s, %s, %s)",
            (shop.business, record, identifier, minutes, START + timedelta(seconds=75), state, START),
        )


@pytest.mark.parametrize("request_in_reports", [False, True])
def test_42_a_push_that_a_report_names_has_failed(shop, request_in_reports):
    shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    push(shop, "push-bad", 7)
    push(shop, "push-good", 5)
    shop.stripe.control("/stripe/rules", request_in_reports=request_in_reports)
    shop.stripe.report("cus_nobody", "7", "push-bad", idempotency_key="push-bad:3")
    wait_for_report(shop)
    shop.deliver()
    shop.drain()
    assert shop.refresh()[0]["fetched"] == 1
    ((state, answer),) = shop.rows("select state, answer from meter_pushes where identifier = 'push-bad'")
    assert state == "failed"
    assert answer == "meter_event_customer_not_found: No customer was found with id cus_nobody."
    assert shop.rows("select state from meter_pushes where identifier = 'push-good'") == [("sent",)]
    assert shop.rows("select pushed_minutes from usage_records") == [(5,)]
    assert shop.rows("select kind, subject from drifts where resolved_at is null") == [
        ("push-refused", "push:push-bad")
    ]


def test_42_a_report_that_counts_more_than_it_names_is_for_a_person(shop):
    shop.stripe.control("/stripe/rules", report_seconds=1.0)
    for number in range(9):
        shop.stripe.report("cus_nobody", "1", f"stranger-{number}")
    wait_for_report(shop)
    shop.deliver()
    shop.drain()
    shop.refresh()
    ((kind, actual, evidence),) = shop.rows("select kind, actual, evidence from drifts where resolved_at is null")
    assert kind == "meter-errors"
    assert actual == "9 were not, 0 of ours are named; 0 pushes of that time are in doubt"
    assert len(evidence["named"]) == 3


def test_42_a_report_waits_for_a_push_that_is_still_being_sent(shop):
    shop.stripe.subscribe(shop.customer, shop.prices)
    shop.deliver()
    shop.drain()
    shop.refresh()
    push(shop, "push-1", 7, state="sending")
    shop.stripe.report("cus_nobody", "7", "push-1", idempotency_key="push-1")
    wait_for_report(shop)
    shop.deliver()
    shop.drain()
    assert shop.refresh()[0] == {"failed": 1}
    with shop.engine.begin() as connection:
        connection.exec_driver_sql("update meter_pushes set state = 'sent'")
        connection.exec_driver_sql("update refreshes set due_at = now()")
    assert shop.refresh()[0] == {"fetched": 1}
    assert shop.rows("select state from meter_pushes") == [("failed",)]


def wait_for_report(shop: Shop) -> None:
    shop.stripe.wait_until(lambda: shop.stripe.of_kind("v1.billing.meter.error_report_triggered"))


# The client


def test_what_stripe_answers_comes_as_one_of_four(shop):
    with pytest.raises(stripe_api.Refused) as refused:
        shop.api.get_subscription("sub_unknown")
    assert (refused.value.status, refused.value.code) == (404, "resource_missing")
    for fault, kind in (("429", stripe_api.Limited), ("500", stripe_api.ServerError), ("down", stripe_api.Unreachable)):
        shop.stripe.faults.script("GET /v1/subscriptions/*", [fault])
        with pytest.raises(kind):
            shop.api.get_subscription("sub_unknown")


@pytest.mark.parametrize("bad", ["..", ".", "", "../customers", "a/b", "x?expand[]=y"])
def test_an_id_chooses_no_other_address(shop, bad):
    with pytest.raises(stripe_api.Refused) as refused:
        shop.api.get_price(bad)
    assert refused.value.status == 404


def test_an_invoice_comes_with_all_its_lines(shop):
    metered = shop.prices["metered"]
    subscription = shop.stripe.subscribe(shop.customer, shop.prices)
    shop.stripe.report(shop.customer, "600", "push-1")
    shop.stripe.advance(2026, 12, 5, 10, 30)
    (draft, _) = shop.api.list_invoices(subscription, limit=10)
    pages = {**draft, "lines": {**draft["lines"], "data": draft["lines"]["data"][:1], "has_more": True}}
    whole = shop.api._with_all_lines(pages)
    tiers = [row["quantity"] for row in whole["lines"]["data"] if row["pricing"]["price_details"]["price"] == metered]
    assert sorted(tiers) == [100, 500]


def test_fetches_that_find_each_others_objects_changed_do_not_deadlock(engine):
    """Each settles its own object and asks for the other's, as a price and a subscription with that price do."""
    price, subscription = FetchRequest("price", "price_1", 0), FetchRequest("subscription", "sub_1", 0)
    together = threading.Barrier(2, timeout=10)

    def fetched(own: FetchRequest, other: FetchRequest) -> None:
        for _ in range(40):
            together.wait()
            with engine.begin() as connection:
                wanted = {(other.kind, other.object_id): "changed-meanwhile"}
                fetch_requests.request_fetches(connection, wanted, settled=own)

    with engine.begin() as connection:
        for due in (price, subscription):
            fetch_requests.request_fetch(connection, due.kind, due.object_id, "swept")
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(fetched, price, subscription), pool.submit(fetched, subscription, price)]:
            done.result()
    with engine.connect() as connection:
        deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
        assert connection.exec_driver_sql(deadlocks).scalar_one() == 0
