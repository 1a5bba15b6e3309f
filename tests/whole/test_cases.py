"""The worked cases, row by row: what single events do. The numbers are those of the table of cases."""

import pytest

from pipeline.events import queue
from tests.worlds.world import NUMBER_OF_B, NUMBER_OF_F, PERIOD_END, World, at, sid_of


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    yield made
    made.assert_sums()
    made.assert_rebuilt()


# Calls


def test_1_seconds_are_counted_and_duration_is_never_used(world):
    world.callback(CallDuration=49, Duration=1)
    world.drain()
    assert world.figures(world.b) == [(1, 49, 1)]


@pytest.mark.parametrize(("seconds", "minutes"), [(60, 1), (61, 2), (0, 0)])
def test_2_seconds_are_rounded_up_and_every_completed_leg_is_a_call(world, seconds, minutes):
    world.callback(CallDuration=seconds)
    world.drain()
    assert world.figures(world.b) == [(1, seconds, minutes)]


@pytest.mark.parametrize("status", ["busy", "no-answer", "failed", "canceled"])
@pytest.mark.parametrize("duration", ["0", None])
def test_3_a_leg_that_nobody_answered_is_stored_and_not_counted(world, status, duration):
    world.callback(CallStatus=status, CallDuration=duration)
    world.drain()
    assert world.call().status == status
    assert world.records(world.b) == []


@pytest.mark.parametrize("duration", [None, ""])
def test_4_completed_without_a_duration_is_fetched_then_counted(world, duration):
    world.callback(CallDuration=duration)
    result = world.drain()
    assert (world.call().status, world.call().seconds, world.call().counted) == ("completed", None, False)
    assert world.wanted() == {sid_of("call"): "no-duration"}
    assert "twilio.fetch-calls" in result.follow_ups
    world.api_answer(duration="125")
    world.drain()
    assert world.figures(world.b) == [(1, 125, 3)]


def test_5_ringing_after_completed_changes_nothing(world):
    world.callback(CallDuration=120)
    world.drain()
    late = world.callback(CallStatus="ringing", SequenceNumber=1)
    world.drain()
    assert world.event(late) == ("processed", None)
    assert world.call().status == "completed"
    assert world.figures(world.b) == [(1, 120, 2)]


def test_6_completed_outranks_a_higher_sequence(world):
    world.callback(CallStatus="in-progress", SequenceNumber=2)
    world.drain()
    world.callback(CallDuration=30, SequenceNumber=0)
    world.drain()
    assert world.figures(world.b) == [(1, 30, 1)]


def test_7_the_same_body_three_times_is_one_event(world):
    for _ in range(3):
        world.callback(CallDuration=30)
        world.drain()
    assert world.rows("select count(*) from webhook_events") == [(1,)]
    assert world.figures(world.b) == [(1, 30, 1)]


@pytest.mark.parametrize("together", [True, False])
def test_8_contradicting_reports_are_settled_by_the_api_by_the_difference(world, together):
    world.callback(CallDuration=300)
    if not together:
        world.drain()
    world.callback(CallDuration=200)
    world.drain()
    assert world.wanted() == {sid_of("call"): "reports-differ"}
    assert len(world.figures(world.b)) == 1
    world.api_answer(duration="61")
    world.drain()
    assert world.figures(world.b) == [(1, 61, 2)]


@pytest.mark.parametrize("child_first", [True, False])
@pytest.mark.parametrize("together", [True, False])
def test_9_a_child_leg_belongs_to_its_parents_business_and_is_not_billed(world, child_first, together):
    def child():
        return world.callback("child", ParentCallSid=sid_of("parent"), Direction="outbound-dial", From="+15558888888")

    def parent():
        return world.callback("parent", CallDuration=60)

    keys = []
    for report in [child, parent] if child_first else [parent, child]:
        keys.append(report())
        if not together:
            world.drain()
            if report is child and child_first:
                assert world.call("child").business_id is None
    world.drain()
    assert [world.event(key) for key in keys] == [("processed", None)] * 2
    assert world.call("child").business_id == world.b
    assert world.figures(world.b) == [(1, 60, 1)]


