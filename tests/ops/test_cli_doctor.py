"""`altiora doctor`: what it finds, and what it says is to be done."""

import os

import httpx
import pytest

from ops.doctor import accounts
from ops.processes import recipes
from ops.processes.supervisor import free_port
from pipeline.shared import drifts
from pipeline.shared.drifts import DriftKind
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.superuser import run_as_superuser
from tests.worlds.world import World

HERE = "http://127.0.0.1:8000"
STRIPE_WEBHOOK, TWILIO_WEBHOOK = f"{HERE}/webhooks/stripe", f"{HERE}/webhooks/twilio/voice"


@pytest.fixture
def altiora(monkeypatch, environment):
    use_environment(monkeypatch, environment)
    return Altiora()


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def findings(altiora, level, status):
    """What it says at this level, with the part that each is about."""
    return [
        f"{row['what']}: {row['finding']}" for row in altiora.json("doctor", status=status) if row["level"] == level
    ]


def test_accounts_that_are_set_up_step_by_step(altiora, world, processes, environment):
    stripe_port, twilio_port = free_port(), free_port()
    recipes.sandbox(stripe_port, twilio_port, HERE).start(processes, environment)
    stripe, twilio = f"http://127.0.0.1:{stripe_port}", f"http://127.0.0.1:{twilio_port}"
    os.environ |= {"ALTIORA_STRIPE_API_BASE": stripe, "ALTIORA_TWILIO_API_BASE": twilio}

    def make(what, **about):
        httpx.post(f"{stripe}/_sandbox/stripe/{what}", json=about).raise_for_status()

    def price(plan, minutes):
        make("plan-prices", plan=plan, flat_cents=100, included_minutes=minutes, overage_cents_decimal="5")

    def number(number, callback):
        about = {"number": number, "status_callback": callback}
        httpx.post(f"{twilio}/_sandbox/twilio/numbers", json=about).raise_for_status()

    # Nothing is there yet.
    meter, endpoint = findings(altiora, "fail", 1)
    assert meter == (
        "stripe: no meter counts the event call_minutes: create one that sums, in Stripe's dashboard under Billing,"
        " Meters, or set ALTIORA_STRIPE_METER_EVENT_NAME"
    )
    assert endpoint == (
        f"stripe: no webhook endpoint calls {STRIPE_WEBHOOK}: create one with API version 2026-10-28.endive, and set"
        " its secret in ALTIORA_STRIPE_WEBHOOK_SECRET"
    )
    assert findings(altiora, "warn", 1) == [
        "twilio: held by businesses, and not in this account: +15550000001, +15550000002"
    ]

    # A price is missing.
    make("meters", event_name="call_minutes")
    price("starter", 500)
    price("professional", 2000)
    make("webhook-endpoints", url=STRIPE_WEBHOOK, enabled_events=["*"])
    number("+15550000001", f"{TWILIO_WEBHOOK}?from=b#rc=5&rp=all")
    number("+15550000002", TWILIO_WEBHOOK)
    (metered,) = findings(altiora, "fail", 1)
    assert metered == (
        "stripe: no metered price stands for plan Enterprise: create a graduated one on the meter, monthly, with"
        " metadata altiora_plan=enterprise"
    )

    # All is well.
    price("enterprise", 10_000)
    assert findings(altiora, "fail", 0) == findings(altiora, "warn", 0) == []
    said = altiora("doctor").splitlines()
    assert "ok     twilio    2 numbers call http://127.0.0.1:8000/webhooks/twilio/voice" in map(str.strip, said)
    assert max(map(len, said)) <= 80

    # Somebody has changed this and that.
    price("starter", 400)
    make("webhook-endpoints", url=STRIPE_WEBHOOK, enabled_events=["invoice.paid"])
    number("+15550000001", f"{HERE}/elsewhere")
    number("+15550000009", TWILIO_WEBHOOK)
    (silent,) = findings(altiora, "fail", 1)
    assert silent == (
        f"twilio: Twilio does not tell us of calls on +15550000001: set their status callback to POST {TWILIO_WEBHOOK}"
    )
    includes, events, nobody = findings(altiora, "warn", 1)
    assert includes.endswith("of plan Starter includes 400 minutes, the plan 500: who is on it has the price's")
    assert "does not send charge.dispute.created, " in events
    assert nobody.startswith("twilio: nobody holds +15550000009")

    # The keys are others'.
    os.environ |= {"ALTIORA_TWILIO_AUTH_TOKEN": "wrong", "ALTIORA_STRIPE_API_KEY": "wrong"}
    refused_by_stripe, refused_by_twilio = findings(altiora, "fail", 1)
    assert refused_by_stripe.startswith("stripe: Stripe answers 401")
    assert refused_by_stripe.endswith("see that ALTIORA_STRIPE_API_KEY may read meters, prices and webhooks")
    assert refused_by_twilio.startswith("twilio: Twilio answers 401")


