"""The agents of a business."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field
from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import AskedOfBusiness, in_business
from api.inputs import Id, Input, Language, Name, Q, Text
from api.matching import Match, see_match
from api.outputs import AgentShown, Page
from api.routers import router_of
from pipeline.agents import agents
from pipeline.agents.agents import AgentCard
from pipeline.reading.agents import Agent, list_agents, read_agent
from pipeline.shared.clock import business_clock

router = router_of("agents", "/businesses/{business_id:id}/agents")

Reads = Annotated[AskedOfBusiness, in_business("agents:read")]
Writes = Annotated[AskedOfBusiness, in_business("agents:write")]

Settings = Annotated[dict[str, Any], Field(max_length=200)]


class NewAgent(Input):
    """An agent: what it is like, how it sounds, and what it is to do."""

    name: Name
    language: Language = "en"
    personality: Text = ""
    voice: Text = ""
    prompt: Text = ""
    greeting: Text = ""
    settings: Settings = Field(default_factory=dict)


class ChangedAgent(Input):
    """What of an agent may be changed; what is not named stays."""

    name: Name | None = None
    language: Language | None = None
    personality: Text | None = None
    voice: Text | None = None
    prompt: Text | None = None
    greeting: Text | None = None
    settings: Settings | None = None


@router.get("", response_model=Page[AgentShown])
def list_all(
    asked: Reads,
    q: Q = "",
    ended: Annotated[bool, Query(description="Those too that have ended.")] = False,
    limit: Limit = USUAL_LIMIT,
    cursor: Cursor = None,
) -> Response:
    """Its agents, the newest first."""
    return page(
        lambda before, rows: list_agents(
            asked.connection, asked.business_id, q=q, ended=ended, before=before, limit=rows
        ),
        lambda agent: agent.id,
        lambda agent: agent,
        limit=limit,
        cursor=cursor,
        filters=[asked.business_id, q, ended],
    )


@router.post("", status_code=201, response_model=AgentShown)
def add(body: NewAgent, asked: Writes) -> Response:
    """A new agent, if the plan allows another one."""
    asked.see_living()
    card = AgentCard(**body.model_dump())
    agent_id = agents.add_agent(asked.connection, asked.business_id, card, business_clock().now())
    asked.note("agent add", f"agent:{agent_id}")
    return Json(one_agent(asked, agent_id), 201, {"Location": f"/v1/businesses/{asked.business_id}/agents/{agent_id}"})


@router.get("/{agent_id:id}", response_model=AgentShown)
def show(agent_id: Id, asked: Reads) -> Response:
    """One agent."""
    return Json(one_agent(asked, agent_id))


@router.patch("/{agent_id:id}", response_model=AgentShown)
def change(agent_id: Id, body: ChangedAgent, asked: Writes, match: Match = None) -> Response:
    """Change what an agent is. ``If-Match`` says which state you have read."""
    asked.see_living()
    agent = one_agent(asked, agent_id)
    see_match(match, Json(agent))
    given = body.model_dump(exclude_none=True)
    present = {name: getattr(agent, name) for name in AgentCard.__dataclass_fields__}
    agents.change_agent(asked.connection, agent_id, AgentCard(**present | given))
    asked.note("agent change", f"agent:{agent_id}", fields=sorted(given))
    return Json(one_agent(asked, agent_id))


@router.delete("/{agent_id:id}", response_model=AgentShown)
def end(agent_id: Id, asked: Writes) -> Response:
    """End an agent: it answers no number any more. What it knew and said stays to be read."""
    one_agent(asked, agent_id)
    if agents.end_agent(asked.connection, asked.business_id, agent_id, business_clock().now()):
        asked.note("agent end", f"agent:{agent_id}", fields=["ended_at"])
    return Json(one_agent(asked, agent_id))


def one_agent(asked: AskedOfBusiness, agent_id: int) -> Agent:
    """The agent with this id, if it is of this business. Raises Problem (404)."""
    return asked.own(read_agent(asked.connection, agent_id), "this agent")
