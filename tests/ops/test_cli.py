"""The command line: what each command does and prints, and how it ends."""

import json
import os
import re
import shlex
from datetime import timedelta
from functools import partial

import pytest
import redis

from ops.commands.database import choose_settings
from ops.processes import environment as running
from pipeline.shared import drifts
from pipeline.shared.settings import SettingsError, StripeSettings, load
from tests.worlds.breaking import breaks
from tests.worlds.ledger import Ledger
from tests.worlds.world import NUMBER_OF_B, World, at

NEW = "+15550000009"


@pytest.fixture
def world(engine, tmp_path, altiora):
    return World(engine, tmp_path / "clock")


@pytest.fixture
def stripe(host, tmp_path, altiora):
    """The stand-in for Stripe, which the command asks."""
    with host.fresh(tmp_path) as it:
        os.environ |= {"ALTIORA_STRIPE_API_BASE": it.url, "ALTIORA_STRIPE_API_KEY": "sk_test_cli"}
        yield it


def state_of(world, key):
    return world.event(key)[0]


# Businesses


def test_business_add_tells_the_id_as_json(altiora, engine, stripe):
    customer = stripe.customer()
    options = ("--plan", "starter", "--time-zone", "Europe/London")
    assert altiora.json("business", "add", "Bakery", *options, "--stripe-customer", customer) == {"id": 1}
    assert "Added business 2 (Florist)" in altiora("business", "add", "Florist", *options)
    assert altiora.json("business", "list") == [
        {
            "id": 1,
            "name": "Bakery",
            "plan": "starter",
            "time_zone": "Europe/London",
            "stripe_customer": customer,
            "numbers": [],
            "service_status": "active",
        },
        {
            "id": 2,
            "name": "Florist",
            "plan": "starter",
            "time_zone": "Europe/London",
            "stripe_customer": None,
            "numbers": [],
            "service_status": "active",
        },
    ]


def test_business_list_is_read_by_people_too(altiora, world):
    assert re.search(r"1 +B +starter +active +\+15550000001 +UTC", altiora("business", "list"))


def test_business_list_without_any_says_what_to_do(altiora, engine):
    assert "There is no business yet: altiora business add" in altiora("business", "list")


def test_a_change_that_is_refused_is_a_sentence_and_status_1(altiora, engine):
    answer = altiora("business", "add", "Bakery", "--plan", "gold", "--time-zone", "UTC", status=1)
    assert answer == "altiora: there is no plan gold; the plans are free, starter, professional, enterprise\n"


def test_a_missing_option_is_used_wrongly(altiora):
    assert "Missing option '--plan'" in altiora("business", "add", "Bakery", status=2)


def test_11_add_number_names_the_replay_that_then_counts(altiora, world):
    key = world.callback(To=NEW, CallDuration=70)
    world.drain()
    said = altiora("business", "add-number", "B", NEW)
    assert f"Business 1 holds {NEW} from 2026-11-20T12:00:00+00:00 on." in said
    printed = [line.partition(": ")[2] for line in said.splitlines() if ": altiora " in line]
    assert printed == [
        f"altiora business add-number 1 {NEW} --from 2026-11-19T12:00",
        f"altiora events replay --reason 'unknown-number {NEW}'",
    ]
    altiora(*shlex.split(printed[0])[1:])
    assert altiora.json("events", "replay", "--reason", f"unknown-number {NEW}") == {"replayed": 1}
    world.drain()
    assert state_of(world, key) == "processed"


def test_add_number_from_a_time_is_utc_unless_it_has_an_offset(altiora, world):
    third = altiora.json("business", "add", "Third", "--plan", "starter", "--time-zone", "UTC")["id"]
    world.callback(ended=at("20 Nov 11:00"))
    world.drain()
    given = ("business", "add-number", third, NUMBER_OF_B, "--from", "2026-11-20T10:00+01:00", "--from-business", "B")
    answer = altiora.run(*given, "--json")
    assert json.loads(answer.stdout) == {
        "number": NUMBER_OF_B,
        "from": "2026-11-20T09:00:00+00:00",
        "former_business": 1,
    }
    assert answer.stderr == (
        f"calls on {NUMBER_OF_B} since then that are counted for business 1 already, and stay there: 1\n"
    )
    assert "from 2026-11-20T11:30:00+00:00 on" in altiora(
        *("business", "add-number", "B", NUMBER_OF_B, "--from", "2026-11-20T11:30", "--from-business", "Third")
    )
    assert "Invalid value for '--from'" in altiora("business", "add-number", "B", NEW, "--from", "noon", status=2)


