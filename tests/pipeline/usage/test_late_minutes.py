"""Minutes that come too late for their period: the plan's policy, its limit, and what a person decides."""

import pytest

from pipeline.shared.business_locks import lock_businesses
from pipeline.usage import late_minutes
from pipeline.usage.late_minutes import Late
from tests.worlds.ledger import PERIOD_END, PERIOD_START, Ledger

AFTER = PERIOD_END.replace(minute=50)


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


@pytest.fixture
def closed(ledger):
    """A closed paid record; the next one is open."""
    record_id = ledger.paying(5, state="closed", closed_at=PERIOD_END)
    ledger.following(record_id)
    ledger.run("update usage_records set late_limit_minutes = 10")
    return record_id


def carry(ledger: Ledger, record_id: int, *minutes: int) -> None:
    for number, each in enumerate(minutes):
        with ledger.engine.begin() as connection:
            lock_businesses(connection, [ledger.row("usage_records", record_id).business_id])
            late_minutes.carry_minutes(connection, Late(record_id, each, f"CA{number}"), AFTER)


def decide(ledger: Ledger, verdict) -> list[int]:
    with ledger.engine.begin() as connection:
        return [
            late_minutes.decide_held(connection, held, verdict, AFTER) for held in late_minutes.held_minutes(connection)
        ]


def kinds(ledger: Ledger) -> list[tuple[str, int]]:
    return [tuple(row) for row in ledger.rows("select kind, minutes from usage_adjustments order by id")]


def open_minutes(ledger: Ledger) -> int:
    return int(ledger.one("select minutes from usage_records where state = 'open'"))


def test_up_to_the_limit_late_minutes_are_carried(ledger, closed):
    carry(ledger, closed, 4, 6)
    assert kinds(ledger) == [("carried", 4), ("carried", 6)]
    assert open_minutes(ledger) == 10
    assert ledger.drifts() == []


def test_beyond_the_limit_they_are_held_and_so_is_what_follows(ledger, closed):
    carry(ledger, closed, 8, 3, 1, -2)
    assert kinds(ledger) == [("carried", 8), ("held", 3), ("held", 1), ("held", -2)]
    assert open_minutes(ledger) == 8
    ((kind, actual, repair),) = ledger.rows("select kind, actual, repair from drifts where resolved_at is null")
    assert (kind, actual) == (
        "late-minutes",
        "held above that, and billed to nobody: 2 minutes (of unknown price)",
    )
    assert "altiora drifts resolve ID --carry" in repair


@pytest.mark.parametrize(("verdict", "kind", "minutes"), [("carry", "carried", 14), ("write-off", "written-off", 0)])
def test_a_person_decides_once(ledger, closed, verdict, kind, minutes):
    carry(ledger, closed, 12, 2)
    assert decide(ledger, verdict) == [14]
    assert decide(ledger, verdict) == []
    assert kinds(ledger) == [(kind, 12), (kind, 2)]
    assert open_minutes(ledger) == minutes
    assert ledger.one("select sum(adjustment_minutes) from usage_records") == minutes
    assert ledger.drifts() == []


def test_a_plan_may_write_off_and_corrections_are_carried_all_the_same(ledger, closed):
    ledger.run("update usage_records set late_policy = 'write-off'")
    carry(ledger, closed, 4, -3)
    assert kinds(ledger) == [("written-off", 4), ("carried", -3)]
    assert open_minutes(ledger) == -3, "what is below zero is a credit: pushed are never less than 0"
    assert ledger.plan(AFTER) == 0


def test_29_a_correction_downwards_is_pushed_as_a_negative_delta_and_never_below_zero(ledger, closed):
    following = ledger.one("select id from usage_records where state = 'open'")
    ledger.run("update usage_records set minutes = 5 where id = %s", following)
    ledger.sent(following, 5, AFTER.replace(second=0))
    carry(ledger, closed, -8)
    assert open_minutes(ledger) == -3
    ledger.plan(AFTER)
    assert ledger.pushes()[-1].minutes == -5


def test_nothing_to_carry_into_is_said_and_leaves_them_held(ledger, closed):
    carry(ledger, closed, 12)
    ledger.run("delete from usage_records where state = 'open'")
    ledger.run("update subscriptions set metered_item_id = null, ended_at = %s", PERIOD_START)
    with pytest.raises(ValueError, match="has no metered subscription to carry 12 minutes into"):
        decide(ledger, "carry")
    assert kinds(ledger) == [("held", 12)]
    assert decide(ledger, "write-off") == [12]


def test_a_closed_free_period_has_no_limit(ledger):
    record_id = ledger.record(ledger.business("free"), 1, plan="free", state="closed", closed_at=PERIOD_END)
    ledger.run("update usage_records set late_limit_minutes = 0")
    carry(ledger, record_id, 9)
    assert kinds(ledger) == [("written-off", 9)]
