"""`altiora rebuild`: a period from its stored events alone; each kind of planted error is found, and nothing else."""

import json
from datetime import timedelta

import pytest
import redis

from pipeline.checking import rebuild
from pipeline.checking.rebuild import Tally
from pipeline.checking.rebuild_calls import Rules
from pipeline.closing import period_close
from tests.worlds.world import ACCOUNT, NUMBER_OF_B, NUMBER_OF_F, World, at, sid_of

RULES = Rules(ACCOUNT, bill_child_legs=False)


@pytest.fixture
def world(engine, tmp_path, altiora):
    return World(engine, tmp_path / "clock")


@pytest.fixture
def counted(world):
    """B with two calls in its open period, F with one in its own, and calls that are not counted."""
    world.callback("one", ended=at("20 Nov 10:00"), CallDuration=61)
    world.callback("two", ended=at("20 Nov 11:00"), CallDuration=300)
    world.callback("of f", To=NUMBER_OF_F, ended=at("20 Nov 11:00"), CallDuration=120)
    world.callback("busy", CallStatus="busy", ended=at("20 Nov 11:10"))
    world.callback("child", ParentCallSid=sid_of("one"), ended=at("20 Nov 11:20"))
    world.callback("unknown", CallDuration=None, ended=at("20 Nov 11:30"))
    world.callback("nobody", To="+15550000099")
    world.drain()
    return world


@pytest.fixture
def closed(counted):
    """F's November, closed; then its call corrected from 2 to 4 minutes, and one of 1 minute that came late."""
    counted.now = at("4 Dec 06:00")
    assert period_close.close_due(counted.engine, counted.now)["closed"] == 1
    counted.api_answer("of f", to=NUMBER_OF_F, duration="200", end_time="Fri, 20 Nov 2026 11:00:00 +0000")
    counted.callback("late", To=NUMBER_OF_F, ended=at("21 Nov 10:00"), CallDuration=60)
    counted.drain()
    return counted


def change(world, sql, *parameters):
    with world.engine.begin() as connection:
        connection.exec_driver_sql(sql, parameters)


def everywhere(world):
    """The differences of all records, by kind and call."""
    found = rebuild.rebuild_all(world.engine, RULES, world.now, Tally())
    return sorted([(each.kind, each.call) for each in found], key=str)


def lose(world, name):
    """As if the call had been applied and the effect lost, with all that follows from it."""
    change(
        world,
        "with lost as (delete from calls where sid = %s returning *) update usage_records r set calls = r.calls - 1,"
        " seconds = r.seconds - lost.counted_seconds, minutes = r.minutes - lost.counted_minutes"
        " from lost where r.id = lost.usage_record_id",
        sid_of(name),
    )


# Nothing planted


def test_what_was_counted_is_rebuilt_from_its_events(altiora, counted):
    told = altiora.json("rebuild", "B", "current", "--dry-run")
    assert told["differences"] == []
    assert told["figures"]["calls"] == {"record": 2, "rebuilt": 2, "difference": 0}
    assert told["figures"]["minutes"] == {"record": 7, "rebuilt": 7, "difference": 0}
    said = altiora("rebuild", "B", "current", "--dry-run")
    assert "No difference. Calls rebuilt from their events: 2\n" in said
    assert "7 calls and 2 records: no differences." in altiora("rebuild", "--all", "--dry-run")


def test_a_closed_period_with_its_late_corrections_is_rebuilt(altiora, closed):
    told = altiora.json("rebuild", "F", "2026-11", "--dry-run")
    assert told["differences"] == []
    assert told["figures"]["minutes"] == {"record": 2, "rebuilt": 2, "difference": 0}
    assert told["calls"] == 2
    assert everywhere(closed) == []