@breaks(
    "ops/commands/businesses.py",
    "        found = StripeApi(settings).get_customer(customer)",
    "        found: dict[str, object] = {}",
)
def test_61_link_stripe_asks_stripe_whether_there_is_such_a_customer(altiora, world, stripe):
    said = altiora("business", "link-stripe", "F", "cus_TYPO", status=1)
    assert said == "altiora: Stripe knows no such customer as cus_TYPO in the test account\n"
    said = altiora(
        "business", "add", "Bakery", "--plan", "starter", "--time-zone", "UTC", "--stripe-customer", "cus_T", status=1
    )
    assert "Stripe knows no such customer as cus_T" in said
    customer = stripe.customer()
    stripe.client.v1.customers.delete(customer)
    assert f"{customer} was deleted at Stripe" in altiora("business", "link-stripe", "F", customer, status=1)
    assert world.rows("select stripe_customer_id from businesses where id = %s", world.f) == [(None,)]
    os.environ["ALTIORA_STRIPE_API_BASE"] = "http://127.0.0.1:1"
    assert "Stripe can't say whether there is cus_1" in altiora("business", "link-stripe", "F", "cus_1", status=1)


def test_60_link_stripe_shows_what_is_left_with_the_former_customer(altiora, world, stripe):
    first, second = stripe.customer(), stripe.customer()
    altiora("business", "link-stripe", "F", first)
    then, ledger = at("1 Nov"), Ledger(world.engine)
    gone = ledger.subscription(world.f, customer=first, stripe_id="sub_old")
    ledger.run("update subscriptions set status = 'canceled', ended_at = %s where id = %s", then, gone)
    ledger.invoice(ledger.record(world.f, 0, subscription_id=gone), id="in_old", status="open")
    ledger.run(
        "insert into stripe_customers (id, balance, currency, snapshot_at) values (%s, -1250, 'jpy', %s)", first, then
    )
    said = altiora("business", "link-stripe", "F", second)
    assert f"Linked business 2 to {second}" in said
    assert f"{first} was its customer before" in said
    assert "left there: invoice in_old is open, 49.00 USD" in said
    assert "left there: a balance of 1,250 JPY in its favour" in said


def test_link_stripe_links(altiora, world, stripe):
    new = stripe.customer()
    world.stripe_event("evt_1", "customer.created", {"id": new, "object": "customer"}, world.now)
    subscription = {"id": "sub_new", "customer": new, "status": "active", "items": {"data": []}}
    world.drain()
    world.stripe_event("evt_2", "customer.subscription.created", subscription, world.now)
    world.drain()
    said = altiora("business", "link-stripe", "F", new)
    assert f"Linked business 2 to {new}" in said
    assert "Dead for want of a customer: 1 events. Now: altiora events replay --reason unknown-customer" in said


def test_a_business_is_named_by_its_id_or_its_exact_name(altiora, world):
    assert altiora.json("usage", "2")["business"] == altiora.json("usage", "F")["business"] == "F"
    assert "there is no business f;" in altiora("usage", "f", status=1)
    assert "there is no business 99;" in altiora("usage", "99", status=1)
    world.business("F", "free", "UTC")
    assert "2 businesses are called F; name one by its id: 2, 3" in altiora("usage", "F", status=1)


# Usage


