"""The agents of a business: what each is, knows and says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.shared.rows import typed_row, typed_rows

_FIELDS = """
a.id, a.business_id, a.name, a.language, a.personality, a.voice, a.prompt, a.greeting, a.settings, a.created_at,
a.ended_at, array(select number from phone_numbers n where n.agent_id = a.id order by 1) as numbers
"""
_LIST = f"""
select {_FIELDS} from ai_agents a
where business_id = %(business_id)s and id < %(before)s and (%(ended)s or ended_at is null)
  and (%(q)s = '' or strpos(lower(name), lower(%(q)s)) > 0)
order by id desc limit %(limit)s
"""  # noqa: S608 - a constant
_ONE = f"select {_FIELDS} from ai_agents a where id = %s"  # noqa: S608 - as above

_KNOWLEDGE = """
select id, business_id, agent_id, question, answer, created_at from agent_knowledge
where agent_id = %(agent_id)s and id < %(before)s
  and (%(q)s = '' or strpos(lower(question || ' ' || answer), lower(%(q)s)) > 0)
order by id desc limit %(limit)s
"""
_ENTRY = "select id, business_id, agent_id, question, answer, created_at from agent_knowledge where id = %s"

_SCRIPT_FIELDS = "id, business_id, agent_id, name, version, flow, created_at, ended_at"
_SCRIPTS = f"""
select distinct on (name) {_SCRIPT_FIELDS} from agent_scripts
where agent_id = %s and ended_at is null order by name, version desc
"""  # noqa: S608 - as above
_VERSIONS = f"""
select {_SCRIPT_FIELDS} from agent_scripts
where agent_id = %(agent_id)s and name = %(name)s and version < %(before)s order by version desc limit %(limit)s
"""  # noqa: S608 - as above


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent. ``numbers``: those that it answers now."""

    id: int
    business_id: int
    name: str
    language: str
    personality: str
    voice: str
    prompt: str
    greeting: str
    settings: Mapping[str, Any]
    created_at: datetime
    ended_at: datetime | None
    numbers: Sequence[str]


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A question that callers ask, and what the agent answers."""

    id: int
    business_id: int
    agent_id: int
    question: str
    answer: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ScriptVersion:
    """What an agent says, as it was from ``created_at`` until a newer version, or ``ended_at``."""

    id: int
    business_id: int
    agent_id: int
    name: str
    version: int
    flow: Mapping[str, Any]
    created_at: datetime
    ended_at: datetime | None


def list_agents(
    connection: Connection, business_id: int, *, q: str = "", ended: bool = False, before: int, limit: int
) -> list[Agent]:
    """The newest first, with ``q`` in their names, those with ids below ``before``; ``ended``: those too."""
    about = {"business_id": business_id, "q": q, "ended": ended, "before": before, "limit": limit}
    return typed_rows(Agent, connection.exec_driver_sql(_LIST, about))


def read_agent(connection: Connection, agent_id: int) -> Agent | None:
    """One agent."""
    return typed_row(Agent, connection.exec_driver_sql(_ONE, (agent_id,)))


def list_knowledge(connection: Connection, agent_id: int, *, q: str = "", before: int, limit: int) -> list[KnownAnswer]:
    """What an agent knows, the newest first, with ``q`` in question or answer, those with ids below ``before``."""
    about = {"agent_id": agent_id, "q": q, "before": before, "limit": limit}
    return typed_rows(KnownAnswer, connection.exec_driver_sql(_KNOWLEDGE, about))


def read_knowledge(connection: Connection, entry_id: int) -> KnownAnswer | None:
    """One entry."""
    return typed_row(KnownAnswer, connection.exec_driver_sql(_ENTRY, (entry_id,)))


def present_scripts(connection: Connection, agent_id: int) -> list[ScriptVersion]:
    """What an agent says now: the newest version of each script that has not ended, by name."""
    return typed_rows(ScriptVersion, connection.exec_driver_sql(_SCRIPTS, (agent_id,)))


def script_versions(
    connection: Connection, agent_id: int, name: str, *, before: int, limit: int
) -> list[ScriptVersion]:
    """The versions of one script, the newest first, those with numbers below ``before``."""
    about = {"agent_id": agent_id, "name": name, "before": before, "limit": limit}
    return typed_rows(ScriptVersion, connection.exec_driver_sql(_VERSIONS, about))