@pytest.mark.parametrize("together", [True, False])
def test_9_child_legs_are_billed_where_the_setting_says_so(world, together):
    world.callback("child", ParentCallSid=sid_of("parent"), CallDuration=61)
    if not together:
        world.drain(bill_child_legs=True)
    world.callback("parent", CallDuration=60)
    world.drain(bill_child_legs=True)
    assert world.figures(world.b) == [(2, 121, 3)]


def test_9_a_child_and_parent_that_two_workers_apply_at_once_are_linked_by_the_sweep(world):
    world.callback("child", ParentCallSid=sid_of("parent"))
    world.drain()
    world.callback("parent")
    world.drain()
    with world.engine.begin() as connection:  # as if neither had seen the other
        connection.exec_driver_sql("update calls set business_id = null where parent_sid is not null")
    with world.engine.begin() as connection:
        assert queue.replay_orphans(connection) == 1
    world.drain()
    assert world.call("child").business_id == world.b


@pytest.mark.parametrize("direction", ["outbound-api", "outbound-dial"])
def test_10_an_outbound_call_belongs_to_who_calls(world, direction):
    world.callback(Direction=direction, From=NUMBER_OF_F, To=NUMBER_OF_B)
    world.drain()
    assert world.call().business_id == world.f


@pytest.mark.parametrize("to", ["", "client:johnny", "sip:a@example.com"])
def test_10a_without_a_number_of_ours_the_call_is_fetched(world, to):
    key = world.callback(To=to, CallDuration=20)
    world.drain()
    assert world.event(key) == ("pending", "awaiting-call")
    assert world.wanted() == {sid_of("call"): "no-number"}
    world.api_answer(duration="20")
    world.drain()
    _fetched(world)
    world.drain()
    assert world.event(key) == ("processed", None)
    assert world.figures(world.b) == [(1, 20, 1)]


def test_10a_fetched_and_still_nobodys_is_dead(world):
    key = world.callback(To="", Direction="trunking-terminating")
    world.drain()
    _fetched(world)
    world.drain()
    assert world.event(key) == ("dead", "unknown-number")


def _fetched(world):
    """As the fetch leaves it: the call has been asked for, and what waited for it is due."""
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update refreshes set fetched_mark = mark")
        connection.exec_driver_sql("update webhook_events set due_at = now() where reason = 'awaiting-call'")


def test_11_a_number_nobody_holds_is_dead_until_it_is_added_and_replayed(world):
    key = world.callback(To="+15550000099", CallDuration=61)
    world.drain()
    assert world.event(key) == ("dead", "unknown-number +15550000099")
    with world.engine.begin() as connection:
        world.hold(connection, world.f, "+15550000099")
        (event_id,) = connection.exec_driver_sql("select id from webhook_events").one()
        assert len(queue.replay(connection, [event_id])) == 1
    world.drain()
    assert world.event(key) == ("processed", None)
    assert world.figures(world.f) == [(1, 61, 2)]


def test_12_a_call_belongs_to_who_held_the_number_when_it_started(world):
    noon = at("20 Nov 12:00")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("delete from phone_number_assignments where number = %s", (NUMBER_OF_B,))
        world.hold(connection, world.b, NUMBER_OF_B, None, noon)
        world.hold(connection, world.f, NUMBER_OF_B, noon, None)
    world.callback("before", ended=at("20 Nov 12:03"), CallDuration=300)
    world.callback("after", ended=at("20 Nov 12:05"), CallDuration=300)
    world.drain()
    assert (world.call("before").business_id, world.call("after").business_id) == (world.b, world.f)


@pytest.mark.parametrize("timestamp", [None, "", "yesterday", "Tue, 99 Nov 2026 25:00:00 +0000"])
def test_13_without_a_timestamp_the_end_is_estimated_and_fetched(world, timestamp):
    world.callback(Timestamp=timestamp, CallDuration=90)
    world.drain()
    assert (world.call().ended_at, world.call().estimated) == (world.now, True)
    assert world.wanted() == {sid_of("call"): "no-timestamp"}
    assert world.figures(world.b) == [(1, 90, 2)]