def test_a_carried_call_is_rebuilt_in_both_periods(altiora, world):
    world.callback("early", ended=at("5 Dec 10:00"), CallDuration=60)
    world.drain()
    world.now = at("10 Dec 12:00")
    change(world, "update subscriptions set period_start = period_end, period_end = '2027-01-05 10:23:45'")
    change(world, "update usage_records set state = 'closed', closed_at = %s", world.now)
    world.callback("late", ended=at("5 Dec 10:10"), CallDuration=450)
    world.drain()
    for period in ("2026-11", "2026-12"):
        assert altiora.json("rebuild", "B", period, "--dry-run")["differences"] == []
    told = altiora.json("rebuild", "B", "2026-12", "--dry-run")
    assert told["figures"]["carried into it"] == {"record": 8, "rebuilt": 8, "difference": 0}
    change(world, "update usage_adjustments set minutes = 9")
    change(world, "update usage_records set minutes = 9, adjustment_minutes = 9 where state = 'open'")
    told = altiora.json("rebuild", "B", "2026-12", "--dry-run", status=1)
    assert [each["kind"] for each in told["differences"]] == ["adjustments"]
    assert told["figures"]["carried into it"] == {"record": 9, "rebuilt": 8, "difference": -1}


# Planted errors


@pytest.mark.parametrize("stored", [True, False])
def test_a_lost_call_is_found(altiora, counted, stored):
    if stored:
        change(
            counted,
            "update calls set counted = false, counted_minutes = 0, counted_seconds = 0, minutes = 0,"
            " usage_record_id = null where sid = %s",
            sid_of("one"),
        )
        change(counted, "update usage_records set calls = 1, seconds = 300, minutes = 5 where business_id = 1")
    else:
        lose(counted, "one")
    kind = "not-counted" if stored else "lost"
    told = altiora.json("rebuild", "B", "current", "--dry-run", status=1)
    assert [(each["kind"], each["call"], each["event_ids"]) for each in told["differences"]] == [
        (kind, sid_of("one"), [1])
    ]
    assert told["figures"]["minutes"] == {"record": 5, "rebuilt": 7, "difference": 2}
    assert everywhere(counted) == [(kind, sid_of("one"))]
    run = altiora.run("rebuild", "B", "current", "--dry-run")
    assert f"{sid_of('one')}: stored" in run.stdout
    assert "rebuilt record 1, 61 s, 2 minutes (events 1)" in run.stdout
    assert "1 difference was found" in run.stderr


def test_a_call_counted_twice_is_found(altiora, counted):
    change(counted, "update usage_records set calls = 3, seconds = 661, minutes = 12 where business_id = 1")
    told = altiora.json("rebuild", "B", "current", "--dry-run", status=1)
    assert [each["kind"] for each in told["differences"]] == ["record-sum"]
    assert told["figures"]["calls"] == {"record": 3, "rebuilt": 2, "difference": -1}
    assert told["figures"]["minutes"] == {"record": 12, "rebuilt": 7, "difference": -5}
    assert everywhere(counted) == [("record-sum", None)]


def test_a_call_that_no_event_tells_of_is_found(altiora, counted):
    change(counted, "delete from webhook_events where key like %s", f"{sid_of('two')}:%")
    told = altiora.json("rebuild", "B", "current", "--dry-run", status=1)
    assert [(each["kind"], each["call"]) for each in told["differences"]] == [("unheard", sid_of("two"))]
    assert told["figures"]["minutes"]["difference"] == -5
    assert everywhere(counted) == [("unheard", sid_of("two"))]


@pytest.mark.parametrize(("column", "value", "kind"), [("minutes", 3, "minutes"), ("seconds", 62, "seconds")])
def test_a_changed_figure_is_found(altiora, counted, column, value, kind):
    change(
        counted,
        f"with was as (update calls set {column} = %s, counted_{column} = %s where sid = %s returning usage_record_id)"
        f" update usage_records r set {column} = r.{column} + 1 from was where r.id = was.usage_record_id",
        value, value, sid_of("one"),
    )  # fmt: skip
    told = altiora.json("rebuild", "B", "current", "--dry-run", status=1)
    assert [(each["kind"], each["call"]) for each in told["differences"]] == [(kind, sid_of("one"))]
    assert told["figures"][column]["difference"] == -1
    assert everywhere(counted) == [(kind, sid_of("one"))]


def test_a_call_that_is_counted_and_should_not_be_is_found(altiora, counted):
    change(
        counted,
        "with was as (update calls set counted = true, usage_record_id = 1, counted_minutes = 1, counted_seconds = 60"
        " where sid = %s returning 1) update usage_records set calls = 3, seconds = 421, minutes = 8 where id = 1",
        sid_of("child"),
    )
    told = altiora.json("rebuild", "B", "current", "--dry-run", status=1)
    assert [(each["kind"], each["call"]) for each in told["differences"]] == [("counted", sid_of("child"))]
    assert told["figures"]["minutes"]["difference"] == -1


