"""The AI agents that answer, what they know and what they say."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from db.base import Base, Document, Id, MachineInstant


class AiAgent(Base):
    __tablename__ = "ai_agents"
    __table_args__ = (
        UniqueConstraint("id", "business_id"),
        {"comment": "an agent that answers a business's calls; counted against the plan until it ends"},
    )

    id: Mapped[Id]
    business_id: Mapped[int] = mapped_column(ForeignKey("businesses.id"), index=True)
    name: Mapped[str]
    language: Mapped[str] = mapped_column(server_default=text("'en'"))
    created_at: Mapped[MachineInstant]
    ended_at: Mapped[datetime | None]
    personality: Mapped[str] = mapped_column(server_default=text("''"))
    voice: Mapped[str] = mapped_column(server_default=text("''"))
    prompt: Mapped[str] = mapped_column(server_default=text("''"))
    greeting: Mapped[str] = mapped_column(server_default=text("''"))
    settings: Mapped[Document] = mapped_column(
        server_default=text("'{}'"), comment="what the phone platform wants to know beside"
    )


def agent_of_the_same_business() -> ForeignKeyConstraint:
    """A key to an agent with its business: the check of a foreign key passes the wall between tenants by."""
    return ForeignKeyConstraint(("agent_id", "business_id"), ("ai_agents.id", "ai_agents.business_id"))


class AgentKnowledge(Base):
    __tablename__ = "agent_knowledge"
    __table_args__ = (
        agent_of_the_same_business(),
        {"comment": "what an agent knows about its business"},
    )

    id: Mapped[Id]
    agent_id: Mapped[int] = mapped_column(BigInteger, index=True)
    business_id: Mapped[int] = mapped_column(BigInteger, index=True)
    question: Mapped[str]
    answer: Mapped[str]
    created_at: Mapped[MachineInstant]


class AgentScript(Base):
    __tablename__ = "agent_scripts"
    __table_args__ = (
        agent_of_the_same_business(),
        UniqueConstraint("agent_id", "name", "version"),
        CheckConstraint("version > 0", name="version"),
        {"comment": "what an agent says, by version"},
    )

    id: Mapped[Id]
    agent_id: Mapped[int] = mapped_column(BigInteger)
    business_id: Mapped[int] = mapped_column(BigInteger, index=True)
    name: Mapped[str]
    version: Mapped[int] = mapped_column(server_default=text("1"))
    flow: Mapped[Document] = mapped_column(
        comment="a call flow: the first of its steps is said first (pipeline/agents/call_flow.py)"
    )
    created_at: Mapped[MachineInstant]
    ended_at: Mapped[datetime | None] = mapped_column(comment="nothing is said by it from then on")
