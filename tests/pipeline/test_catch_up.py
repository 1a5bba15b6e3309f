"""A database that was restored: it decides nothing until it has caught up, and then knows what Stripe has."""

import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from pipeline import catch_up
from pipeline.businesses import service_status
from pipeline.catch_up import CatchUp, CatchUpError, CaughtUp
from pipeline.closing import period_close
from pipeline.drain import DrainSettings
from pipeline.meter import forgotten_pushes, push_planning, sum_comparison, unknown_pushes
from pipeline.providers.twilio_api import TwilioApi
from pipeline.reading.backlog import backlog
from pipeline.shared import restores
from pipeline.shared.clock import Clock
from pipeline.shared.settings import TwilioSettings
from tests.worlds.ledger import EVENT_NAME, MINUTE_OF_NOON, NOON, PERIOD_END, Ledger
from tests.worlds.stripe_customers import Customers
from tests.worlds.world import ACCOUNT

TOKEN = SecretStr("0123456789abcdef0123456789abcdef")
ELSEWHERE = "update database_identity set identity = 'another:1'"


class NoCalls(TwilioApi):
    """An account without calls."""

    def __init__(self) -> None:
        super().__init__(TwilioSettings(twilio_account_sid=ACCOUNT, twilio_auth_token=(TOKEN,)))

    def list_calls(self, start: datetime, until: datetime) -> Iterator[dict[str, Any]]:
        return iter(())


@pytest.fixture
def world(engine, host, tmp_path):
    with host.fresh(tmp_path) as it:
        yield Customers(Ledger(engine), it)


def run(world: Customers, tmp_path, settling: timedelta = timedelta(0)) -> CaughtUp:
    world.ledger.listed(NOON - timedelta(days=2))
    settings = DrainSettings(ACCOUNT, livemode=False)
    said: list[str] = []
    clock = Clock(tmp_path / "clock")
    return CatchUp(world.ledger.engine, world.api, NoCalls(), clock, settings, settling, said.append).run()


def paying(world: Customers, minutes: int) -> int:
    """A record with a call of so many minutes, whose customer the business is linked to."""
    record_id = world.paying(minutes)
    if minutes:
        world.ledger.call(record_id, minutes)
    world.ledger.run(
        "update businesses b set stripe_customer_id = s.stripe_customer_id"
        " from subscriptions s where s.business_id = b.id"
    )
    return record_id


def test_a_database_with_another_identity_decides_nothing_and_alarms(world):
    ledger = world.ledger
    ledger.push(paying(world, 7), 7, MINUTE_OF_NOON, due_at=NOON - timedelta(days=400))
    planned = paying(world, 5)
    ledger.run(ELSEWHERE)
    assert world.send() == {}
    assert push_planning.plan_due_pushes(ledger.engine, EVENT_NAME, NOON) == {}
    after = PERIOD_END + timedelta(days=4)
    assert period_close.close_due(ledger.engine, after) == {}
    assert service_status.settle_due_services(ledger.engine, after) == {}
    assert world.api.asked == []
    assert ledger.one("select count(*) from meter_pushes where usage_record_id = %s", planned) == 0
    with ledger.engine.connect() as connection:
        (halted,) = [each for each in backlog(connection, NOON) if each.kind == "halted"]
    assert halted.count == 1
    assert ledger.rows("select work, error from halts") == [("restored", "run `altiora restore catch-up`")]


def test_what_stripe_has_is_noted_once_and_only_the_rest_is_pushed(world, tmp_path):
    ledger = world.ledger
    record_id = paying(world, 12)
    world.it.report(world.customer(record_id), "9", "sent-after-the-backup", at=NOON)
    ledger.push(record_id, 4, MINUTE_OF_NOON, due_at=NOON - timedelta(days=400))
    ledger.run(ELSEWHERE)
    done = run(world, tmp_path)
    assert (done.voided, done.records, done.minutes) == (1, 1, 9)
    assert ledger.rows("select minutes, state from meter_pushes order by id") == [(4, "void"), (9, "sent")]
    assert ledger.row("usage_records", record_id).pushed_minutes == 9
    assert ledger.rows("select from halts") == []
    again = run(world, tmp_path)
    assert (again.voided, again.minutes) == (0, 0), "it may be run again"
    ledger.plan()
    world.send_until_quiet()
    assert world.summed(record_id) == 12


def test_where_stripe_has_less_nothing_is_taken_over(world, tmp_path):
    record_id = paying(world, 12)
    world.ledger.sent(record_id, 12)
    assert run(world, tmp_path).minutes == 0
    assert world.ledger.row("usage_records", record_id).pushed_minutes == 12