def test_usage_bills_what_is_above_the_plan(altiora, world):
    world.callback("long", ended=at("20 Nov 11:00"), CallDuration=499 * 60)
    world.callback("last", ended=at("20 Nov 11:01"), CallDuration=119)
    world.drain()
    assert altiora.json("usage", "B") == {
        "business": "B",
        "plan": "starter",
        "service_status": "active",
        "records": [
            {
                "id": 1,
                "period_start": "2026-11-05T10:23:45+00:00",
                "period_end": "2026-12-05T10:23:45+00:00",
                "state": "open",
                "calls": 2,
                "seconds": 30059,
                "minutes": 501,
                "included": 500,
                "overage": 1,
                "unbilled": 0,
                "adjustments": 0,
                "pushed": 0,
                "currency": None,
                "fee": None,
                "minutes_amount": None,
            }
        ],
    }


def test_21_usage_of_free_is_unbilled_above_the_plan_and_limited_until_the_period_ends(altiora, world):
    world.callback(To="+15550000002", CallDuration=52 * 60)
    world.drain()
    used = altiora.json("usage", "F")
    assert (used["plan"], used["service_status"], used["limited_until"]) == (
        "free",
        "limited",
        "2026-12-01T05:00:00+00:00",
    )
    ((minutes, included, overage, unbilled),) = [
        (each["minutes"], each["included"], each["overage"], each["unbilled"]) for each in used["records"]
    ]
    assert (minutes, included, overage, unbilled) == (52, 50, 0, 2)
    said = altiora("usage", "F")
    assert "F: plan free, limited until 2026-12-01 05:00:00 UTC" in said
    assert re.search(r"2026-11-01 04:00:00 +open +1 +52 +2 +0 +0\n2026-12-01 05:00:00 +of 50 +unbilled", said)
    # 22: no job needs to run
    world.now = at("1 Dec 05:00")
    used = altiora.json("usage", "F")
    assert used["service_status"] == "active"
    assert "limited_until" not in used


def test_usage_of_a_suspended_business(altiora, world):
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update businesses set suspended_at = %s", (world.now,))
    assert altiora.json("usage", "B")["service_status"] == "suspended"
    assert "B: plan starter, suspended" in altiora("usage", "B")
    assert "No call has been counted yet." in altiora("usage", "B")


# Events


def test_events_list_has_exactly_the_promised_fields(altiora, world):
    body = world.body(CallStatus="answered")
    world._store("twilio", "CA1:answered", "call.answered", body, "application/x-www-form-urlencoded")
    world.callback("other")
    world.drain()
    assert altiora.json("events", "list", "--state", "dead") == [
        {
            "id": 1,
            "provider": "twilio",
            "key": "CA1:answered",
            "type": "call.answered",
            "state": "dead",
            "reason": "unknown-status",
            "attempts": 0,
            "received_at": "2026-11-20T12:00:00+00:00",
        }
    ]
    assert [row["id"] for row in altiora.json("events", "list")] == [2, 1]
    assert [row["id"] for row in altiora.json("events", "list", "--limit", "1")] == [2]
    assert re.search(
        r"1 +2026-11-20 12:00:00 +call.answered +dead +unknown-status +0", altiora("events", "list", "--state", "dead")
    )
    assert "Invalid value for '--state'" in altiora("events", "list", "--state", "lost", status=2)


def test_events_list_of_json_is_all_and_of_a_table_the_newest_fifty(altiora, world):
    for number in range(51):
        world.callback(str(number))
    assert len(altiora.json("events", "list", "--state", "pending")) == 51
    assert len(altiora("events", "list").splitlines()) == 51  # with its header


def test_events_show_decodes_what_was_said(altiora, world):
    world.callback(From="+15559999999", CallDuration=60)
    world.stripe_event("evt_1", "customer.created", {"id": "cus_1"}, world.now)
    shown = altiora.json("events", "show", "1")
    assert (shown["state"], shown["recovered"]) == ("pending", False)
    assert (shown["body"]["From"], shown["body"]["CallDuration"]) == ("+15559999999", "60")
    assert altiora.json("events", "show", "2")["body"]["data"] == {"object": {"id": "cus_1"}}
    said = altiora("events", "show", "1")
    assert "received at   2026-11-20 12:00:00" in said
    assert '"CallDuration": "60"' in said
    assert "there is no event 3;" in altiora("events", "show", "3", status=1)