@pytest.mark.parametrize(
    "params",
    [
        {"CallStatus": None, "AnsweredBy": "human", "MachineDetectionDuration": "2000"},
        {"CallStatus": "in-progress", "DialCallStatus": "completed", "DialCallSid": sid_of("other")},
        {"RecordingUrl": "https://example.com/r", "CallDuration": None, "CallbackSource": None},
        {"RecordingStatus": "completed", "CallStatus": "completed"},
    ],
)
def test_14_bodies_of_other_callbacks_are_ignored(world, params):
    key = world.callback(**params)
    world.drain()
    assert world.event(key) == ("ignored", "not-a-call-status")
    assert world.call() is None


def test_15_an_unknown_status_is_dead(world):
    key = world.callback(CallStatus="answered")
    world.drain()
    assert world.event(key) == ("dead", "unknown-status")


def test_16_another_account_is_dead(world):
    key = world.callback(AccountSid="AC" + "1" * 32)
    world.drain()
    assert world.event(key) == ("dead", "foreign-account")


def test_17_the_end_of_a_period_belongs_to_the_next_one(world):
    world.now = at("5 Dec 10:24")
    world.callback("last", ended=at("5 Dec 10:23:44"))
    world.callback("first", ended=at("5 Dec 10:23:45"))
    world.drain()
    old, new = world.records(world.b)
    assert (old.period_end, new.period_start) == (PERIOD_END, PERIOD_END)
    assert (old.calls, new.calls) == (1, 1)


def test_18_before_the_renewal_is_known_the_record_is_provisional(world):
    world.now = at("5 Dec 10:31")
    world.callback(ended=at("5 Dec 10:30"))
    result = world.drain()
    record = world.record(world.b)
    assert (record.period_start, record.period_end) == (PERIOD_END, at("5 Jan 10:23:45"))
    assert record.provisional
    assert world.wanted() == {f"sub_{world.b}": "provisional-period"}
    assert "stripe.refresh" in result.follow_ups


@pytest.mark.parametrize(
    ("ended", "start", "end"),
    [("1 Nov 03:59:59", "1 Oct 04:00", "1 Nov 04:00"), ("1 Nov 04:00:00", "1 Nov 04:00", "1 Dec 05:00")],
)
def test_19_without_a_subscription_the_month_is_local(world, ended, start, end):
    world.callback(To=NUMBER_OF_F, ended=at(ended))
    world.drain()
    record = world.record(world.f)
    assert (record.period_start, record.period_end) == (at(start), at(end))


# Limits


def test_21_free_at_its_limit_is_limited_until_the_period_ends(world):
    world.callback("first", To=NUMBER_OF_F, CallDuration=39 * 60)
    world.drain()
    assert world.alerts(world.f) == []
    world.callback("second", To=NUMBER_OF_F, CallDuration=10 * 60)
    world.drain()
    assert world.alerts(world.f) == [("minutes-80", 49)]
    world.callback("third", To=NUMBER_OF_F, CallDuration=3 * 60)
    world.drain()
    assert world.alerts(world.f) == [("minutes-80", 49), ("minutes-100", 52)]
    assert _limited_until(world) == at("1 Dec 05:00")


def _limited_until(world):
    ((limited_until,),) = world.rows("select limited_until from businesses where id = %s", world.f)
    return limited_until


def test_23_overage_limits_no_paid_business(world):
    for name, minutes in (("a", 399), ("b", 1), ("c", 99), ("d", 1), ("e", 1)):
        world.callback(name, CallDuration=minutes * 60)
        world.drain()
    assert world.record(world.b).minutes == 501
    assert world.alerts(world.b) == [("minutes-80", 400), ("minutes-100", 500)]
    assert world.rows("select limited_until from businesses where id = %s", world.b) == [(None,)]


def test_24_one_call_over_both_thresholds_raises_both_alerts_once(world):
    world.callback(To=NUMBER_OF_F, CallDuration=51 * 60)
    world.drain()
    assert [kind for kind, _ in world.alerts(world.f)] == ["minutes-80", "minutes-100"]


