"""Planning: which minutes become a push, when, with which timestamp; and that none is planned twice."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.meter import push_planning
from pipeline.shared import drifts
from pipeline.shared.business_locks import lock_businesses
from pipeline.shared.drifts import DriftKind
from pipeline.usage import record_figures, records
from tests.worlds.breaking import breaks
from tests.worlds.ledger import EVENT_NAME, NOON, PERIOD_END, PERIOD_START, Ledger

MINUTE = timedelta(minutes=1)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def ledger(engine):
    return Ledger(engine)


# Timestamps


@given(
    since=st.timedeltas(timedelta(0), timedelta(days=366)),
    length=st.timedeltas(timedelta(seconds=1), timedelta(days=40)),
    offset=st.timedeltas(timedelta(0), timedelta(days=80)),
)
def test_a_timestamp_is_a_whole_minute_inside_the_period_that_stripe_takes(since, length, offset):
    start = NEW_YEAR + since
    end, now = start + length, start + offset
    timestamp = push_planning.push_timestamp(start, end, now)
    if timestamp is None:
        holds_a_minute = any(
            start <= minute and minute + MINUTE <= end
            for minute in (start.replace(second=0, microsecond=0), start.replace(second=0, microsecond=0) + MINUTE)
        )
        assert not holds_a_minute or now - end > timedelta(days=34, hours=22)
        return
    assert (timestamp.second, timestamp.microsecond) == (0, 0)
    assert start <= timestamp, "the minute begins in the period"
    assert timestamp + MINUTE <= end, "and ends in it: Stripe sums whole minutes"
    assert now - timedelta(days=35) <= timestamp <= now + timedelta(minutes=5)
    if start <= now - MINUTE and now + MINUTE <= end:
        assert timedelta(0) <= now - timestamp < MINUTE


@breaks(
    "pipeline/meter/push_planning.py",
    "last = min(last, minute_floor(now) - timedelta(minutes=1))",
    "last = min(last, minute_floor(now))",
)
@given(since=st.timedeltas(timedelta(0), timedelta(days=40)), offset=st.timedeltas(timedelta(0), timedelta(minutes=10)))
def test_76_while_a_change_waits_only_minutes_that_are_over_are_stamped(since, offset):
    start, now = NEW_YEAR + since, NEW_YEAR + since + offset
    timestamp = push_planning.push_timestamp(start, start + timedelta(days=30), now, ends_soon=True)
    if timestamp is None:
        assert offset < 3 * MINUTE, "it waits for a whole minute, and not for ever"
    else:
        assert start <= timestamp
        assert timestamp + MINUTE <= now, "whenever the change comes, the minute lies before it as a whole"


def test_timestamps_at_the_bounds():
    def at(now: datetime) -> datetime | None:
        return push_planning.push_timestamp(PERIOD_START, PERIOD_END, now)

    assert at(PERIOD_START) == datetime(2026, 11, 5, 10, 24, tzinfo=UTC)
    assert at(NOON) == datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
    assert at(PERIOD_END - timedelta(seconds=1)) == datetime(2026, 12, 5, 10, 22, tzinfo=UTC)
    assert at(PERIOD_END + timedelta(hours=1)) == datetime(2026, 12, 5, 10, 22, tzinfo=UTC)
    assert at(PERIOD_END + timedelta(days=35)) is None
    assert push_planning.push_timestamp(PERIOD_START, PERIOD_START + timedelta(seconds=70), PERIOD_START) is None


# What is planned


def test_76_a_record_that_is_made_late_counts_what_was_pushed_in_its_time(ledger):
    first = ledger.paying(9, period_end=NOON)
    ledger.sent(first, 9, NOON.replace(second=0) + MINUTE)
    business_id = ledger.row("usage_records", first).business_id
    with ledger.engine.begin() as connection:
        lock_businesses(connection, [business_id])
        records.record_for(connection, business_id, NOON + timedelta(hours=1), NOON + timedelta(hours=1))
    made = ledger.rows("select pushed_minutes from usage_records order by period_start")[1]
    assert made.pushed_minutes == 9


def test_all_minutes_are_planned_the_included_ones_too_and_frozen(ledger):
    record_id = ledger.paying(49, customer="cus_a")
    assert ledger.plan() == 1
    push = ledger.the_push()
    assert (push.usage_record_id, push.minutes, push.stripe_customer_id, push.state) == (
        record_id,
        49,
        "cus_a",
        "planned",
    )
    assert push.timestamp == NOON.replace(second=0)
    with pytest.raises(Exception, match="is frozen"):
        ledger.run("update meter_pushes set minutes = 50")


def test_one_unsettled_push_for_a_business_then_the_difference(ledger):
    record_id = ledger.paying(10)
    assert [ledger.plan(), ledger.plan()] == [1, 0]
    ledger.run("update usage_records set minutes = 13")
    assert ledger.plan() == 0
    ledger.run("update meter_pushes set state = 'sent'")
    ledger.run("update usage_records set pushed_minutes = 10 where id = %s", record_id)
    assert ledger.plan() == 1
    assert [push.minutes for push in ledger.pushes()] == [10, 3]


def test_a_correction_is_a_negative_push_and_never_goes_below_zero(ledger):
    record_id = ledger.paying(5)
    ledger.sent(record_id, 5, NOON.replace(second=0))
    ledger.run("update usage_records set minutes = 2")
    assert ledger.plan() == 1
    assert ledger.pushes()[-1].minutes == -3
    ledger.run("delete from meter_pushes where state = 'planned'")
    ledger.run("update usage_records set minutes = -4")
    assert ledger.plan() == 1
    assert ledger.pushes()[-1].minutes == -5


@pytest.mark.parametrize("state", ["planned", "sending", "unknown"])
def test_an_unsettled_push_of_any_state_keeps_its_business_waiting(ledger, state):
    ledger.push(ledger.paying(9), 4, NOON.replace(second=0), state=state)
    assert ledger.plan() == 0


def test_free_records_are_not_for_stripe(ledger):
    ledger.record(ledger.business("free"), 60, plan="free")
    assert ledger.plan() == 0


def test_nothing_is_planned_from_a_provisional_or_stale_period(ledger):
    ledger.paying(5, provisional=True)
    ledger.paying(5, stripe_id="sub_stale")
    ledger.run("insert into refreshes (kind, object_id, reason) values ('subscription', 'sub_stale', 'tie')")
    assert ledger.plan() == 0
    ledger.run("update refreshes set fetched_mark = mark")
    assert ledger.plan() == 1


def test_a_second_metered_subscription_blocks_until_its_drift_is_resolved(ledger, engine):
    record = ledger.row("usage_records", ledger.paying(5))
    subject = f"business:{record.business_id}"
    with engine.begin() as connection:
        drifts.report(
            connection,
            DriftKind.SECOND_METERED_SUBSCRIPTION,
            subject,
            business_id=record.business_id,
            expected="one",
            actual="two",
            now=NOON,
        )
    assert ledger.plan() == 0
    with engine.begin() as connection:
        drifts.resolve(connection, DriftKind.SECOND_METERED_SUBSCRIPTION, subject, NOON)
    assert ledger.plan() == 1


def test_a_refused_push_blocks_its_record_only_until_it_is_released(ledger, engine):
    blocked = ledger.paying(5, period_end=NOON, state="closing")
    business_id = ledger.row("usage_records", blocked).business_id
    push_id = ledger.push(blocked, 5, NOON - timedelta(hours=1, seconds=7), state="failed")
    running = ledger.record(
        business_id,
        7,
        period_start=NOON,
        subscription_id=ledger.row("usage_records", blocked).subscription_id,
    )
    assert ledger.plan(NOON + timedelta(minutes=5)) == 1
    assert ledger.pushes()[-1].usage_record_id == running
    ledger.run("update meter_pushes set state = 'sent' where usage_record_id = %s", running)
    ledger.run("update usage_records set pushed_minutes = 7 where id = %s", running)
    assert ledger.plan(NOON + timedelta(minutes=6)) == 0
    with engine.begin() as connection:
        push_planning.release_refused(connection, push_id, NOON)
    assert ledger.plan(NOON + timedelta(minutes=6)) == 1
    assert (ledger.pushes()[-1].usage_record_id, ledger.pushes()[-1].minutes) == (blocked, 5)


def test_only_a_failed_push_can_be_released(ledger, engine):
    push_id = ledger.push(ledger.paying(5), 5, NOON.replace(second=0))
    with engine.begin() as connection, pytest.raises(ValueError, match="not failed"):
        push_planning.release_refused(connection, push_id, NOON)


def test_the_oldest_period_is_first_and_one_without_a_whole_minute_waits_for_the_close(ledger):
    seconds = PERIOD_START + timedelta(seconds=65)
    short = ledger.paying(3, period_end=seconds, state="closing")
    business_id, subscription_id = ledger.rows("select business_id, subscription_id from usage_records")[0]
    old = ledger.record(
        business_id,
        4,
        subscription_id=subscription_id,
        period_start=seconds,
        period_end=NOON - timedelta(minutes=10),
        state="closing",
    )
    ledger.record(business_id, 5, subscription_id=subscription_id, period_start=NOON - timedelta(minutes=10))
    assert ledger.plan() == 1
    push = ledger.the_push()
    assert push.usage_record_id == old != short
    assert push.timestamp == NOON.replace(second=0) - timedelta(minutes=11)


def test_pushed_is_counted_by_timestamp_when_a_cut_is_learned_late(ledger):
    record_id = ledger.paying(30)
    ledger.sent(record_id, 20, datetime(2026, 11, 10, 8, 0, tzinfo=UTC))
    ledger.sent(record_id, 10, datetime(2026, 11, 20, 11, 0, tzinfo=UTC))
    cut = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
    record = ledger.row("usage_records", record_id)
    ledger.run("update usage_records set period_end = %s, minutes = 22, state = 'closing'", cut)
    following = ledger.record(record.business_id, 8, subscription_id=record.subscription_id, period_start=cut)
    with ledger.engine.begin() as connection:
        record_figures.recount_pushed(connection, [record_id, following])
    assert [ledger.row("usage_records", each).pushed_minutes for each in (record_id, following)] == [20, 10]
    assert ledger.plan() == 1
    assert (ledger.pushes()[-1].usage_record_id, ledger.pushes()[-1].minutes) == (record_id, 2)
    ledger.run("update meter_pushes set state = 'sent' where state = 'planned'")
    ledger.run("update usage_records set pushed_minutes = 22 where id = %s", record_id)
    assert ledger.plan() == 1
    assert (ledger.pushes()[-1].usage_record_id, ledger.pushes()[-1].minutes) == (following, -2)


def test_what_is_wrong_in_pushed_minutes_is_not_billed_twice(ledger):
    record_id = ledger.paying(30)
    ledger.sent(record_id, 30, NOON.replace(second=0))
    ledger.run("update usage_records set pushed_minutes = 0")
    assert ledger.plan() == 0


# Until when


@pytest.mark.parametrize(
    ("invoice", "planned"),
    [
        (None, 1),
        ({}, 1),
        ({"automatically_finalizes_at": PERIOD_END + timedelta(minutes=12)}, 0),
        ({"automatically_finalizes_at": None}, 1),
        ({"status": "open"}, 0),
        ({"status": "void"}, 0),
    ],
)
def test_a_late_call_is_pushed_into_its_period_while_the_invoice_is_a_draft(ledger, invoice, planned):
    record_id = ledger.paying(5, state="closing")
    if invoice is not None:
        ledger.invoice(record_id, **invoice)
    assert ledger.plan(PERIOD_END + timedelta(minutes=11)) == planned
    for push in ledger.pushes():
        assert push.timestamp == datetime(2026, 12, 5, 10, 22, tzinfo=UTC)


def test_a_draft_that_replaces_a_void_invoice_counts(ledger):
    record_id = ledger.paying(5, state="closing")
    ledger.invoice(record_id, id="in_void", status="void", created_at=PERIOD_END + MINUTE)
    ledger.invoice(record_id, id="in_draft")
    assert ledger.plan(PERIOD_END + timedelta(minutes=11)) == 1


def test_a_closed_record_is_never_pushed(ledger):
    ledger.paying(5, state="closed", closed_at=PERIOD_END)
    assert ledger.plan(PERIOD_END + MINUTE) == 0


# Many


def test_two_planners_at_once_plan_each_business_once(ledger):
    for minutes in range(1, 41):
        ledger.paying(minutes)
    counts: list[int] = []
    planners = [threading.Thread(target=lambda: counts.append(ledger.plan())) for _ in range(4)]
    for planner in planners:
        planner.start()
    for planner in planners:
        planner.join()
    assert sum(counts) == 40
    planned = ledger.pushes()
    assert sorted(push.minutes for push in planned) == list(range(1, 41))
    assert len({push.identifier for push in planned}) == 40


def test_a_business_that_is_locked_is_waited_for_and_the_others_are_not_kept(ledger, engine):
    first, second = ledger.paying(1), ledger.paying(2)
    business_id = ledger.row("usage_records", first).business_id
    with engine.begin() as connection:
        connection.exec_driver_sql("select from businesses where id = %s for no key update", (business_id,))
        assert ledger.plan() == 1
    assert ledger.the_push().usage_record_id == second
    assert ledger.plan() == 1


def test_a_lock_that_is_released_in_time_costs_no_turn(ledger, engine):
    record_id = ledger.paying(1)
    business_id = ledger.row("usage_records", record_id).business_id
    with engine.connect() as holder:
        holder.exec_driver_sql("select from businesses where id = %s for no key update", (business_id,))
        release = threading.Timer(0.5, holder.rollback)
        release.start()
        assert ledger.plan() == 1
        release.join()


def test_identifiers_differ_between_databases_that_count_alike(ledger):
    ledger.paying(5)
    ledger.plan()
    ledger.run("update meter_pushes set state = 'released'")
    ledger.plan()
    ours = [push.identifier for push in ledger.pushes()]
    assert len(set(ours)) == 2
    assert all(len(name) <= 100 for name in ours)
    assert ledger.pushes()[0].event_name == EVENT_NAME
