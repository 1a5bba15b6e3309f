"""What a closed record says, and what its finalised invoice settles."""

import hashlib
from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from pipeline.closing import period_close
from pipeline.meter import push_sending
from tests.worlds.ledger import NOON, PERIOD_END, PERIOD_START, Ledger

SECOND = timedelta(seconds=1)
MINUTE_OF_NOON = NOON.replace(second=0)
FINALISES = PERIOD_END + timedelta(hours=1)
LATER = PERIOD_END + timedelta(hours=2)


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def close(ledger: Ledger, now: datetime) -> dict[str, int]:
    return dict(period_close.close_due(ledger.engine, now))


# Statements


def test_the_statement_is_frozen_at_the_close(ledger):
    record_id = ledger.paying(504, state="closing", calls=3, seconds=30_000, adjustment_minutes=4)
    business_id = int(ledger.row("usage_records", record_id).business_id)
    ledger.sent(record_id, 500)
    ledger.call(record_id, price=Decimal("-0.0085"), price_unit="USD")
    ledger.call(record_id, price=Decimal("-0.0170"), price_unit="USD")
    ledger.call(record_id, price=Decimal("-0.02"), price_unit="EUR")
    ledger.call(record_id, seconds=None, counted=False, counted_minutes=0, counted_seconds=0, minutes=0)
    ledger.push(record_id, 4, NOON.replace(second=0), state="failed")
    ledger.invoice(record_id)
    close(ledger, FINALISES)
    statement = ledger.row("usage_records", record_id).statement
    assert statement == {
        "business": {"id": business_id, "name": "B", "time_zone": "UTC"},
        "plan": "starter",
        "plan_name": "Starter",
        "increment_seconds": 60,
        "period": {"start": "2026-11-05T10:23:45+00:00", "end": "2026-12-05T10:23:45+00:00"},
        "for_stripe": True,
        "calls": 3,
        "calls_sha256": _hash(ledger, record_id),
        "seconds": 30_000,
        "minutes": 504,
        "included": 500,
        "overage": 4,
        "unbilled": 0,
        "adjustments": 4,
        "written_off": 0,
        "each_adjustment": [],
        "pushed": 500,
        "pushes": {
            "count": 2,
            "minutes": 500,
            "by_state": {"sent": {"count": 1, "minutes": 500}, "failed": {"count": 1, "minutes": 4}},
        },
        "cost": {"USD": "-0.025500", "EUR": "-0.020000"},
        "gaps": ["call-of-unknown-duration", "refused-push"],
        "sources": "complete",
        "dead_of_nobody": 0,
        "closed_at": "2026-12-05T11:23:45+00:00",
    }