@pytest.mark.parametrize(
    ("content_type", "body", "shown"),
    [
        ("application/json", b'{"a": "\\u0000\\ud800"}', {"a": "\x00\ud800"}),
        ("application/json", b"{broken \x1b[31m", "{broken \x1b[31m"),
        ("application/json", b"[" * 100_000, "[" * 100_000),
        ("application/json", b"\xff", "\\xff"),
        ("application/x-www-form-urlencoded", b"a=1&a=2&b=", {"a": ["1", "2"], "b": ""}),
    ],
)
def test_events_show_bears_any_body_and_no_terminal_is_steered(altiora, world, content_type, body, shown):
    world._store("stripe", "evt_1", None, body, content_type)
    assert altiora.json("events", "show", "1")["body"] == shown
    said = altiora("events", "show", "1")
    assert "evt_1" in said
    assert "\x1b" not in said
    assert "\x00" not in said


def test_a_table_steers_no_terminal(altiora, world):
    world._store("stripe", "evt_1", "\x1b[2J[red]", b"", "application/json")
    said = altiora("events", "list")
    assert "\\x1b[2J[red]" in said
    assert "\x1b[2J" not in said


def test_replay_of_single_events(altiora, world):
    key = world.callback()
    world.drain()
    assert altiora("events", "replay", "1") == "Events that will be applied again: 1\n"
    assert state_of(world, key) == "pending"
    assert altiora.json("events", "replay", "1") == {"replayed": 0}  # it is pending already
    world.drain()
    assert world.figures(world.b) == [(1, 60, 1)]
    assert "there is no event 2, 3; nothing was replayed" in altiora("events", "replay", "1", "2", "3", status=1)
    assert state_of(world, key) == "processed"


def test_replay_of_a_reason_is_of_its_first_word_and_only_of_what_ended(altiora, world):
    for name, params in {
        "a": {"To": NEW},
        "b": {"To": "+15550000008"},
        "c": {"CallStatus": "answered"},
        "d": {},
    }.items():
        world.callback(name, **params)
    world.drain()
    assert altiora.json("events", "replay", "--reason", "unknown") == {"replayed": 0}
    assert altiora.json("events", "replay", "--reason", "unknown-number") == {"replayed": 2}
    world.drain()
    assert altiora.json("events", "replay", "--state", "dead", "--reason", "unknown-status") == {"replayed": 1}
    world.drain()
    assert altiora.json("events", "replay", "--state", "ignored") == {"replayed": 0}
    assert altiora.json("events", "replay", "--state", "dead") == {"replayed": 3}


@pytest.mark.parametrize("arguments", [(), ("1", "--state", "dead"), ("--state", "processed")])
def test_replay_wants_to_know_which(altiora, world, arguments):
    world.callback()
    world.drain()
    altiora("events", "replay", *arguments, status=2)
    assert world.rows("select state from webhook_events") == [("processed",)]


def test_replay_nudges_the_workers(altiora, world, broker_url):
    world.callback()
    world.drain()
    altiora("events", "replay", "1")
    with redis.Redis.from_url(broker_url) as client:
        (message,) = client.lrange("events", 0, -1)
    assert json.loads(message)["headers"]["task"] == "events.drain"


# What waits


def test_backlog_has_a_row_for_each_kind(altiora, world):
    world.callback()
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update webhook_events set due_at = now() - interval '2 hours 5 minutes'")
    rows = {row["kind"]: row for row in altiora.json("backlog")}
    assert {"pending", "dead", "refreshes", "pushes-unsent", "pushes-failed", "records-due", "drifts"} <= rows.keys()
    assert all(row.keys() == {"kind", "count", "oldest_seconds"} for row in rows.values())
    assert rows["dead"] == {"kind": "dead", "count": 0, "oldest_seconds": None}
    assert rows["pending"]["count"] == 1
    assert 7_500 <= rows["pending"]["oldest_seconds"] < 7_700
    assert re.search(r"pending +1 +2 h 5 min +too old", altiora("backlog"))