def test_a_call_in_the_wrong_record_is_found_in_both(altiora, counted):
    change(
        counted,
        "with moved as (update calls set usage_record_id = 2 where sid = %s returning 1), gone as ("
        " update usage_records set calls = 1, seconds = 300, minutes = 5 where id = 1 returning 1)"
        " update usage_records set calls = 2, seconds = 181, minutes = 4 where id = 2",
        sid_of("one"),
    )
    for business, difference in (("B", 2), ("F", -2)):
        told = altiora.json("rebuild", business, "current", "--dry-run", status=1)
        assert [(each["kind"], each["call"]) for each in told["differences"]] == [("wrong-record", sid_of("one"))]
        assert told["figures"]["minutes"]["difference"] == difference
    assert everywhere(counted) == [("wrong-record", sid_of("one"))]


def test_an_adjustment_without_a_call_is_found(altiora, counted):
    for sid in (sid_of("never"), None):
        change(
            counted,
            "insert into usage_adjustments (business_id, kind, usage_record_id, origin_record_id, call_sid, minutes,"
            " created_at) values (1, 'carried', 1, 1, %s, 4, %s)",
            sid, counted.now,
        )  # fmt: skip
    change(counted, "update usage_records set minutes = 15, adjustment_minutes = 8 where id = 1")
    told = altiora.json("rebuild", "B", "current", "--dry-run", status=1)
    assert [(each["kind"], each["call"]) for each in told["differences"]] == [
        ("adjustment", sid_of("never")),
        ("adjustment", None),
    ]
    assert everywhere(counted) == [("adjustment", sid_of("never")), ("adjustment", None)]
    assert told["figures"]["carried into it"] == {"record": 8, "rebuilt": 0, "difference": -8}


@pytest.mark.parametrize(
    ("planted", "kind", "name"),
    [
        ("delete from usage_adjustments where call_sid = %s", "adjustments", "of f"),
        ("update usage_adjustments set minutes = minutes + 1 where call_sid = %s", "adjustments", "late"),
        ("update calls set minutes = 3 where sid = %s", "minutes", "of f"),
        ("update calls set counted_minutes = 3 where sid = %s", "minutes", "of f"),
        ("update calls set counted_seconds = 121 where sid = %s", "seconds", "of f"),
        ("delete from calls where sid = %s", "lost", "late"),
    ],
)
def test_what_a_closed_record_counted_was_said_once_and_the_rest_is_carried(altiora, closed, planted, kind, name):
    change(closed, planted, sid_of(name))
    told = altiora.json("rebuild", "F", "2026-11", "--dry-run", status=1)
    assert (kind, sid_of(name)) in [(each["kind"], each["call"]) for each in told["differences"]]
    assert (kind, sid_of(name)) in everywhere(closed)


def test_a_call_of_a_closed_record_that_no_event_ever_put_there_is_found(altiora, closed):
    change(closed, "update calls set usage_record_id = 2 where sid = %s", sid_of("one"))
    assert ("wrong-record", sid_of("one")) in everywhere(closed)


# What can't be said


def test_calls_whose_events_wait_are_taken_as_they_are_stored(altiora, counted):
    counted.api_answer("one", duration="600", end_time="Fri, 20 Nov 2026 10:00:00 +0000")
    told = altiora.json("rebuild", "B", "current", "--dry-run")
    assert (told["waiting"], told["differences"], told["figures"]["minutes"]["rebuilt"]) == (1, [], 7)
    assert "events that are still to be applied, taken as they are stored: 1\n" in altiora(
        "rebuild", "B", "current", "--dry-run"
    )
    counted.drain()
    assert altiora.json("rebuild", "B", "current", "--dry-run")["figures"]["minutes"]["rebuilt"] == 15


def test_a_period_older_than_the_events_that_are_kept_says_so(altiora, counted):
    counted.now = at("20 Nov 12:00") + timedelta(days=396)
    change(counted, "delete from webhook_events")
    said = altiora("rebuild", "B", "2026-11", "--dry-run", status=1)
    assert "the period from 2026-11-05 can't be rebuilt: events are kept for 13 months, those before 2026-11-21" in said
    told = altiora.json("rebuild", "--all", "--dry-run")
    assert (told["old"], told["found"]) == (2, 0)
    assert "2 records are older than the events" in altiora("rebuild", "--all", "--dry-run")


