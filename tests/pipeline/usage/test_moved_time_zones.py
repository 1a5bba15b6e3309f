"""A business that moves its time zone: what has begun keeps its bounds, no instant is in two periods, or in none."""

from random import Random

import pytest

from pipeline.businesses import registration
from pipeline.reading.explanation import explain
from pipeline.reading.usage_breakdown import By, read_breakdown
from tests.worlds.breaking import breaks
from tests.worlds.world import NUMBER_OF_F, World, at

ZONES = ["America/New_York", "Pacific/Auckland", "Pacific/Honolulu", "Asia/Kathmandu", "UTC", "Europe/Paris"]


def move(world: World, zone: str) -> None:
    with world.engine.begin() as connection:
        registration.move_time_zone(connection, world.f, zone)


@pytest.fixture
def world(engine, tmp_path):
    made = World(engine, tmp_path / "clock")
    yield made
    made.assert_sums()


@breaks("pipeline/usage/monthly_allowance.py", "and 1 preceding), 0))::int", "and 1 preceding), 0) * 0)::int")
@pytest.mark.parametrize("seed", range(8))
def test_however_often_it_moves_each_call_is_in_the_one_period_around_its_end(world, seed):
    random = Random(seed)
    ends = [at(f"{day} {hour}:30") for day in ("30 Nov", "1 Dec", "31 Dec", "1 Jan") for hour in range(0, 24, 5)]
    for number, ended in enumerate(ends):
        world.now = ended
        if random.random() < 0.4:
            move(world, random.choice(ZONES))
        world.callback(f"{seed}-{number}", To=NUMBER_OF_F, ended=ended, CallDuration=600)
        if random.random() < 0.6:
            world.drain()
    world.drain()
    misplaced = world.rows(
        "select c.sid from calls c left join usage_records r on r.id = c.usage_record_id"
        " where c.business_id = %s and (r.id is null or c.ended_at < r.period_start or c.ended_at >= r.period_end)",
        world.f,
    )
    assert misplaced == []
    assert world.rows("select count(*) from calls where business_id = %s and counted", world.f) == [(len(ends),)]
    # However the months are cut, each has its plan's 50 minutes once.
    months = world.rows(
        "select allowance_month, count(*), sum(least(minutes, included_minutes)), min(included_minutes)"
        " from usage_records where business_id = %s group by 1",
        world.f,
    )
    assert all(used <= 50 and least >= 0 for _, _, used, least in months)
    assert max(used for _, _, used, _ in months) == 50, "some month has used them up"


@breaks(
    "pipeline/reading/explanation_bounds.py",
    'otherwise = f"the calendar month in {record.time_zone}", _THERE',
    'otherwise = f"the calendar month in {record.time_zone}", _THEN',
)
def test_a_period_that_has_begun_keeps_its_bounds_and_says_why(world):
    world.callback("before", To=NUMBER_OF_F)
    world.drain()
    move(world, "Asia/Kathmandu")
    world.callback("after", To=NUMBER_OF_F)
    world.drain()
    ((record_id, start, end, calls),) = world.rows(
        "select id, period_start, period_end, calls from usage_records where business_id = %s", world.f
    )
    assert (start, end, calls) == (at("1 Nov 4:00"), at("1 Dec 5:00"), 2)
    with world.engine.connect() as connection:
        told = explain(connection, record_id, limit=0, bill_child_legs=False).record
        (day,) = read_breakdown(connection, world.f, By.DAY, start, end)
    assert told.time_zone == "America/New_York"
    assert told.start.reason == told.end.reason == "the calendar month in America/New_York"
    assert (day.part, day.calls) == ("2026-11-20", 2)
    # Of records from before that was kept, the zone is not known.
    with world.engine.begin() as connection:
        connection.exec_driver_sql("update usage_records set time_zone = null")
    with world.engine.connect() as connection:
        told = explain(connection, record_id, limit=0, bill_child_legs=False).record
    assert (
        told.start.reason
        == told.end.reason
        == ("the calendar month in the time zone that the business had when the record was made")
    )
    # December begins where November ended, whatever midnight it is in Kathmandu.
    world.now = at("1 Dec 5:00")
    world.callback("next", To=NUMBER_OF_F, ended=at("1 Dec 5:00"))
    world.drain()
    bounds = world.rows(
        "select period_start, period_end from usage_records where business_id = %s order by 1 desc limit 1", world.f
    )
    assert bounds == [(at("1 Dec 5:00"), at("31 Dec 18:15"))]
