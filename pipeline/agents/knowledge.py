"""What an agent knows: questions that callers ask, and what it answers."""

from typing import Final

from sqlalchemy import Connection

from pipeline.agents.agents import AgentError

#: Entries of one agent: the phone platform reads all of them at once.
MOST_ENTRIES: Final = 300

_ADD = """
insert into agent_knowledge (agent_id, business_id, question, answer)
select id, business_id, %(question)s, %(answer)s from ai_agents where id = %(agent_id)s and ended_at is null
returning id
"""
_COUNT = "select count(*) from agent_knowledge where agent_id = %s"
_CHANGE = """
update agent_knowledge k set question = %(question)s, answer = %(answer)s
from ai_agents a where k.id = %(id)s and a.id = k.agent_id and a.ended_at is null
"""
_FORGET = "delete from agent_knowledge where id = %s"


def add_knowledge(connection: Connection, agent_id: int, question: str, answer: str) -> int:
    """Add an entry; returns its id. Raises AgentError."""
    if connection.exec_driver_sql(_COUNT, (agent_id,)).scalar_one() >= MOST_ENTRIES:
        raise AgentError(f"an agent knows at most {MOST_ENTRIES:,} answers: forget some first")
    about = {"agent_id": agent_id, "question": question, "answer": answer}
    entry_id = connection.exec_driver_sql(_ADD, about).scalar()
    if entry_id is None:
        raise AgentError("this agent has ended")
    return int(entry_id)


def change_knowledge(connection: Connection, entry_id: int, question: str, answer: str) -> None:
    """Have an entry be as this says. Raises AgentError."""
    about = {"id": entry_id, "question": question, "answer": answer}
    if not connection.exec_driver_sql(_CHANGE, about).rowcount:
        raise AgentError("this agent has ended")


def forget_knowledge(connection: Connection, entry_id: int) -> None:
    """Delete an entry for good."""
    connection.exec_driver_sql(_FORGET, (entry_id,))