def test_unsettled_contradictions_are_no_difference(altiora, counted):
    counted.callback("one", ended=at("20 Nov 10:00"), CallDuration=400)
    counted.drain()
    assert everywhere(counted) == []


# Without --dry-run


def repair(altiora, world, broker_url):
    said = altiora.run("rebuild", "B", "current")
    with redis.Redis.from_url(broker_url) as client:
        messages = client.lrange("events", 0, -1)
        client.flushall()
    world.drain()
    return said, [json.loads(each)["headers"]["task"] for each in messages]


def test_a_lost_call_is_applied_again_from_its_events(altiora, counted, broker_url):
    lose(counted, "one")
    said, tasks = repair(altiora, counted, broker_url)
    assert said.exit_code == 1
    assert "Events that will be applied again: 1." in said.stdout
    assert tasks == ["events.drain"]
    assert counted.figures(counted.b) == [(2, 361, 7)]
    counted.assert_sums()
    assert everywhere(counted) == []
    assert "Events that will be applied again: 0." in altiora("rebuild", "B", "current")


def test_changed_minutes_and_a_wrong_record_are_applied_again_though_no_report_is_better(altiora, counted, broker_url):
    change(counted, "update calls set minutes = 3, counted_minutes = 3 where sid = %s", sid_of("one"))
    change(counted, "update calls set usage_record_id = 2 where sid = %s", sid_of("two"))
    change(counted, "update usage_records set calls = 1, seconds = 61, minutes = 3 where id = 1")
    change(counted, "update usage_records set calls = 2, seconds = 420, minutes = 7 where id = 2")
    repair(altiora, counted, broker_url)
    assert counted.figures(counted.b) == [(2, 361, 7)]
    assert counted.figures(counted.f) == [(1, 120, 2)]
    assert everywhere(counted) == []


def test_nothing_is_applied_again_where_the_record_is_not_the_sum_of_its_calls(altiora, counted):
    change(counted, "delete from calls where sid = %s", sid_of("one"))
    assert "is not the sum of its calls" in altiora("rebuild", "B", "current", status=1)
    assert counted.rows("select count(*) from webhook_events where state = 'pending'") == [(0,)]


def test_a_closed_record_is_never_repaired(altiora, closed):
    change(closed, "delete from usage_adjustments")
    assert "is closed, and stays as it was frozen" in altiora("rebuild", "F", "2026-11", status=1)
    assert closed.rows("select count(*) from webhook_events where state = 'pending'") == [(0,)]


@pytest.mark.parametrize("arguments", [(), ("B",), ("--all",), ("B", "current", "--all", "--dry-run")])
def test_it_must_be_said_what_to_rebuild(altiora, counted, arguments):
    altiora("rebuild", *arguments, status=2)


# Many


def test_all_goes_through_any_number_of_calls_in_chunks(world, monkeypatch):
    monkeypatch.setattr(rebuild, "CHUNK", 3)
    for number in range(20):
        world.callback(f"ring {number}", CallStatus="ringing", SequenceNumber=1)
    world.store_all([world.body(str(number), ended=at("20 Nov 10:00"), CallDuration=60) for number in range(50)])
    world.drain()
    change(world, "delete from webhook_events where key like %s", f"{sid_of('7')}:%")
    lose(world, "9")
    tally = Tally()
    found = list(rebuild.rebuild_all(world.engine, RULES, world.now, tally))
    assert sorted((each.kind, each.call) for each in found) == [("lost", sid_of("9")), ("unheard", sid_of("7"))]
    assert (tally.calls, tally.records) == (70, 1)
    ((record_id,),) = world.rows("select id from usage_records")
    rebuilt = rebuild.rebuild_record(world.engine, record_id, RULES, world.now)
    assert (rebuilt.calls, rebuilt.minutes, len(rebuilt.differences)) == (49, 49, 2)


def test_numbers_are_found_however_a_body_is_written(world):
    world.callback("form", To=NUMBER_OF_B)
    world.api_answer("api", to=NUMBER_OF_B)
    world.drain()
    change(world, "delete from calls")
    ((record_id,),) = world.rows("select id from usage_records")
    rebuilt = rebuild.rebuild_record(world.engine, record_id, RULES, world.now)
    assert rebuilt.calls == 2
