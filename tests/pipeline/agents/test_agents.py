"""Agents, what they know and say: how many there may be, and versions that nobody overwrites."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pipeline.agents import agents, knowledge, scripts
from pipeline.agents.agents import AgentCard, AgentError
from pipeline.agents.documents import DocumentError
from pipeline.businesses import registration
from pipeline.reading.agents import present_scripts, read_agent, script_versions
from pipeline.shared.clock import machine_now
from tests.worlds.breaking import breaks

CARD = AgentCard("Reception", "en-GB", "calm", "alto", "You answer for a bakery.", "Good morning.", {"speed": 1.1})
FLOW = {"steps": [{"id": "greeting", "say": "Good morning."}]}


def nested(levels: int) -> dict[str, object]:
    made: dict[str, object] = {}
    for _ in range(levels):
        made = {"x": made}
    return made


@pytest.fixture
def business(engine) -> int:
    with engine.begin() as connection:
        return registration.add_business(
            connection, name="Bakery", plan="starter", time_zone="UTC", stripe_customer=None, now=machine_now()
        )


def add(engine, business_id: int, card: AgentCard = CARD) -> int:
    with engine.begin() as connection:
        return agents.add_agent(connection, business_id, card, machine_now())


def numbers_of(connection, agent_id: int) -> list[str]:
    agent = read_agent(connection, agent_id)
    assert agent is not None
    return list(agent.numbers)


@breaks(
    "pipeline/agents/agents.py",
    "    lock_businesses(connection, [business_id])\n    if not plan_limits",
    "    if not plan_limits",
)
def test_of_eight_that_are_added_at_once_so_many_are_as_the_plan_allows(engine, business):
    with engine.connect() as connection:
        (allowed,) = connection.exec_driver_sql("select agents from subscription_plans where code = 'starter'").one()
    together = Barrier(8)

    def one(_: int) -> bool:
        together.wait(10)
        try:
            return bool(add(engine, business))
        except AgentError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(8))) == allowed < 8
    with pytest.raises(AgentError, match="the plan Starter has room for no other agent"):
        add(engine, business)


def test_one_that_has_ended_makes_room_and_answers_no_number(engine, business):
    with engine.begin() as connection:
        plan = "select agents from subscription_plans where code = 'starter'"
        made = [
            agents.add_agent(connection, business, CARD, machine_now())
            for _ in range(connection.exec_driver_sql(plan).scalar_one())
        ]
        registration.add_number(connection, business, "+15550000001", None, machine_now())
        connection.exec_driver_sql("update phone_numbers set agent_id = %s", (made[0],))
        assert numbers_of(connection, made[0]) == ["+15550000001"]
        assert agents.end_agent(connection, business, made[0], machine_now())
        assert not agents.end_agent(connection, business, made[0], machine_now())
        assert numbers_of(connection, made[0]) == []
        agents.add_agent(connection, business, CARD, machine_now())
        for change in (
            lambda: agents.change_agent(connection, made[0], CARD),
            lambda: knowledge.add_knowledge(connection, made[0], "x", "y"),
            lambda: scripts.add_script(connection, made[0], "x", FLOW),
        ):
            with pytest.raises(AgentError, match="this agent has ended"):
                change()


@pytest.mark.parametrize(
    ("card", "error", "words"),
    [
        ({"name": " "}, AgentError, "needs a name"),
        ({"language": "English"}, AgentError, "is no language"),
        ({"settings": {"x": 2**70}}, DocumentError, "beyond 64 bits"),
        ({"settings": {"x": [1e20]}}, DocumentError, "beyond 64 bits"),
        ({"settings": {"x": float("nan")}}, DocumentError, "beyond 64 bits"),
        ({"settings": {"x": {"\ud800": 1}}}, DocumentError, "half a character"),
        ({"settings": nested(22)}, DocumentError, "more than 20 levels"),
        ({"settings": {"x": "a\0b"}}, DocumentError, "NUL"),
        ({"settings": {"x": "y" * 30_000}}, DocumentError, "20,000 bytes"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_what_is_no_agent_is_told(engine, business, card, error, words):
    fields = {name: getattr(CARD, name) for name in AgentCard.__dataclass_fields__}
    with pytest.raises(error, match=words):
        add(engine, business, AgentCard(**fields | card))


@breaks("pipeline/agents/scripts.py", "where id = %s for no key update", "where id = %s")
def test_of_eight_changes_at_once_each_is_a_version(engine, business):
    agent = add(engine, business)
    with engine.begin() as connection:
        scripts.add_script(connection, agent, "ordering", FLOW)
    together = Barrier(8)

    def change(number: int) -> int:
        flow = {"steps": [{"id": "greeting", "say": f"Number {number}."}]}
        together.wait(10)
        with engine.begin() as connection:
            return scripts.change_script(connection, agent, "ordering", flow)

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(change, range(8))) == list(range(2, 10))
    with engine.connect() as connection:
        found = script_versions(connection, agent, "ordering", before=100, limit=20)
        assert [each.version for each in found] == list(range(9, 0, -1))
        assert [each.version for each in present_scripts(connection, agent)] == [9]


def test_a_script_that_ended_is_said_no_more_and_can_come_back(engine, business):
    agent = add(engine, business)
    with engine.begin() as connection:
        scripts.add_script(connection, agent, "ordering", FLOW)
        with pytest.raises(AgentError, match="already"):
            scripts.add_script(connection, agent, "ordering", FLOW)
        assert scripts.end_script(connection, agent, "ordering")
        assert present_scripts(connection, agent) == []
        with pytest.raises(AgentError, match="has no script"):
            scripts.change_script(connection, agent, "ordering", FLOW)
        assert scripts.add_script(connection, agent, "ordering", FLOW) == 2
        assert len(script_versions(connection, agent, "ordering", before=100, limit=20)) == 2