def _hash(ledger: Ledger, record_id: int) -> str:
    """What the statement promises, in other words than its SQL."""
    calls = ledger.rows("select * from calls where usage_record_id = %s and counted", record_id)
    lines = [
        f"{call.sid} {call.counted_seconds} {call.counted_minutes} {call.ended_at:%Y-%m-%dT%H:%M:%S.%fZ}"
        for call in sorted(calls, key=lambda call: str(call.sid).encode())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_hash_is_over_the_counted_calls_in_the_order_of_their_bytes(ledger):
    record_id = ledger.paying(4, state="closing", calls=3)
    for sid, ended_at in (("CAb", NOON), ("CAB", NOON + timedelta(microseconds=5)), ("CA0", PERIOD_END - SECOND)):
        ledger.call(record_id, sid=sid, ended_at=ended_at)
    ledger.invoice(record_id)
    close(ledger, FINALISES)
    assert ledger.row("usage_records", record_id).statement["calls_sha256"] == _hash(ledger, record_id)


def test_the_statement_names_the_call_and_the_period_of_each_adjustment(ledger):
    origin = ledger.paying(5, state="closed", closed_at=PERIOD_END)
    record = ledger.row("usage_records", ledger.following(origin))
    ledger.run(
        "update usage_records set state = 'closing', minutes = 4, adjustment_minutes = 4 where id = %s", record.id
    )
    late = ledger.call(origin, counted=False, counted_minutes=0, counted_seconds=0)
    corrected = ledger.call(origin)
    for sid, minutes in ((late, 6), (corrected, -3), (None, 1)):
        ledger.insert(
            "usage_adjustments",
            business_id=record.business_id,
            kind="carried",
            usage_record_id=record.id,
            origin_record_id=origin,
            call_sid=sid,
            minutes=minutes,
            created_at=LATER,
        )
    ledger.invoice(record.id)
    close(ledger, record.period_end + timedelta(hours=1))
    statement = ledger.row("usage_records", record.id).statement
    assert [(each["call"], each["minutes"], each["reason"]) for each in statement["each_adjustment"]] == [
        (late, 6, "late-call"),
        (corrected, -3, "correction"),
        (None, 1, "invoice-difference"),
    ]
    period = {"start": "2026-11-05T10:23:45+00:00", "end": "2026-12-05T10:23:45+00:00"}
    assert [each["period"] for each in statement["each_adjustment"]] == [period] * 3


def test_the_statement_of_a_free_period_tells_what_is_unbilled_and_what_was_written_off_in_it(ledger):
    business_id = ledger.business("free")
    before = ledger.record(
        business_id,
        1,
        plan="free",
        period_start=PERIOD_START - timedelta(days=31),
        period_end=PERIOD_START,
        state="closed",
        closed_at=PERIOD_START,
    )
    record_id = ledger.record(business_id, 52, plan="free")
    for minutes, created_at in ((3, NOON), (4, PERIOD_START - SECOND)):
        ledger.insert(
            "usage_adjustments",
            business_id=business_id,
            kind="written-off",
            origin_record_id=before,
            minutes=minutes,
            created_at=created_at,
        )
    close(ledger, PERIOD_END + timedelta(days=3))
    statement = ledger.row("usage_records", record_id).statement
    assert (statement["overage"], statement["unbilled"], statement["written_off"]) == (0, 2, 3)
    assert (statement["for_stripe"], statement["cost"], statement["gaps"]) == (False, {}, [])
    assert [(each["kind"], each["minutes"]) for each in statement["each_adjustment"]] == [("written-off", 3)]
    assert statement["calls_sha256"] == hashlib.sha256().hexdigest()


# Settlement


@pytest.mark.parametrize(("minutes", "invoiced"), [(9, 5), (5, 9), (-3, 0), (0, 0)])
def test_the_difference_to_the_final_invoice_is_carried_into_the_open_record(ledger, minutes, invoiced):
    record_id = ledger.paying(minutes, state="closing")
    following = ledger.following(record_id)
    if invoiced:
        ledger.sent(record_id, invoiced)
    ledger.invoice(record_id)
    close(ledger, FINALISES)
    assert close(ledger, LATER) == {}, "a draft settles nothing"
    ledger.invoice(record_id, status="open", minutes=invoiced)
    assert close(ledger, LATER)["settled"] == 1
    record = ledger.row("usage_records", record_id)
    assert (record.invoiced_minutes, record.settled_at) == (invoiced, LATER)
    assert ledger.row("usage_records", following).minutes == minutes - invoiced
    carried = ledger.rows(
        "select minutes, usage_record_id, origin_record_id, settlement_record_id, call_sid from usage_adjustments"
    )
    assert [tuple(row) for row in carried] == (
        [(minutes - invoiced, following, record_id, record_id, None)] if minutes != invoiced else []
    )
    assert close(ledger, LATER) == {}, "once"


def test_a_void_invoice_is_for_a_person_until_another_one_bills_the_period(ledger):
    record_id = ledger.paying(9, state="closing")
    ledger.following(record_id)
    ledger.invoice(record_id, status="void", minutes=9)
    assert close(ledger, LATER) == {"closed": 1}
    assert ledger.drifts() == ["unusable-invoice"]
    assert ledger.rows("select * from usage_adjustments") == []
    ledger.invoice(record_id, id="in_other", status="open", minutes=9, created_at=LATER)
    assert close(ledger, LATER) == {"settled": 1}
    assert ledger.drifts() == []


@pytest.mark.parametrize(("invoiced", "state_after"), [(9, "sent"), (4, "void"), (7, "unknown")])
def test_the_final_invoice_tells_what_became_of_a_push_without_an_answer(ledger, invoiced, state_after):
    record_id = ledger.paying(9, state="closing")
    following = ledger.following(record_id)
    ledger.sent(record_id, 4)
    push_id = ledger.push(record_id, 5, NOON.replace(second=0), attempts=1, first_sent_at="now")
    ledger.invoice(record_id, status="open", minutes=invoiced)
    close(ledger, LATER)
    with ledger.engine.begin() as connection:
        (push,) = push_sending.claim_pushes(connection, LATER)
    assert push.state == "unknown"
    assert ledger.drifts() == (["under-billed", "unknown-push"] if state_after == "unknown" else ["unknown-push"])
    close(ledger, LATER)
    assert ledger.row("meter_pushes", push_id).state == state_after
    assert ledger.drifts() == (["under-billed", "unknown-push"] if state_after == "unknown" else [])
    assert ledger.row("usage_records", record_id).pushed_minutes == (9 if state_after == "sent" else 4)
    assert ledger.row("usage_records", following).minutes == (0 if state_after == "unknown" else 9 - invoiced)
