"""What an agent says: call flows, each change of which is a new version."""

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import Field
from starlette.responses import Response

from api.answers import Cursor, Json, page
from api.asking import AskedOfBusiness, in_business
from api.inputs import Id, Input, Slug
from api.matching import Match, see_match
from api.outputs import Page, ScriptShown
from api.problems import Problem
from api.routers import router_of
from api.routes.agents import one_agent
from pipeline.agents import scripts
from pipeline.reading.agents import ScriptVersion, present_scripts, script_versions

router = router_of("agents", "/businesses/{business_id:id}/agents/{agent_id:id}/scripts")

Reads = Annotated[AskedOfBusiness, in_business("agents:read")]
Writes = Annotated[AskedOfBusiness, in_business("agents:write")]
ScriptName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]

#: Each holds a whole flow.
FewVersions = Annotated[int, Query(ge=1, le=20, description="Rows of a page.")]

_EXAMPLE = {"steps": [{"id": "greeting", "say": "Corner Bakery, good morning. What can I do for you?"}]}
Flow = Annotated[dict[str, Any], Field(max_length=10, examples=[_EXAMPLE])]


class NewScript(Input):
    """A call flow, under a name."""

    name: Slug
    flow: Flow


class ChangedScript(Input):
    """A call flow, in the place of the one before."""

    flow: Flow


@router.get("", response_model=Page[ScriptShown])
def list_all(agent_id: Id, asked: Reads) -> Response:
    """What an agent says now: the newest version of each script, by name."""
    one_agent(asked, agent_id)
    return Json({"data": present_scripts(asked.connection, agent_id), "next_cursor": None})


@router.post("", status_code=201, response_model=ScriptShown)
def add(agent_id: Id, body: NewScript, asked: Writes) -> Response:
    """A new script."""
    asked.see_living()
    one_agent(asked, agent_id)
    scripts.add_script(asked.connection, agent_id, body.name, body.flow)
    return _saved(asked, agent_id, body.name, 201)


@router.get("/{script_name}", response_model=ScriptShown)
def show(agent_id: Id, script_name: ScriptName, asked: Reads) -> Response:
    """The newest version of a script."""
    return Json(_one(asked, agent_id, script_name))


@router.get("/{script_name}/versions", response_model=Page[ScriptShown])
def list_versions(
    agent_id: Id, script_name: ScriptName, asked: Reads, limit: FewVersions = 10, cursor: Cursor = None
) -> Response:
    """All versions of a script, the newest first; those too of one that has ended."""
    one_agent(asked, agent_id)
    return page(
        lambda before, rows: script_versions(asked.connection, agent_id, script_name, before=before, limit=rows),
        lambda script: script.version,
        lambda script: script,
        limit=limit,
        cursor=cursor,
        filters=[agent_id, script_name],
    )


@router.put("/{script_name}", response_model=ScriptShown)
def change(agent_id: Id, script_name: ScriptName, body: ChangedScript, asked: Writes, match: Match = None) -> Response:
    """Say something else: a new version. ``If-Match`` says which state you have read."""
    asked.see_living()
    see_match(match, Json(_one(asked, agent_id, script_name)))
    scripts.change_script(asked.connection, agent_id, script_name, body.flow)
    return _saved(asked, agent_id, script_name, 200)


@router.delete("/{script_name}", status_code=204)
def end(agent_id: Id, script_name: ScriptName, asked: Writes) -> Response:
    """Say nothing by it any more; its versions stay to be read, since callers have heard them."""
    if one_agent(asked, agent_id).ended_at is not None:
        raise Problem(409, "conflict", "this agent has ended: what it said stays to be read")
    _one(asked, agent_id, script_name)
    scripts.end_script(asked.connection, agent_id, script_name)
    asked.note("script end", f"agent:{agent_id}", fields=["ended_at"], detail={"script": script_name})
    return Response(status_code=204)


def _saved(asked: AskedOfBusiness, agent_id: int, name: str, status: int) -> Json:
    script = _one(asked, agent_id, name)
    detail = {"script": name, "version": script.version}
    asked.note("script save", f"agent:{agent_id}", fields=["flow"], detail=detail)
    return Json(script, status)


def _one(asked: AskedOfBusiness, agent_id: int, name: str) -> ScriptVersion:
    one_agent(asked, agent_id)
    found = next((each for each in present_scripts(asked.connection, agent_id) if each.name == name), None)
    return asked.own(found, "this script")
