"""The nightly sum: a record whose figures are not those of its calls, adjustments and pushes is a drift."""

import pytest

from pipeline.checking import record_sums
from tests.worlds.ledger import NOON, Ledger


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def test_the_sum_of_every_record_is_checked_and_a_difference_is_a_drift(ledger, monkeypatch):
    monkeypatch.setattr(record_sums, "CHUNK", 2)
    right = ledger.paying(3, calls=2, seconds=180)
    for _ in range(2):
        ledger.call(right, minutes=1, counted_seconds=90)
    ledger.insert(
        "usage_adjustments",
        business_id=ledger.row("usage_records", right).business_id,
        kind="carried",
        usage_record_id=right,
        origin_record_id=right,
        minutes=1,
        created_at=NOON,
    )
    ledger.run("update usage_records set adjustment_minutes = 1, settled_at = %s, invoiced_minutes = 2", NOON)
    ledger.sent(right, 3)
    wrong = [ledger.paying(7), ledger.paying(8), ledger.paying(0, pushed_minutes=1)]
    ledger.paying(0)
    assert record_sums.check_sums(ledger.engine, NOON) == {"checked": 5, "differ": 3, "unchecked": 0}
    subjects = {row.subject for row in ledger.rows("select subject from drifts")}
    assert subjects == {f"record:{record_id}" for record_id in wrong}
    ledger.run("update usage_records set minutes = 0 where id = %s", wrong[0])
    assert record_sums.check_sums(ledger.engine, NOON)["differ"] == 2
    assert ledger.drifts() == ["record-sum", "record-sum"]


@pytest.mark.parametrize(
    ("break_it", "name"),
    [
        ("update calls set ended_at = '2026-12-05 10:23:45Z'", "misplaced"),
        ("update calls set minutes = 4", "unaccounted"),
        ("update usage_adjustments set call_sid = 'CAother' where call_sid is not null", "unaccounted"),
        ("update usage_records set invoiced_minutes = 0 where state = 'closed'", "settlement"),
        ("update usage_adjustments set minutes = 3 where call_sid is null", "settlement"),
    ],
)
def test_no_minute_is_lost_between_calls_records_and_invoices(ledger, break_it, name):
    closed = ledger.paying(3, calls=1, seconds=180, state="closed", closed_at=NOON)
    business_id = ledger.row("usage_records", closed).business_id
    ledger.call(closed, minutes=3)
    ledger.call(closed, minutes=2, counted=False, counted_minutes=0, counted_seconds=0)  # came too late
    ledger.run("update usage_records set settled_at = %s, invoiced_minutes = 1", NOON)
    following = ledger.following(closed)
    for minutes, sid in ((2, f"CA{1:032}"), (2, None)):  # the late call, and what the invoice lacked
        ledger.insert(
            "usage_adjustments",
            business_id=business_id,
            kind="carried",
            usage_record_id=following,
            origin_record_id=closed,
            call_sid=sid,
            minutes=minutes,
            created_at=NOON,
        )
    ledger.run("update usage_records set minutes = 4, adjustment_minutes = 4 where id = %s", following)
    assert record_sums.check_sums(ledger.engine, NOON)["differ"] == 0
    ledger.run(break_it)
    record_sums.check_sums(ledger.engine, NOON)
    found = {
        key
        for (evidence,) in ledger.rows("select evidence from drifts")
        for key in evidence["stored"]
        if evidence["stored"][key] != evidence["summed"][key]
    }
    assert name in found
