"""Billing periods over more than a year: anchors at the end of months, time zones, daylight saving time both ways."""

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from pipeline.shared.business_locks import lock_businesses
from pipeline.usage import records
from pipeline.usage.record_alignment import align_records
from tests.worlds.ledger import PERIOD_END, Ledger
from tests.worlds.lives import Books, Call, Life

MONTHS = 14


@pytest.mark.parametrize("day", [29, 30, 31])
def test_an_anchor_at_the_end_of_the_month(engine, host, tmp_path, day):
    start = datetime(2026, 10, day, 23, 59, 58, tzinfo=UTC)
    with host.fresh(tmp_path, start=start) as stripe:
        books = Books(engine, stripe, tmp_path / "our-clock")
        books.at(start)
        life = Life(stripe, books.business_id, random.Random(day))
        life.step("subscribe")
        bounds = []
        told = 0
        for _ in range(MONTHS):
            item = life.subscription["items"]["data"][0]
            begun, ends = (datetime.fromtimestamp(item[f"current_period_{which}"], UTC) for which in ("start", "end"))
            bounds.append((begun, ends))
            for ended in (begun, begun + (ends - begun) / 2, ends - timedelta(seconds=1)):
                name = f"CA{len(life.calls):032x}"
                life.calls.append(Call(name, ended.replace(microsecond=0), 61))
            stripe.run(stripe.timeline.advance(ends))
            books.at(life.now)
            books.tell(*life.calls[-3:], *stripe.events[told:])
            told = len(stripe.events)
            books.refresh()
        books.assert_every_call_is_in_one_record(life.calls)
        found = books.rows("select period_start, period_end, calls from usage_records where calls > 0 order by 1")
        assert found == [(begun, ends, 3) for begun, ends in bounds]
        assert all(first[1] == second[0] for first, second in pairwise(bounds))
        assert {ends.day for _, ends in bounds} >= {28, day}


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"]
)
def test_calendar_months_are_local_and_leave_no_gap(engine, host, tmp_path, zone):
    with host.fresh(tmp_path) as stripe:
        books = Books(engine, stripe, tmp_path / "our-clock")
    with engine.begin() as connection:
        connection.exec_driver_sql("update businesses set time_zone = %s", (zone,))
    local = ZoneInfo(zone)
    firsts = [
        datetime(2026 + (9 + n) // 12, (9 + n) % 12 + 1, 1, tzinfo=local).astimezone(UTC) for n in range(MONTHS + 1)
    ]
    calls = [
        Call(f"CA{len(firsts) * index + place:032x}", ended, 60)
        for index, first in enumerate(firsts[:-1])
        for place, ended in enumerate((first, first + timedelta(days=14), firsts[index + 1] - timedelta(seconds=1)))
    ]
    random.Random(zone).shuffle(calls)
    books.at(firsts[-1])
    books.tell(*calls)
    books.assert_every_call_is_in_one_record(calls)
    found = books.rows("select period_start, period_end, calls from usage_records order by 1")
    assert found == [(first, following, 3) for first, following in pairwise(firsts)]
    with engine.begin() as connection:
        again, made = records.records_for(connection, {books.business_id: firsts[:-1]}, firsts[-1])
    assert not made
    assert len(again[books.business_id]) == MONTHS


def test_a_free_record_that_a_subscription_takes_over_is_provisional_beyond_what_stripe_has_confirmed(engine):
    """An old snapshot: its period is over, so what came after it is arithmetic, which nothing is pushed by."""
    ledger = Ledger(engine)
    business_id = ledger.business("free")
    inside = PERIOD_END + timedelta(days=3)
    record_id = ledger.record(business_id, 7, plan="free", period_start=inside, period_end=inside + timedelta(days=20))
    ledger.subscription(business_id)
    with engine.begin() as connection:
        lock_businesses(connection, [business_id])
        align_records(connection, business_id, inside + timedelta(days=4))
    record = ledger.row("usage_records", record_id)
    assert (record.subscription_id is not None, record.provisional) == (True, True)
    assert [row.reason for row in ledger.rows("select reason from refreshes")] == ["provisional-period"]
    assert ledger.plan(inside + timedelta(days=4)) == 0
