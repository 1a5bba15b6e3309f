"""Closing: when a record becomes closing and closed, by whoever comes first, and what keeps it waiting."""

import threading
from collections import Counter
from datetime import timedelta

import pytest

from pipeline.closing import period_close
from pipeline.events import fetch_requests
from pipeline.meter import push_sending
from pipeline.shared.business_locks import under_locks
from pipeline.usage import late_minutes
from tests.worlds.ledger import NOON, PERIOD_END, Ledger
from tests.worlds.superuser import run_as_superuser

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)
MINUTE_OF_NOON = NOON.replace(second=0)
FINALISES = PERIOD_END + HOUR
LATER = PERIOD_END + timedelta(hours=2)


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def close(ledger: Ledger, now) -> dict[str, int]:
    return dict(period_close.close_due(ledger.engine, now))


def state(ledger: Ledger, record_id: int) -> str:
    return str(ledger.row("usage_records", record_id).state)


def requested(ledger: Ledger) -> list[tuple[str, ...]]:
    rows = ledger.rows("select kind, object_id, reason from refreshes where mark > fetched_mark order by 1, 2")
    return [tuple(row) for row in rows]


# Without a subscription


def test_a_free_record_ends_at_its_end_and_closes_72_hours_later(ledger):
    record_id = ledger.record(ledger.business("free"), 60, plan="free")
    assert close(ledger, PERIOD_END - SECOND) == {}
    assert close(ledger, PERIOD_END) == {"closing": 1}
    assert close(ledger, PERIOD_END + timedelta(hours=72) - SECOND) == {}
    assert state(ledger, record_id) == "closing"
    assert close(ledger, PERIOD_END + timedelta(hours=72)) == {"closed": 1}
    assert ledger.row("usage_records", record_id).closed_at == PERIOD_END + timedelta(hours=72)


def test_a_close_that_comes_days_late_does_both_steps_at_once_and_only_once(ledger):
    ledger.record(ledger.business("free"), 60, plan="free")
    assert close(ledger, PERIOD_END + timedelta(days=9)) == {"closed": 1}
    assert close(ledger, PERIOD_END + timedelta(days=10)) == {}


# With a subscription


def test_a_paid_record_closes_two_minutes_before_its_invoice_finalises(ledger):
    record_id = ledger.paying(5)
    ledger.sent(record_id, 5)
    assert close(ledger, PERIOD_END) == {"closing": 1, "requested": 1}
    ledger.run("update refreshes set fetched_mark = mark")
    ledger.invoice(record_id)
    margin = timedelta(minutes=2)
    assert close(ledger, FINALISES - margin - SECOND) == {}
    assert close(ledger, FINALISES - margin) == {"closed": 1}


@pytest.mark.parametrize("status", ["open", "paid", "uncollectible"])
def test_an_invoice_that_is_final_closes_and_settles_at_once(ledger, status):
    record_id = ledger.paying(5)
    ledger.sent(record_id, 5)
    ledger.invoice(record_id, status=status, automatically_finalizes_at=None)
    assert close(ledger, PERIOD_END) == {"closed": 1, "settled": 1}
    record = ledger.row("usage_records", record_id)
    assert (record.invoiced_minutes, record.settled_at) == (5, PERIOD_END)
    assert ledger.rows("select * from usage_adjustments") == []


def test_a_draft_that_nothing_finalises_stays_open_for_usage(ledger):
    record_id = ledger.paying(5, state="closing")
    ledger.invoice(record_id, automatically_finalizes_at=None)
    assert close(ledger, PERIOD_END + timedelta(days=30)) == {}