def test_what_cannot_be_reached_or_is_not_set_hides_nothing_else(altiora):
    os.environ |= {
        "ALTIORA_BROKER_URL": "redis://127.0.0.1:1/0",
        "ALTIORA_DATABASE_URL": "postgresql://127.0.0.1:1/altiora",
        "ALTIORA_STRIPE_WEBHOOK_SECRET": "",
        "ALTIORA_CLOCK": "/nowhere",
    }
    beginnings = (
        "settings: ALTIORA_STRIPE_WEBHOOK_SECRET is missing",
        "settings: ALTIORA_CLOCK names /nowhere",
        "database: PostgreSQL can't be reached",
        "broker: the broker can't be reached",
        "stripe: http://127.0.0.1:1 can't be reached",
        "twilio: http://127.0.0.1:1 can't be reached",
    )
    for words, beginning in zip(findings(altiora, "fail", 1), beginnings, strict=True):
        assert words.startswith(beginning)


def test_a_database_that_is_not_ready(altiora, world, empty_database_url):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscription_plans set payment_grace_days = 9 where code = 'free'")
        connection.exec_driver_sql("delete from subscription_plans where code = 'enterprise'")
    assert "database: plans are missing (enterprise): run `altiora seed`" in findings(altiora, "fail", 1)
    altiora("seed")
    assert not [words for words in findings(altiora, "fail", 1) if words.startswith("database")]
    run_as_superuser(world.engine, "update alembic_version set version_num = '0000'")
    (words,) = (words for words in findings(altiora, "fail", 1) if words.startswith("database"))
    assert words.startswith("database: the database's tables are at 0000, and this version needs")
    os.environ["ALTIORA_DATABASE_URL"] = empty_database_url
    (words,) = (words for words in findings(altiora, "fail", 1) if words.startswith("database"))
    assert words.startswith("database: the database's tables are older")
    assert words.endswith("run `altiora migrate`")


def test_the_login_of_tenants_requests(altiora, world, database_url):
    assert "database: altiora_tenant sees no business until a request says whose it is" in findings(altiora, "ok", 1)
    os.environ["ALTIORA_TENANT_DATABASE_URL"] = os.environ["ALTIORA_DATABASE_URL"]
    assert any(
        words.startswith("database: tenants' requests come as altiora_worker, for whom no wall stands")
        for words in findings(altiora, "fail", 1)
    )
    os.environ["ALTIORA_TENANT_DATABASE_URL"] = "postgresql://127.0.0.1:1/altiora"
    assert any("tenants' requests can't reach it" in words for words in findings(altiora, "fail", 1))
    os.environ["ALTIORA_TENANT_DATABASE_URL"] = ""
    assert not any("tenant" in words for words in findings(altiora, "ok", 1))


def test_settings_of_the_api_are_looked_at_where_they_are_given(altiora, world):
    os.environ |= {"ALTIORA_DASHBOARD_URL": "http://app.example.com", "ALTIORA_SECRET_KEYS": ""}
    (wrong,) = [words for words in findings(altiora, "fail", 1) if words.startswith("settings")]
    assert wrong.startswith("settings: ALTIORA_DASHBOARD_URL is wrong")


def test_a_source_that_has_been_silent_for_too_long_fails(altiora, world):
    world.callback("a")
    world.drain()
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "update sources set heard_machine_at = now() - interval '49 h' where heard_at is not null"
        )
    (silent,) = [words for words in findings(altiora, "fail", 1) if words.startswith("sources")]
    assert "twilio-callbacks: last heard 2 d 1 h ago" in silent
    assert "2 d 1 h ago, usual are 2 d 0 h: see that its requests reach us" in silent


