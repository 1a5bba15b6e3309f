"""Which agent answers a number when, beside who holds it: each call names the one that answered when it began."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipeline.agents import agents
from pipeline.businesses import registration
from pipeline.businesses.registration import BusinessError
from tests.worlds.breaking import breaks
from tests.worlds.world import NUMBER_OF_B, NUMBER_OF_F, World, at, sid_of

NUMBER = "+15550000009"


@pytest.fixture
def world(engine, tmp_path):
    return World(engine, tmp_path / "clock")


def agent(world: World, business_id: int, name: str = "Ada") -> int:
    with world.engine.begin() as connection:
        return int(
            connection.exec_driver_sql(
                "insert into ai_agents (business_id, name) values (%s, %s) returning id", (business_id, name)
            ).scalar_one()
        )


def answers(world: World, agent_id: int | None, number: str = NUMBER_OF_B, business_id: int | None = None) -> None:
    with world.engine.begin() as connection:
        registration.describe_number(connection, business_id or world.b, number, agent_id, "Shop", world.now)


def agent_of(world: World, name: str) -> int | None:
    ((found,),) = world.rows("select agent_id from calls where sid = %s", sid_of(name))
    return None if found is None else int(found)


@breaks(
    "pipeline/calls/call_owner.py",
    "candidate.business_id, candidate.agent_id, candidate.number = business_id, agent_id, number",
    "candidate.business_id, candidate.number = business_id, number",
)
def test_a_call_names_who_answered_the_number_when_it_began(world):
    ada, bea = agent(world, world.b), agent(world, world.b, "Bea")
    for hour, who in ((8, ada), (10, bea), (12, None)):
        world.now = at(f"20 Nov {hour}:00")
        answers(world, who)
    world.now = at("20 Nov 15:00")
    for name, began in (("before", "07:59"), ("first", "08:00"), ("second", "11:59"), ("nobody", "12:00")):
        ended = at(f"20 Nov {began}") + timedelta(seconds=60)
        world.callback(name, ended=ended)
    world.drain()
    assert [agent_of(world, name) for name in ("before", "first", "second", "nobody")] == [None, ada, bea, None]
    assert world.figures(world.b) == [(4, 240, 4)]


def test_a_better_report_keeps_the_agent_and_one_that_moves_the_call_takes_it_away(world):
    ada = agent(world, world.b)
    world.now = at("20 Nov 08:00")
    answers(world, ada)
    world.now = at("20 Nov 12:00")
    world.callback("call", CallStatus="in-progress", SequenceNumber="2", CallDuration=None)
    world.drain()
    assert agent_of(world, "call") == ada
    third = world.business("Third", "starter", "UTC")
    with world.engine.begin() as connection:
        registration.add_number(connection, third, NUMBER_OF_B, at("20 Nov 11:00"), world.now, from_business_id=world.b)
    world.callback("call", ended=at("20 Nov 12:00") + timedelta(seconds=60))
    world.drain()
    assert world.rows("select business_id, agent_id from calls") == [(third, None)]


@breaks(
    "pipeline/calls/call_rows.py",
    "    when coalesce(excluded.parent_sid, c.parent_sid) is not null then null\n",
    "    when false then null\n",
)
@pytest.mark.parametrize("of_another_business", [True, False])
@pytest.mark.parametrize("parent_first", [True, False])
def test_a_leg_whose_parent_is_told_late_takes_the_parents_business_and_no_agent(
    world, parent_first, of_another_business
):
    """The key of agent and business let the event end dead, and the leg stayed where it was."""
    ada = agent(world, world.b)
    world.now = at("20 Nov 08:00")
    answers(world, ada)
    world.now = at("20 Nov 12:00")
    number, business_id = (NUMBER_OF_F, world.f) if of_another_business else (NUMBER_OF_B, world.b)
    world.callback("parent", To=number, CallStatus="in-progress", SequenceNumber="1", CallDuration=None)
    told: list[dict[str, Any]] = [
        {"CallStatus": "in-progress", "SequenceNumber": "1", "CallDuration": None},
        {"ParentCallSid": sid_of("parent"), "SequenceNumber": "2"},
    ]
    for params in told if not parent_first else reversed(told):
        world.callback("leg", **params)
        world.drain()
    assert world.rows("select business_id, agent_id, status from calls where sid = %s", sid_of("leg")) == [
        (business_id, None, "completed")
    ]
    assert world.rows("select reason from webhook_events where state = 'dead'") == []


def test_only_a_living_agent_of_the_business_answers(world):
    foreign, gone = agent(world, world.f), agent(world, world.b)
    with world.engine.begin() as connection:
        agents.end_agent(connection, world.b, gone, world.now)
    for who in (foreign, gone, 4711):
        with pytest.raises(BusinessError, match="there is no agent"):
            answers(world, who)
    with pytest.raises(BusinessError, match="does not hold"):
        answers(world, foreign, business_id=world.f)


def test_whoever_ends_an_agent_has_its_numbers_answered_by_nobody(world):
    ada = agent(world, world.b)
    world.now = at("20 Nov 08:00")
    answers(world, ada)
    world.now = at("20 Nov 10:00")
    with world.engine.begin() as connection:
        agents.end_agent(connection, world.b, ada, world.now)
    assert world.rows("select agent_id, label from phone_numbers where number = %s", NUMBER_OF_B) == [(None, "Shop")]
    held = world.rows(
        "select lower(held), upper(held), agent_id from phone_number_assignments where number = %s order by held",
        NUMBER_OF_B,
    )
    assert held == [
        (None, at("20 Nov 08:00"), None),
        (at("20 Nov 08:00"), at("20 Nov 10:00"), ada),
        (at("20 Nov 10:00"), None, None),
    ]


class Model:
    """Who holds the number and who answers it, hour by hour."""

    def __init__(self) -> None:
        self.hours: dict[int, tuple[int, int | None]] = {}

    def set(self, since: int, until: int, holder: tuple[int, int | None] | None) -> None:
        for hour in range(since, until):
            if holder is None:
                self.hours.pop(hour, None)
            else:
                self.hours[hour] = holder


@pytest.mark.parametrize("seed", range(25))
def test_in_any_order_of_what_is_done_each_hour_has_its_holder_and_its_agent(world, seed):
    chance = random.Random(seed)
    begin = at("1 Nov 00:00")
    ids = {business_id: [agent(world, business_id, f"{n}") for n in range(2)] for business_id in (world.b, world.f)}
    last = 400
    model = Model()

    def hour(number: int) -> datetime:
        return begin + timedelta(hours=number)

    for now in sorted(chance.sample(range(20, 200), 14)):
        world.now = hour(now)
        holder = model.hours.get(last)
        business_id = chance.choice([world.b, world.f])
        back = chance.choice([0, 0, 3, 15])
        with world.engine.connect() as connection:
            try:
                match chance.choice(["give", "give", "agent", "agent", "agent", "longer", "remove"]):
                    case "give":
                        since = None if back == 0 else hour(now - back)
                        former = None if holder is None else holder[0]
                        registration.add_number(
                            connection, business_id, NUMBER, since, world.now, from_business_id=former
                        )
                        model.set(now - back, last + 1, (business_id, None))
                    case "agent":
                        who = chance.choice([None, *ids[business_id]])
                        registration.describe_number(connection, business_id, NUMBER, who, "", world.now)
                        model.set(now, last + 1, (business_id, who))
                    case "longer":
                        assert holder is not None
                        registration.add_number(connection, holder[0], NUMBER, hour(now - 40), world.now)
                        first = min(
                            h
                            for h in range(now, -1, -1)
                            if all(model.hours.get(x, (0,))[0] == holder[0] for x in range(h, now))
                        )
                        model.set(now - 40, first, (holder[0], model.hours[first][1]))
                    case "remove":
                        registration.remove_number(connection, business_id, NUMBER, world.now)
                        model.set(now, last + 1, None)
                connection.commit()
            except (BusinessError, AssertionError):
                connection.rollback()
        rows = world.rows(
            "select business_id, agent_id, lower(held), upper(held) from phone_number_assignments where number = %s",
            NUMBER,
        )
        found = {}
        for number in range(last + 1):
            instant = hour(number) + timedelta(minutes=30)
            holders = [
                (row[0], row[1])
                for row in rows
                if (row[2] is None or row[2] <= instant) and (row[3] is None or instant < row[3])
            ]
            assert len(holders) <= 1
            if holders:
                found[number] = holders[0]
        assert found == {number: each for number, each in model.hours.items() if number >= 0}, seed
