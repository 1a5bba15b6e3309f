"""What the phone platform needs to answer a call: who answers this number and how, and whether it may."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.businesses.service_rules import status_at

_NUMBER = """
select n.number, n.business_id, b.limited_until, b.grace_until, b.suspended_at, b.ended_at, a.id as agent_id, a.name,
       a.language, a.personality, a.voice, a.prompt, a.greeting, a.settings
from phone_numbers n
join businesses b on b.id = n.business_id
left join ai_agents a on a.id = n.agent_id and a.ended_at is null
where n.number = %s
"""
_KNOWLEDGE = "select question, answer from agent_knowledge where agent_id = %s order by id"
_SCRIPTS = """
select distinct on (name) name, version, flow from agent_scripts
where agent_id = %s and ended_at is null order by name, version desc
"""


@dataclass(frozen=True, slots=True)
class RuntimeAgent:
    """How an agent answers: what it is, what it knows (question, answer), and what it says."""

    id: int
    name: str
    language: str
    personality: str
    voice: str
    prompt: str
    greeting: str
    settings: Mapping[str, Any]
    knowledge: Sequence[Mapping[str, str]]
    scripts: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RuntimeNumber:
    """Who answers a number; without an agent nobody does. ``service_status`` as in service_rules, or ended."""

    number: str
    business_id: int
    service_status: str
    agent: RuntimeAgent | None


def read_runtime(connection: Connection, dialled: str, now: datetime) -> RuntimeNumber | None:
    """Who answers this number at ``now`` (business time); None where no business holds it."""
    row = connection.exec_driver_sql(_NUMBER, (dialled,)).one_or_none()
    if row is None:
        return None
    status = status_at(
        limited_until=row.limited_until, grace_until=row.grace_until, suspended_at=row.suspended_at, now=now
    )
    agent = None
    if row.agent_id is not None:
        knowledge = connection.exec_driver_sql(_KNOWLEDGE, (row.agent_id,))
        scripts = connection.exec_driver_sql(_SCRIPTS, (row.agent_id,))
        agent = RuntimeAgent(
            row.agent_id,
            row.name,
            row.language,
            row.personality,
            row.voice,
            row.prompt,
            row.greeting,
            row.settings,
            [dict(each) for each in knowledge.mappings()],
            [dict(each) for each in scripts.mappings()],
        )
    return RuntimeNumber(row.number, row.business_id, "ended" if row.ended_at is not None else status, agent)
