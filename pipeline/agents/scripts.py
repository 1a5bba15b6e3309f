"""What an agent says, by version: a change makes a new one, so that it stays known what a caller has heard."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection

from pipeline.agents.agents import AgentError
from pipeline.agents.call_flow import check_flow
from pipeline.agents.documents import stored_document

#: Scripts of one agent, and bytes of one version as JSON: the phone platform reads all of it at once.
MOST_SCRIPTS: Final = 10
LARGEST_FLOW: Final = 100_000

_HOLD = "select business_id, ended_at from ai_agents where id = %s for no key update"
_NEWEST = """
select max(version), max(version) filter (where ended_at is null) from agent_scripts where agent_id = %s and name = %s
"""
_COUNT = "select count(distinct name) from agent_scripts where agent_id = %s and ended_at is null"
_ADD = """
insert into agent_scripts (agent_id, business_id, name, version, flow)
values (%(agent_id)s, %(business_id)s, %(name)s, %(version)s, %(flow)s)
"""
_END = (
    "update agent_scripts set ended_at = now() where agent_id = %(agent_id)s and name = %(name)s and ended_at is null"
)


def add_script(connection: Connection, agent_id: int, name: str, flow: Mapping[str, Any]) -> int:
    """A new script; returns its version: the first one, or the next of one that had ended.

    Raises AgentError, FlowError and DocumentError.
    """
    return _save(connection, agent_id, name, flow, new=True)


def change_script(connection: Connection, agent_id: int, name: str, flow: Mapping[str, Any]) -> int:
    """A new version of a script; returns its number. Raises AgentError, FlowError and DocumentError."""
    return _save(connection, agent_id, name, flow, new=False)


def end_script(connection: Connection, agent_id: int, name: str) -> bool:
    """Say nothing by it any more; what it was stays. False where it had ended."""
    return connection.exec_driver_sql(_END, {"agent_id": agent_id, "name": name}).rowcount > 0


def _save(connection: Connection, agent_id: int, name: str, flow: Mapping[str, Any], *, new: bool) -> int:
    content = stored_document("the script", flow, LARGEST_FLOW)
    check_flow(flow)
    agent = connection.exec_driver_sql(_HOLD, (agent_id,)).one_or_none()
    if agent is None or agent.ended_at is not None:  # a tenant may hold none that has ended
        raise AgentError("this agent has ended")
    last, present = connection.exec_driver_sql(_NEWEST, (agent_id, name)).one()
    if not new and present is None:
        raise AgentError(f"this agent has no script {name}")
    if new and present is not None:
        raise AgentError(f"this agent has a script {name} already: change that one")
    if new and connection.exec_driver_sql(_COUNT, (agent_id,)).scalar_one() >= MOST_SCRIPTS:
        raise AgentError(f"an agent has at most {MOST_SCRIPTS} scripts: end one first")
    version = int(last or 0) + 1
    about = {"agent_id": agent_id, "business_id": agent.business_id, "name": name, "version": version}
    connection.exec_driver_sql(_ADD, about | {"flow": content})
    return version