def test_close_closes_what_is_due(altiora, world):
    world.callback(To="+15550000002")
    world.drain()
    world.now = at("1 Dec 05:00")
    assert altiora.json("close") == {"closing": 1, "closed": 0, "settled": 0, "requested": 0}
    world.now += timedelta(hours=72)
    with world.engine.begin() as connection:
        connection.exec_driver_sql("insert into listings values ('twilio-calls', %s)", (world.now,))
    said = altiora("close")
    assert "0 records began to close, 1 closed, 0 settled with their invoice; 0 objects" in said
    assert altiora.json("usage", "F")["records"][0]["state"] == "closed"


def failed_push(world):
    world.callback()
    world.drain()
    (record,) = world.records(world.b)
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id,"
            " minutes, timestamp, state, answer, created_at, settled_at)"
            " values (%s, %s, 'altiora-1', 'call_minutes', 'cus_B', 1, %s, 'failed', '400: no such customer', %s,"
            " now())",
            (world.b, record.id, at("20 Nov 12:00"), world.now),
        )


@pytest.mark.parametrize(("verdict", "pushed"), [("sent", 3), ("void", 0)])
def test_a_person_says_what_became_of_a_push(altiora, world, verdict, pushed):
    world.callback(CallDuration=180)
    world.drain()
    record = world.record(world.b)
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id,"
            " minutes, timestamp, state, created_at)"
            " values (%s, %s, 'push-1', 'call_minutes', 'cus_1', 3, %s, 'unknown', %s)",
            (world.b, record.id, at("20 Nov 12:00"), world.now),
        )
    assert "'maybe' is not one of" in altiora("pushes", "settle", "1", "maybe", status=2)
    assert f"Meter push 1 is {verdict}" in altiora("pushes", "settle", "1", verdict)
    assert world.record(world.b).pushed_minutes == pushed
    assert world.rows("select state from meter_pushes") == [(verdict,)]
    assert "only an unknown one needs a word" in altiora("pushes", "settle", "1", verdict, status=1)


def test_a_refused_push_is_shown_and_released(altiora, world):
    failed_push(world)
    (push,) = altiora.json("pushes", "list")
    assert (push["business"], push["minutes"], push["state"]) == ("B", 1, "failed")
    assert re.search(r"1 +B +1 +2026-11-20 12:00:00 +failed +0 +400: no such", altiora("pushes", "list"))
    assert "Released meter push 1" in altiora("pushes", "release", "1")
    assert "Every meter push is settled." in altiora("pushes", "list")
    assert "only a failed one can be released" in altiora("pushes", "release", "1", status=1)
    assert "there is no meter push 2;" in altiora("pushes", "release", "2", status=1)


def test_open_drifts_are_listed(altiora, world):
    assert "No difference is open." in altiora("drifts", "list")
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into drifts (kind, subject, expected, actual, evidence, found_at, resolved_at) values"
            " ('unmapped-price', 'price:price_1', 'a plan', 'none', '{\"price\": \"price_1\"}', %s, null),"
            " ('unmapped-price', 'price:price_2', 'a plan', 'none', '{}', %s, %s)",
            (world.now, world.now, world.now),
        )
    (drift,) = altiora.json("drifts", "list")
    assert (drift["kind"], drift["subject"], drift["evidence"]) == (
        "unmapped-price",
        "price:price_1",
        {"price": "price_1"},
    )
    said = altiora("drifts", "list")
    assert f"{drift['id']}  unmapped-price  price:price_1\n    found     2026-11-20 12:00:00 UTC\n" in said
    assert max(map(len, said.splitlines())) <= 80


# The database and the settings


def test_migrate_makes_the_tables_and_seed_the_plans(altiora, empty_database_url):
    os.environ["ALTIORA_DATABASE_URL"] = empty_database_url
    assert "run `altiora migrate`" in altiora("business", "list", status=1)
    assert altiora("migrate").startswith("The database is up to date. Logins: altiora_owner,")
    assert altiora("seed").startswith("The plans are there: Free, Starter, Professional, Enterprise. Figures:")
    assert altiora.json("business", "list") == []


def test_an_unreachable_database_is_a_sentence_and_status_1(altiora):
    os.environ["ALTIORA_DATABASE_URL"] = "postgresql://somebody:hidden@127.0.0.1:1/altiora"
    said = altiora("backlog", status=1)
    assert "PostgreSQL can't be reached" in said
    assert "ALTIORA_DATABASE_URL is right" in said
    assert "hidden" not in said