def test_nothing_is_closed_from_a_stale_or_provisional_period_which_is_fetched_instead(ledger):
    provisional = ledger.paying(5, provisional=True, stripe_id="sub_provisional")
    stale = ledger.paying(5, stripe_id="sub_stale")
    ledger.run("insert into refreshes (kind, object_id, reason) values ('subscription', 'sub_stale', 'tie')")
    assert close(ledger, PERIOD_END) == {"requested": 1}
    assert requested(ledger) == [
        ("subscription", "sub_provisional", "provisional-period"),
        ("subscription", "sub_stale", "tie"),
    ]
    assert {state(ledger, provisional), state(ledger, stale)} == {"open"}
    ledger.run("update refreshes set fetched_mark = mark")
    ledger.run("update usage_records set provisional = false")
    assert close(ledger, PERIOD_END)["closing"] == 2


def test_an_unknown_invoice_is_asked_for_and_after_72_hours_it_closes_with_a_gap(ledger):
    record_id = ledger.paying(5)
    close(ledger, PERIOD_END)
    assert requested(ledger) == [("subscription", f"sub_{_business(ledger, record_id)}", "no-invoice")]
    assert close(ledger, PERIOD_END + timedelta(hours=73)) == {}, "stale until it was fetched"
    ledger.run("update refreshes set fetched_mark = mark")
    assert close(ledger, PERIOD_END + timedelta(hours=73)) == {"closed": 1}
    assert ledger.row("usage_records", record_id).statement["gaps"] == ["no-invoice", "unpushed-minutes"]
    assert ledger.drifts() == ["no-invoice"]
    ledger.following(record_id)
    ledger.invoice(record_id, status="open", minutes=0)
    assert close(ledger, PERIOD_END + timedelta(hours=74)) == {"settled": 1}
    assert ledger.drifts() == []


def _business(ledger: Ledger, record_id: int) -> int:
    return int(ledger.row("usage_records", record_id).business_id)


def test_a_finalisation_that_nobody_told_of_is_asked_for(ledger):
    record_id = ledger.paying(5, state="closing")
    invoice = ledger.invoice(record_id)
    assert close(ledger, LATER) == {"closed": 1, "requested": 1}
    assert requested(ledger) == [("invoice", invoice, "past-finalisation")]


def test_a_push_that_is_being_sent_is_waited_for_until_the_invoice_finalises(ledger):
    record_id = ledger.paying(5, state="closing")
    push_id = ledger.push(
        record_id, 5, PERIOD_END.replace(second=0) - timedelta(minutes=1), state="sending", due_at="infinity"
    )
    ledger.invoice(record_id)
    assert close(ledger, FINALISES - SECOND) == {}
    ledger.run("update meter_pushes set due_at = now() where id = %s", push_id)
    assert close(ledger, FINALISES - SECOND) == {"closed": 1}, "its worker died: nobody is sending it"


def test_past_the_finalisation_a_push_is_not_waited_for(ledger):
    record_id = ledger.paying(5, state="closing")
    ledger.push(record_id, 5, NOON.replace(second=0), state="sending", due_at="infinity")
    ledger.invoice(record_id)
    assert close(ledger, FINALISES)["closed"] == 1
    assert ledger.row("usage_records", record_id).statement["gaps"] == ["unanswered-push"]


def test_what_was_planned_and_never_sent_is_void_at_the_close(ledger):
    record_id = ledger.paying(9, state="closing")
    never = ledger.push(record_id, 5, NOON.replace(second=0))
    ledger.invoice(record_id)
    close(ledger, FINALISES)
    assert ledger.row("meter_pushes", never).state == "void"
    with ledger.engine.begin() as connection:
        assert push_sending.claim_pushes(connection, FINALISES) == []


# Many, and interrupted