def test_25_crossing_a_threshold_again_raises_no_second_alert(world):
    world.callback("big", To=NUMBER_OF_F, CallDuration=41 * 60)
    world.drain()
    world.api_answer("big", to=NUMBER_OF_F, duration="600")
    world.drain()
    assert world.record(world.f).minutes == 10
    world.callback("another", To=NUMBER_OF_F, CallDuration=32 * 60)
    world.drain()
    assert world.alerts(world.f) == [("minutes-80", 41)]


def test_25a_a_correction_below_the_limit_lifts_it(world):
    world.callback("big", To=NUMBER_OF_F, CallDuration=60 * 60)
    world.drain()
    assert _limited_until(world) is not None
    world.api_answer("big", to=NUMBER_OF_F, duration="600")
    world.drain()
    assert _limited_until(world) is None


# Periods that are over


def _close(world, business_id):
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "update usage_records set state = 'closed', closed_at = %s where business_id = %s and period_end <= %s",
            (world.now, business_id, world.now),
        )


def test_25b_and_28_a_late_call_of_a_closed_period_is_carried_and_raises_no_alert(world):
    world.callback("early", ended=at("5 Dec 10:00"), CallDuration=60)
    world.drain()
    world.now = at("10 Dec 12:00")
    with world.engine.begin() as connection:
        connection.exec_driver_sql(
            "update subscriptions set period_start = %s, period_end = %s", (PERIOD_END, at("5 Jan 10:23:45"))
        )
    _close(world, world.b)
    world.callback("late", ended=at("5 Dec 10:10"), CallDuration=450 * 60)
    world.drain()
    old, new = world.records(world.b)
    assert (old.calls, old.minutes) == (1, 1)
    assert (new.calls, new.minutes, new.adjustment_minutes) == (0, 450, 450)
    assert world.alerts(world.b) == []
    ((sid, origin, into, minutes),) = world.rows(
        "select call_sid, origin_record_id, usage_record_id, minutes from usage_adjustments"
    )
    assert (sid, origin, into, minutes) == (sid_of("late"), old.id, new.id, 450)
    # What Twilio corrects then is a difference.
    world.api_answer("late", duration="120", end_time="Sat, 05 Dec 2026 10:10:00 +0000")
    world.drain()
    assert world.records(world.b)[1].minutes == 2
    world.api_answer("early", duration="240", end_time="Sat, 05 Dec 2026 10:00:00 +0000")
    world.drain()
    old, new = world.records(world.b)
    assert (old.minutes, new.minutes) == (1, 5)


def test_27_a_late_call_of_a_closing_period_is_counted_there(world):
    world.callback("early", ended=at("5 Dec 10:00"))
    world.drain()
    world.now = at("5 Dec 10:40")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update usage_records set state = 'closing'")
    world.callback("late", ended=at("5 Dec 10:10"), CallDuration=120)
    world.drain()
    assert world.figures(world.b) == [(2, 180, 3)]


def test_28a_a_late_call_of_a_closed_free_period_is_written_off(world):
    world.callback("early", To=NUMBER_OF_F, ended=at("20 Nov 10:00"))
    world.drain()
    world.now = at("10 Dec 12:00")
    _close(world, world.f)
    world.callback("late", To=NUMBER_OF_F, ended=at("20 Nov 10:10"), CallDuration=120)
    world.drain()
    assert world.figures(world.f) == [(1, 60, 1)]
    assert world.rows("select kind, minutes, usage_record_id from usage_adjustments") == [("written-off", 2, None)]


def test_28b_a_late_call_of_a_paid_period_of_a_business_on_free_is_a_drift(world):
    world.callback("early", ended=at("5 Dec 10:00"))
    world.drain()
    world.now = at("10 Dec 12:00")
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update subscriptions set ended_at = period_end, status = 'canceled'")
        connection.exec_driver_sql("update businesses set plan_id = 1")
    _close(world, world.b)
    world.callback("late", ended=at("5 Dec 10:10"), CallDuration=120)
    world.drain()
    assert world.rows("select kind, minutes from usage_adjustments") == [("waiting", 2)]
    ((kind, expected),) = world.rows("select kind, expected from drifts")
    assert (kind, expected) == ("unbillable", "2 minutes (of unknown price) charged")