@pytest.mark.parametrize(
    ("arguments", "changed", "words"),
    [
        (("receiver",), {"ALTIORA_PUBLIC_URL": "here"}, "altiora: ALTIORA_PUBLIC_URL is wrong"),
        (("worker",), {"ALTIORA_BROKER_URL": ""}, "altiora: ALTIORA_BROKER_URL is missing"),
        (("worker", "--queues", "events,evnts"), {}, "evnts is no queue"),
        (("beat",), {"ALTIORA_BEAT_PACE": "0"}, "altiora: ALTIORA_BEAT_PACE is wrong"),
        (("flower",), {}, "Missing option '--basic-auth'"),
        (("flower", "--basic-auth", "nobody:"), {}, "write it as user:password"),
        (("sandbox", "--faults", "odd"), {}, "one of none, default, heavy"),
        (("sandbox",), {"ALTIORA_TWILIO_AUTH_TOKEN": ""}, "altiora: ALTIORA_TWILIO_AUTH_TOKEN is missing"),
    ],
)
def test_a_process_does_not_start_when_something_is_wrong(altiora, arguments, changed, words):
    os.environ |= changed
    assert words in altiora(*arguments, status=2)


def test_a_missing_setting_is_a_sentence_and_status_2(altiora, monkeypatch):
    del os.environ["ALTIORA_DATABASE_URL"]
    monkeypatch.setattr(running, "read", dict)
    said = altiora("usage", "1", status=2)
    assert said == (
        "altiora: ALTIORA_DATABASE_URL is missing: set it to the address of PostgreSQL 15 or newer,"
        " as postgresql://user:password@host:5432/altiora\n"
    )


def test_a_broken_clock_is_a_sentence_and_status_2(altiora, engine):
    os.environ["ALTIORA_CLOCK"] = "/nowhere"
    assert "ALTIORA_CLOCK names /nowhere, which holds no time" in altiora("backlog", status=2)


@pytest.fixture
def demo(monkeypatch, tmp_path):
    """Settings that a running demo has left, as long as the test lasts."""
    file = tmp_path / "run" / "env"
    settings = {name: value for name, value in os.environ.items() if name.startswith("ALTIORA_")}
    monkeypatch.setattr(running, "read", partial(running.read, file))
    with running.published(settings, file):
        yield settings


def test_a_running_demo_is_used_as_a_whole_where_no_database_is_named(altiora, engine, demo):
    for name in demo:
        del os.environ[name]
    os.environ |= {"ALTIORA_STRIPE_API_KEY": "sk_live_real", "ALTIORA_STRANGE": "1"}
    before = dict(os.environ)
    result = altiora.run("backlog", "--json")
    assert json.loads(result.stdout)[0]["kind"] == "pending"
    assert result.stderr == "using .altiora/env of the running demo\n"
    assert os.environ == before
    chosen = choose_settings()
    assert load(StripeSettings, chosen).stripe_api_key.get_secret_value() == demo["ALTIORA_STRIPE_API_KEY"]
    with pytest.raises(SettingsError, match="ALTIORA_STRIPE_API_KEY is missing"):
        load(StripeSettings, {**demo, "ALTIORA_STRIPE_API_KEY": ""})


def test_a_running_demo_is_not_used_where_a_database_is_named(altiora, engine, demo):
    os.environ["ALTIORA_DATABASE_URL"] = "mysql://here"
    assert "ALTIORA_DATABASE_URL is wrong" in altiora("backlog", status=2)
    os.environ["ALTIORA_DATABASE_URL"] = "postgresql://127.0.0.1:1/altiora"
    del os.environ["ALTIORA_BROKER_URL"]
    assert "ALTIORA_BROKER_URL is missing" in altiora("worker", status=2)


