"""`altiora reconcile`: everything compared at once, shown first, and the safe repairs."""

import os

import pytest

from pipeline.shared.business_locks import lock_businesses
from pipeline.usage import late_minutes
from pipeline.usage.late_minutes import Late
from tests.pipeline.calls.test_listing import TOKEN, Line
from tests.worlds.command_line import Altiora, use_environment
from tests.worlds.stripe_stand_in import StandIn
from tests.worlds.world import ACCOUNT


class Both(Line):
    """Twilio's stand-in and Stripe's."""

    stripe: StandIn


@pytest.fixture
def line(engine, tmp_path, monkeypatch, environment, host):
    (tmp_path / "stripe").mkdir()
    made = Both(engine, tmp_path / "clock")
    with made.connect() as twilio, host.fresh(tmp_path / "stripe", start=made.now) as it:
        made.reach(twilio)
        made.stripe = it
        it.plan()
        use_environment(
            monkeypatch,
            environment
            | {
                "ALTIORA_CLOCK": str(made.clock_file),
                "ALTIORA_STRIPE_API_BASE": it.url,
                "ALTIORA_STRIPE_SETTLING_SECONDS": "0",
                "ALTIORA_TWILIO_API_BASE": twilio,
                "ALTIORA_TWILIO_ACCOUNT_SID": ACCOUNT,
                "ALTIORA_TWILIO_AUTH_TOKEN": TOKEN,
            },
        )
        yield made


@pytest.fixture
def altiora():
    return Altiora()


def counted(line: Both) -> None:
    """Six minutes that everybody agrees on."""
    line.place(360)
    line.pass_time(minutes=20)
    line.list()


def run(line: Both, sql: str, *parameters: object) -> None:
    with line.engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters or None)


def push(line: Both, state: str, *, arrives: bool) -> None:
    customer = line.stripe.customer()
    run(line, "update subscriptions set stripe_customer_id = %s", customer)
    minute = line.now.replace(second=0)
    run(
        line,
        "insert into meter_pushes (business_id, usage_record_id, identifier, event_name, stripe_customer_id, minutes,"
        " timestamp, state, first_sent_at, last_sent_at, settled_at, created_at)"
        " values (%s, %s, 'push-1', 'call_minutes', %s, 6, %s, %s, now(), now(), now(), now())",
        line.b,
        line.record(line.b).id,
        customer,
        minute,
        state,
    )
    if arrives:
        line.stripe.advance(2026, 11, 20, 12, 30)
        line.stripe.report(customer, "6", "push-1", at=minute)


def test_nothing_differs(line, altiora):
    counted(line)
    assert altiora("reconcile") == "0 differences, 0 minutes; 0 repaired.\n"


def test_a_call_that_twilio_shows_is_told_in_minutes_and_money_and_taken_over_when_applied(line, altiora):
    counted(line)
    call = line.place(61)
    line.pass_time(minutes=10)
    for options in ((), ("--dry-run",), ("--business", "B")):
        told = altiora.json("reconcile", *options, status=1)
        assert (told["differences"], told["minutes"], told["amounts"], told["repaired"]) == (1, 2, {}, 0)
    assert "2 minutes, no price is known for them; 0 repaired." in altiora.run("reconcile").stdout
    tiers = '[[7, "0", "0"], [null, "9", "0"]]'
    for currency, amount, shown in (("eur", 9, "0.09 EUR"), ("jpy", 9, "9 JPY"), ("kwd", 9, "0.009 KWD")):
        run(line, "update usage_records set currency = %s, tiers = %s::jsonb", currency, tiers)
        told = altiora.json("reconcile", "--business", "B", status=1)
        assert told["amounts"] == {currency: amount}, "one of the two is above the seven that cost nothing"
        assert f"2 minutes, worth {shown}; 0 repaired." in altiora.run("reconcile", "--business", "B").stdout
    assert (told["findings"][0]["kind"], told["findings"][0]["subject"]) == ("twilio-call", f"call:{call.sid}")
    assert [(cost["plan"], cost["minutes"], cost["currency"]) for cost in told["costs"]] == [("starter", 6, "kwd")]
    assert altiora.json("reconcile", "--business", "F")["differences"] == 0
    assert line.rows("select count(*) from webhook_events") == [(1,)]
    assert altiora.json("reconcile", "--apply", status=1)["repaired"] == 1
    line.drain()
    assert line.figures(line.b) == [(2, 421, 8)]
    assert altiora.json("reconcile")["differences"] == 0


