"""What an agent knows: questions and answers."""

from typing import Annotated

from starlette.responses import Response

from api.answers import USUAL_LIMIT, Cursor, Json, Limit, page
from api.asking import AskedOfBusiness, in_business
from api.inputs import Id, Input, LongText, Q, ShortText
from api.outputs import KnowledgeShown, Page
from api.problems import missing
from api.routers import router_of
from api.routes.agents import one_agent
from pipeline.agents import knowledge
from pipeline.reading.agents import KnownAnswer, list_knowledge, read_knowledge

router = router_of("agents", "/businesses/{business_id:id}/agents/{agent_id:id}/knowledge")

Reads = Annotated[AskedOfBusiness, in_business("agents:read")]
Writes = Annotated[AskedOfBusiness, in_business("agents:write")]


class NewKnowledge(Input):
    """A question that callers ask, and what the agent answers."""

    question: ShortText
    answer: LongText


class ChangedKnowledge(Input):
    """What of an entry may be changed; what is not named stays."""

    question: ShortText | None = None
    answer: LongText | None = None


@router.get("", response_model=Page[KnowledgeShown])
def list_all(agent_id: Id, asked: Reads, q: Q = "", limit: Limit = USUAL_LIMIT, cursor: Cursor = None) -> Response:
    """What an agent knows, the newest first."""
    one_agent(asked, agent_id)
    return page(
        lambda before, rows: list_knowledge(asked.connection, agent_id, q=q, before=before, limit=rows),
        lambda entry: entry.id,
        lambda entry: entry,
        limit=limit,
        cursor=cursor,
        filters=[agent_id, q],
    )


@router.post("", status_code=201, response_model=KnowledgeShown)
def add(agent_id: Id, body: NewKnowledge, asked: Writes) -> Response:
    """Have an agent know one more answer."""
    asked.see_living()
    one_agent(asked, agent_id)
    entry_id = knowledge.add_knowledge(asked.connection, agent_id, body.question, body.answer)
    asked.note("knowledge add", f"knowledge:{entry_id}", detail={"agent": agent_id})
    return Json(_one(asked, agent_id, entry_id), 201)


@router.get("/{entry_id:id}", response_model=KnowledgeShown)
def show(agent_id: Id, entry_id: Id, asked: Reads) -> Response:
    """One entry."""
    return Json(_one(asked, agent_id, entry_id))


@router.patch("/{entry_id:id}", response_model=KnowledgeShown)
def change(agent_id: Id, entry_id: Id, body: ChangedKnowledge, asked: Writes) -> Response:
    """Change question or answer."""
    asked.see_living()
    entry, given = _one(asked, agent_id, entry_id), body.model_dump(exclude_none=True)
    present = {"question": entry.question, "answer": entry.answer} | given
    knowledge.change_knowledge(asked.connection, entry_id, **present)
    asked.note("knowledge change", f"knowledge:{entry_id}", fields=sorted(given), detail={"agent": agent_id})
    return Json(_one(asked, agent_id, entry_id))


@router.delete("/{entry_id:id}", status_code=204)
def forget(agent_id: Id, entry_id: Id, asked: Writes) -> Response:
    """Forget it for good, also of an agent that has ended: nobody has to keep what they said."""
    _one(asked, agent_id, entry_id)
    knowledge.forget_knowledge(asked.connection, entry_id)
    asked.note("knowledge forget", f"knowledge:{entry_id}", detail={"agent": agent_id})
    return Response(status_code=204)


def _one(asked: AskedOfBusiness, agent_id: int, entry_id: int) -> KnownAnswer:
    entry = asked.own(read_knowledge(asked.connection, entry_id), "this entry")
    if entry.agent_id != agent_id:
        raise missing("this entry")
    return entry