def test_help_names_every_command(altiora):
    said = altiora("--help")
    for name in ("demo", "up", "migrate", "seed", "receiver", "worker", "beat", "flower", "sandbox", "business",
                 "backlog", "events", "usage", "explain", "statement", "close", "pushes", "drifts", "rebuild",
                 "doctor"):  # fmt: skip
        assert re.search(rf"^│ {name} ", said, re.MULTILINE), name
    assert "No such command 'explode'" in altiora("explode", status=2)


@pytest.mark.parametrize("command", ["demo", "up", "sandbox"])
def test_what_simulates_may_not_be_installed(altiora, monkeypatch, command):
    def missing(_):
        raise ModuleNotFoundError

    monkeypatch.setattr("ops.cli.import_module", missing)
    assert "pip install '.[sandbox]'" in altiora(command, "--port", "1", "more", status=1)
    with pytest.raises(ModuleNotFoundError):
        altiora("usage", "1")


def test_a_difference_is_shown_and_resolved_with_a_note(altiora, world):
    with world.engine.begin() as connection:
        drifts.report(
            connection,
            drifts.DriftKind.UNBILLABLE,
            "record:1",
            expected="x",
            actual="y",
            evidence={"minutes": 3},
            now=world.now,
        )
    assert "unbillable" in altiora("drifts", "list")
    said = altiora("drifts", "show", "1")
    assert 'evidence: {"minutes": 3}' in said
    assert "repair: nothing: a record that charges takes them" in said
    assert "Missing option '--note'" in altiora("drifts", "resolve", "1", status=2)
    assert "Resolved difference 1" in altiora("drifts", "resolve", "1", "--note", "billed by hand")
    shown = altiora.json("drifts", "show", "1")
    assert (shown["note"], shown["resolved_at"]) == ("billed by hand", "2026-11-20T12:00:00+00:00")
    assert "was resolved on 2026-11-20 12:00:00 UTC" in altiora("drifts", "resolve", "1", "--note", "x", status=1)
    assert "there is no difference 2;" in altiora("drifts", "show", "2", status=1)


# How a business is billed


def test_64_a_business_is_shown_and_said_to_be_billed_elsewhere(altiora, world):
    added = altiora.json("business", "add", "Bakery", "--plan", "starter", "--time-zone", "UTC")["id"]
    shown = altiora.json("business", "show", "Bakery")
    assert (shown["plan"], shown["service_status"], shown["stripe_customer"]) == ("starter", "active", None)
    assert "paid-plan-unbilled: none: 0 minutes" in altiora("business", "show", str(added))
    said = altiora(
        "business", "set", "Bakery", "--billed-elsewhere", "--until", "2027-06-01", "--reason", "Ann writes invoices"
    )
    assert "is billed elsewhere until 2027-06-01 00:00:00 UTC" in said
    shown = altiora("business", "show", "Bakery")
    assert "billed elsewhere reason: Ann writes invoices" in shown
    assert "paid-plan-unbilled" not in shown
    said = altiora("business", "set", "Bakery", "--billed-elsewhere", "--until", "2026-01-01", "--reason", "over")
    assert "is not billed elsewhere any more" in said
    assert "paid-plan-unbilled" in altiora("business", "show", "Bakery")


# Plans


def test_plans_are_listed_changed_added_and_retired(altiora, world):
    assert [plan["code"] for plan in altiora.json("plans", "list")] == ["free", "starter", "professional", "enterprise"]
    assert "periods that have begun keep" in altiora("plans", "set", "starter", "--included-minutes", "600")
    assert altiora.json("plans", "list")[1]["included_minutes"] == 600
    figures = ("--price-cents", "9900", "--included-minutes", "1000", "--agents", "5", "--numbers", "3")
    assert "metadata altiora_plan=gold" in altiora("plans", "add", "gold", "--name", "Gold", *figures)
    assert "Plan gold is retired; 0 businesses keep it." in altiora("plans", "retire", "gold")
    listed = altiora("plans", "list")
    assert re.search(r"starter +49.00 +600 +3 +2 +60 s steps +carry +1", listed)
    assert re.search(r"gold +99.00", listed)
    assert "retired" in listed
    assert max(map(len, listed.splitlines())) <= 80
    assert "there is no plan silver" in altiora("plans", "set", "silver", "--agents", "1", status=1)