@pytest.mark.parametrize(("setting", "minutes"), [("false", 0), ("true", 2)])
def test_a_child_leg_that_twilio_shows_is_told_by_the_setting_that_bills_it(
    line, altiora, monkeypatch, setting, minutes
):
    parent = line.place(360)
    line.pass_time(minutes=20)
    line.list()
    line.place(61, child_of=parent.sid)
    line.pass_time(minutes=10)
    monkeypatch.setenv("ALTIORA_BILL_CHILD_LEGS", setting)
    told = altiora.json("reconcile", status=1)
    assert (told["differences"], told["minutes"]) == (1, minutes)


def test_a_call_that_twilio_shows_is_rounded_by_its_records_increment(line, altiora):
    counted(line)
    run(line, "update usage_records set increment_seconds = 180, minutes = 3")
    run(line, "update calls set minutes = 3, counted_minutes = 3")
    line.place(61)
    line.pass_time(minutes=10)
    assert altiora.json("reconcile", status=1)["minutes"] == 3


def test_held_minutes_are_carried_when_applied(line, altiora):
    counted(line)
    run(
        line,
        "insert into usage_records (business_id, plan_id, subscription_id, period_start, period_end, state, closed_at,"
        " settled_at, invoiced_minutes, included_minutes, opened_at)"
        " select business_id, plan_id, subscription_id, period_start - interval '30 days', period_start, 'closed',"
        " period_start, period_start, -30, 500, period_start from usage_records where business_id = %s",
        line.b,
    )
    origin, _ = line.records(line.b)
    run(line, "update usage_records set late_limit_minutes = 10")
    with line.engine.begin() as connection:
        lock_businesses(connection, [line.b])
        late_minutes.carry_minutes(connection, Late(origin.id, 30, settlement_record_id=origin.id), line.now)
    told = altiora.json("reconcile", status=1)
    assert [(each["kind"], each["minutes"], each["safe"]) for each in told["findings"]] == [("late-minutes", 30, True)]
    assert line.records(line.b)[1].minutes == 6
    altiora.json("reconcile", "--apply", status=1)
    assert line.records(line.b)[1].minutes == 36
    assert altiora.json("reconcile")["differences"] == 0
    assert line.rows("select note from drifts") == [("carried by altiora reconcile --apply",)]


def test_a_wrong_sum_of_pushes_is_summed_anew_and_a_wrong_sum_of_calls_is_for_a_person(line, altiora):
    counted(line)
    run(line, "update usage_records set pushed_minutes = 4")
    assert altiora.json("reconcile", "--apply", status=1)["findings"][0]["minutes"] == -4
    assert line.record(line.b).pushed_minutes == 0
    run(line, "update usage_records set minutes = 7")
    (finding,) = altiora.json("reconcile", "--apply", status=1)["findings"]
    assert (finding["kind"], finding["minutes"], finding["safe"]) == ("record-sum", -1, False)
    assert line.record(line.b).minutes == 7


@pytest.mark.parametrize(("arrives", "state", "minutes"), [(True, "sent", 0), (False, "void", 6)])
def test_a_push_of_unknown_outcome_is_decided_by_stripes_sum_when_applied(line, altiora, arrives, state, minutes):
    counted(line)
    push(line, "unknown", arrives=arrives)
    told = altiora.json("reconcile", status=1)
    assert [(each["kind"], each["minutes"], each["repair"]) for each in told["findings"]] == [
        ("unknown-push", minutes, f"it is {state}")
    ]
    assert line.rows("select state from meter_pushes") == [("unknown",)]
    altiora("reconcile", "--apply", status=1)
    assert line.rows("select state from meter_pushes") == [(state,)]


def test_what_stripe_lacks_is_for_a_person(line, altiora):
    counted(line)
    push(line, "sent", arrives=False)
    run(line, "update usage_records set pushed_minutes = 6")
    (finding,) = altiora.json("reconcile", "--apply", status=1)["findings"]
    assert (finding["kind"], finding["minutes"], finding["amount"], finding["safe"]) == ("stripe-sum", 6, None, False)


def test_used_wrongly_and_what_cannot_be_asked(line, altiora):
    assert "choose one of" in altiora("reconcile", "--apply", "--dry-run", status=2)
    assert "there is no business X" in altiora("reconcile", "--business", "X", status=1)
    os.environ["ALTIORA_TWILIO_API_BASE"] = "http://127.0.0.1:1"
    assert "nothing was changed, since not all can be compared" in altiora("reconcile", status=1)