def test_a_run_that_dies_after_any_record_is_started_again_and_takes_nothing_twice(world, tmp_path, monkeypatch):
    ledger = world.ledger
    records = [paying(world, 12) for _ in range(3)]
    for record_id in records:
        world.it.report(world.customer(record_id), "9", f"lost-{record_id}", at=NOON)
    ledger.run(ELSEWHERE)
    asked = unknown_pushes.summed_by_stripe
    for dies_at in range(3):
        answers = iter(range(10))

        def dies(*about: Any, dies_at: int = dies_at, answers: Iterator[int] = answers) -> Any:
            if next(answers) == dies_at:
                raise KeyboardInterrupt
            return asked(*about)

        monkeypatch.setattr(forgotten_pushes, "summed_by_stripe", dies)
        with pytest.raises(KeyboardInterrupt):
            run(world, tmp_path)
        assert world.send() == {}, "still held"
    monkeypatch.setattr(forgotten_pushes, "summed_by_stripe", asked)
    run(world, tmp_path)
    assert ledger.rows("select minutes from meter_pushes where state = 'sent'") == [(9,)] * 3


def test_changes_of_before_are_for_a_person_and_metadata_is_told_anew(world, tmp_path):
    ledger = world.ledger
    record = ledger.row("usage_records", paying(world, 0))
    for kind in ("upgrade", "metadata"):
        about = {"business_id": record.business_id, "subscription_id": record.subscription_id, "kind": kind}
        ledger.insert("subscription_changes", **about, params="{}", identifier=kind, reason="a test", created_at=NOON)
    assert run(world, tmp_path).changes == 1
    assert ledger.rows("select kind, state from subscription_changes order by id") == [
        ("upgrade", "failed"),
        ("metadata", "planned"),
    ]
    assert [kind for kind, *_ in ledger.rows("select kind from drifts where resolved_at is null")] == ["change-refused"]


def test_stripes_sums_are_asked_when_they_have_settled(world, tmp_path, monkeypatch):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    run(world, tmp_path, settling=timedelta(hours=1))
    assert 3590 < sum(slept) <= 3600
    with world.ledger.engine.begin() as connection:
        restores.hold(connection)
        connection.exec_driver_sql("update halts set since = now() - interval '59 minutes'")
    slept.clear()
    run(world, tmp_path, settling=timedelta(hours=1))
    assert 50 < sum(slept) <= 60, "since it was held, not since this run"


def test_the_number_of_a_forgotten_business_is_given_to_nobody(world, tmp_path):
    world.it.control("/stripe/customers", name="Added after the backup", metadata={"business_id": "41"})
    assert run(world, tmp_path).forgotten == (41,)
    assert world.ledger.business() > 41


def test_what_cannot_be_fetched_is_said_and_keeps_everything_held(world, tmp_path, monkeypatch):
    paying(world, 3)
    monkeypatch.setattr(catch_up, "PATIENCE_SECONDS", 0)
    world.it.faults.script("GET /v1/customers/*", ["500"] * 20)
    with pytest.raises(CatchUpError, match="not all can be fetched: customer"):
        run(world, tmp_path)
    with world.ledger.engine.begin() as connection:
        assert restores.is_behind(connection)


def test_stripes_sums_are_no_evidence_while_a_database_is_behind(world):
    """They tell of what was sent after the backup, too: an unknown push would be taken for sent."""
    ledger, now = world.ledger, timedelta(0)
    record_id = paying(world, 12)
    customer = world.customer(record_id)
    doubtful = ledger.push(record_id, 9, MINUTE_OF_NOON, stripe_customer_id=customer, state="unknown")
    compared = paying(world, 5)
    ledger.plan()
    world.send_until_quiet()
    for each, minutes in ((record_id, 9), (compared, 4)):
        world.it.report(world.customer(each), str(minutes), f"sent-after-the-backup-{each}", at=NOON)
    mine = "select identity from database_identity"
    before = ledger.one(mine)
    ledger.run(ELSEWHERE)
    assert unknown_pushes.verify_due(ledger.engine, world.api, NOON, now) == {}
    assert sum_comparison.compare_due_records(ledger.engine, world.api, NOON, now) == {}
    assert ledger.row("meter_pushes", doubtful).state == "unknown"
    assert ledger.drifts() == []
    ledger.run("update database_identity set identity = %s", before)
    ledger.run("delete from halts")
    assert unknown_pushes.verify_due(ledger.engine, world.api, NOON, now) == {"sent": 1}, "the test is about something"
    assert sum_comparison.compare_due_records(ledger.engine, world.api, NOON, now)["differ"] == 1