def test_a_thousand_records_and_two_workers_at_once(ledger):
    for _ in range(2):
        ledger.run("""
            with b as (
              insert into businesses (name, time_zone, plan_id, created_at)
              select 'B', 'UTC', 1, '2026-01-01' from generate_series(1, 600) returning id
            )
            insert into usage_records (business_id, plan_id, period_start, period_end, included_minutes, minutes,
                                       opened_at)
            select id, 1, '2026-11-01', '2026-12-01', 50, 60, '2026-11-01' from b
        """)
    total: Counter[str] = Counter()
    workers = [
        threading.Thread(target=lambda: total.update(period_close.close_due(ledger.engine, LATER))) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert total == {"closed": 1200}
    assert ledger.one("select count(*) from usage_records where state = 'closed' and statement is not null") == 1200


def test_one_business_that_can_not_be_settled_keeps_no_other_from_it(ledger, engine, monkeypatch):
    bad, good = ledger.paying(9, state="closing"), ledger.paying(8, state="closing")
    for record_id in (bad, good):
        ledger.following(record_id)
        ledger.invoice(record_id, status="open", minutes=0)
    carry = late_minutes.carry_minutes

    def carry_but_one(connection, late, now):
        if late.origin_record_id == bad:
            raise RuntimeError("its bounds overlap others")
        carry(connection, late, now)

    monkeypatch.setattr(late_minutes, "carry_minutes", carry_but_one)
    assert close(ledger, LATER) == {"closed": 1, "settled": 1, "failed": 1}
    assert (state(ledger, bad), state(ledger, good)) == ("closing", "closed")
    monkeypatch.setattr(late_minutes, "carry_minutes", carry)
    assert close(ledger, LATER) == {"closed": 1, "settled": 1}


def test_a_fetch_that_is_due_already_is_not_asked_for_again(ledger):
    ledger.paying(5, stripe_id="sub_a")
    close(ledger, PERIOD_END)
    mark = ledger.one("select mark from refreshes")
    ledger.run("update refreshes set marked_at = now() - interval '1 hour'")
    assert close(ledger, PERIOD_END) == {}, "it is still to be fetched"
    assert ledger.one("select mark from refreshes") == mark
    ledger.run("update refreshes set marked_at = now()")
    with ledger.engine.begin() as connection:
        fetch_requests.mark_fetched(connection, fetch_requests.FetchRequest("subscription", "sub_a", mark))
    assert close(ledger, PERIOD_END) == {}, "it was fetched a moment ago"
    ledger.run("update refreshes set marked_at = now() - interval '20 seconds'")
    assert close(ledger, PERIOD_END) == {"requested": 1}


# Whose fault


def test_82_a_schema_that_does_not_fit_halts_the_close_which_goes_on_by_itself(ledger):
    record_id = ledger.paying(600, state="closing")
    ledger.invoice(record_id, status="open", minutes=600)
    run_as_superuser(ledger.engine, "alter table usage_records rename column settled_at to settled_before")
    close(ledger, PERIOD_END + timedelta(hours=2))
    assert {tuple(row) for row in ledger.rows("select work, error from halts")} == {
        ("close", "UndefinedColumn"),
        ("close-looks", "UndefinedColumn"),
    }
    run_as_superuser(ledger.engine, "alter table usage_records rename column settled_before to settled_at")
    close(ledger, PERIOD_END + timedelta(hours=2))
    assert ledger.row("usage_records", record_id).state == "closing", "a minute is not over"
    ledger.run("update halts set next_try_at = now()")
    close(ledger, PERIOD_END + timedelta(hours=2))
    assert ledger.row("usage_records", record_id).state == "closed"
    assert ledger.rows("select from halts") == []


@pytest.mark.parametrize("healthy", [False, True])
def test_82_businesses_that_fail_alike_halt_the_work_unless_one_passes(ledger, healthy):
    ids = [ledger.row("usage_records", ledger.paying(1)).business_id for _ in range(5)]
    worked = []

    def work(_, business_ids):
        if not (healthy and business_ids in ([ids[0]], [ids[2]], [ids[4]])):
            raise MemoryError
        worked.extend(business_ids)
        return Counter(done=1)

    counts = under_locks(ledger.engine, "close", "select id from businesses order by id", {}, work, seconds=30)
    halted = [row.work for row in ledger.rows("select work from halts")]
    assert (halted, counts["failed"] >= 2) == ([] if healthy else ["close"], True)
    assert worked == ([ids[0], ids[2], ids[4]] if healthy else [])
