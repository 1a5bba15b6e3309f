"""The agents of a business: adding one, if the plan allows, changing what it is, and ending it."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection

from pipeline.agents.documents import stored_document
from pipeline.businesses import plan_limits, registration
from pipeline.shared.business_locks import lock_businesses

#: Bytes of an agent's settings as JSON.
LARGEST_SETTINGS: Final = 20_000
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}")

_ADD = """
insert into ai_agents (business_id, name, language, personality, voice, prompt, greeting, settings)
values (%(business_id)s, %(name)s, %(language)s, %(personality)s, %(voice)s, %(prompt)s, %(greeting)s, %(settings)s)
returning id
"""
_CHANGE = """
update ai_agents
set name = %(name)s, language = %(language)s, personality = %(personality)s, voice = %(voice)s, prompt = %(prompt)s,
    greeting = %(greeting)s, settings = %(settings)s
where id = %(id)s and ended_at is null
"""
_END = "update ai_agents set ended_at = %(now)s where id = %(id)s and ended_at is null returning business_id"
_ANSWERED = "select number, label from phone_numbers where agent_id = %s order by number"
_PLAN = "select p.name from businesses b join subscription_plans p on p.id = b.plan_id where b.id = %s"


class AgentError(Exception):
    """What was asked of an agent can't be; the words say why."""


@dataclass(frozen=True, slots=True)
class AgentCard:
    """What an agent is. ``language``: as en or pt-BR; ``settings``: what the phone platform wants to know beside."""

    name: str
    language: str
    personality: str
    voice: str
    prompt: str
    greeting: str
    settings: Mapping[str, Any]


def add_agent(connection: Connection, business_id: int, card: AgentCard, now: datetime) -> int:
    """Add an agent; returns its id. Raises AgentError, also where the plan has room for no other, and DocumentError."""
    lock_businesses(connection, [business_id])
    if not plan_limits.room_for_another(connection, business_id, plan_limits.AlertKind.AGENTS):
        plan = connection.exec_driver_sql(_PLAN, (business_id,)).scalar_one()
        raise AgentError(f"the plan {plan} has room for no other agent: end one, or take a larger plan")
    agent_id = connection.exec_driver_sql(_ADD, {"business_id": business_id, **_checked(card)}).scalar_one()
    plan_limits.check_counts(connection, business_id, now)
    return int(agent_id)


def change_agent(connection: Connection, agent_id: int, card: AgentCard) -> None:
    """Have an agent be as this says. Raises AgentError and DocumentError."""
    if not connection.exec_driver_sql(_CHANGE, {"id": agent_id, **_checked(card)}).rowcount:
        raise AgentError("this agent has ended")


def end_agent(connection: Connection, business_id: int, agent_id: int, now: datetime) -> bool:
    """End an agent: it answers no number any more. False where it had ended."""
    lock_businesses(connection, [business_id])
    if connection.exec_driver_sql(_END, {"id": agent_id, "now": now}).first() is None:
        return False
    for number, label in connection.exec_driver_sql(_ANSWERED, (agent_id,)).all():
        registration.describe_number(connection, business_id, number, None, label, now)
    plan_limits.check_counts(connection, business_id, now)
    return True


def _checked(card: AgentCard) -> dict[str, Any]:
    name = card.name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise AgentError("an agent needs a name of 1 to 200 characters, without line breaks")
    if not _LANGUAGE.fullmatch(card.language):
        raise AgentError(f"{card.language} is no language; write it as en or pt-BR")
    settings = stored_document("an agent's settings", card.settings, LARGEST_SETTINGS)
    return asdict(card) | {"name": name, "settings": settings}