def test_a_broker_that_forgets_is_a_warning(altiora, world, monkeypatch):
    told = {"redis_version": "6.0.16", "maxmemory_policy": "allkeys-lru", "aof_enabled": 0}
    monkeypatch.setattr("redis.Redis.info", lambda _: told)
    assert "broker: Redis 6.0.16 is too old: use Redis or Valkey 6.2 or newer" in findings(altiora, "fail", 1)
    evicts, forgets = (words for words in findings(altiora, "warn", 1) if words.startswith("broker"))
    assert "set maxmemory-policy to noeviction" in evicts
    assert "set appendonly to yes" in forgets


@pytest.mark.parametrize(
    ("callback", "method", "tells"),
    [
        (TWILIO_WEBHOOK, "POST", True),
        (f"{TWILIO_WEBHOOK}?from=b#rc=5", "POST", True),
        (TWILIO_WEBHOOK, "GET", False),
        (f"{TWILIO_WEBHOOK}/other", "POST", False),
        ("", "POST", False),
        (None, "POST", False),
    ],
)
def test_a_number_tells_us_of_calls_by_post_to_our_address(callback, method, tells):
    number = {"status_callback": callback, "status_callback_method": method}
    assert accounts._tells(number, TWILIO_WEBHOOK) is tells


def test_what_subscriptions_have_that_can_cost_minutes_or_money_is_a_line_each(altiora, world):
    with world.engine.begin() as connection:
        for price, interval in (("price_starter", "month"), ("price_yearly", "year")):
            connection.exec_driver_sql(
                "insert into stripe_prices (id, usage_type, active, billing_interval, interval_count, snapshot_at)"
                " values (%s, 'metered', true, %s, 1, now())",
                (price, interval),
            )
        connection.exec_driver_sql("update subscriptions set billing_mode = 'classic'")
        connection.exec_driver_sql(
            "insert into subscription_items (subscription_id, id, price_id, role)"
            " values (%s, 'si_1', 'price_yearly', 'add-on')",
            (world.subscription_of_b,),
        )
        kinds = (
            DriftKind.VOLUME_TIERS,
            DriftKind.BILLING_THRESHOLDS,
            DriftKind.COLLECTION_GIVEN_AWAY,
            DriftKind.SECOND_CUSTOMER,
            DriftKind.PAID_PLAN_UNBILLED,
        )
        for kind in kinds:
            drifts.report(connection, kind, f"{kind.about[0]}:x", expected="x", actual="y", now=world.now)
    said = [words.removeprefix("database: ") for words in findings(altiora, "warn", 1) if words.startswith("database")]
    assert len(said) == 2 + len(kinds)
    assert said[0].startswith("1 subscription in classic billing mode: a change of price in Stripe's dashboard")
    assert said[1].startswith("1 subscription with an add-on of another interval than its minutes")
    for kind in kinds:
        assert any(words.startswith(f"1 difference {kind}: {kind.repair}") for words in said), kind
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscriptions set metered_price_id = 'price_yearly'")
    assert any("not billed by the month" in words for words in findings(altiora, "warn", 1))


@pytest.mark.parametrize(
    ("name", "address"),
    [
        *(("DATABASE_URL", f"postgresql://{rest}") for rest in ("u:p@h:port/db", "h:99999/db", "[::1/db", "h:0/db")),
        ("DATABASE_URL", "mysql://h/db"),
        ("DATABASE_URL", "postgresql://127.0.0.1:1/db?no_such_option=1"),
        *(("BROKER_URL", address) for address in ("redis://:p@h:port", "http://h", "redis://[", "h:6379")),
        *(("STRIPE_API_BASE", address) for address in ("api.stripe.com", "https://h:port", "https://[")),
        *(("TWILIO_API_BASE", address) for address in ("api.twilio.com", "https://h:port")),
        *(("PUBLIC_URL", address) for address in ("billing.example.com", "https://h:port")),
        ("STRIPE_METER_EVENT_NAME", "x" * 200),
        ("TWILIO_ACCOUNT_SID", "AC1"),
        ("BILL_CHILD_LEGS", "perhaps"),
    ],
)
def test_a_malformed_setting_is_diagnosed_in_our_words(altiora, name, address):
    os.environ[f"ALTIORA_{name}"] = address
    told = [
        words for words in findings(altiora, "fail", 1) if name in words or words.startswith("database: PostgreSQL")
    ]
    assert told, "it names the setting, or says what PostgreSQL refused"
    for words in told:
        assert "Value error" not in words
        assert "Input should" not in words
        assert "String should" not in words
