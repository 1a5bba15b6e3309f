"""The nightly sum: a record whose figures are not those of its calls, adjustments and pushes is a drift."""

import pytest

from pipeline import resum
from tests.ledger import NOON, Ledger


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


def test_the_sum_of_every_record_is_checked_and_a_difference_is_a_drift(ledger, monkeypatch):
    monkeypatch.setattr(resum, "CHUNK", 2)
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
    ledger.run("update usage_records set adjustment_minutes = 1")
    ledger.sent(right, 3)
    wrong = [ledger.paying(7), ledger.paying(8), ledger.paying(0, pushed_minutes=1)]
    ledger.paying(0)
    assert resum.resum(ledger.engine, NOON) == {"checked": 5, "differ": 3, "unchecked": 0}
    subjects = {row.subject for row in ledger.rows("select subject from drifts")}
    assert subjects == {f"record:{record_id}" for record_id in wrong}
    ledger.run("update usage_records set minutes = 0 where id = %s", wrong[0])
    assert resum.resum(ledger.engine, NOON)["differ"] == 2
    assert ledger.drifts() == ["record-sum", "record-sum"]
