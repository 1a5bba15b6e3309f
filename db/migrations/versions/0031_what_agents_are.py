"""what agents are

Agents have a personality, a voice, a prompt, a greeting and settings; what they know are questions and answers; what they
say is a call flow, by version. Nothing of the code before writes these tables. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    for name in ("personality", "voice", "prompt", "greeting"):
        op.add_column("ai_agents", sa.Column(name, sa.Text(), server_default=sa.text("''"), nullable=False))
    op.add_column(
        "ai_agents",
        sa.Column(
            "settings",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="what the phone platform wants to know beside",
        ),
    )
    op.alter_column("agent_knowledge", "title", new_column_name="question")
    op.alter_column("agent_knowledge", "content", new_column_name="answer")
    op.add_column(
        "agent_scripts",
        sa.Column(
            "flow",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="a call flow: the first of its steps is said first (pipeline/agents/call_flow.py)",
        ),
    )
    op.execute("""
    update agent_scripts set flow = jsonb_build_object('steps', jsonb_build_array(
      jsonb_build_object('id', 'all', 'say', body)))
    """)
    op.alter_column("agent_scripts", "flow", nullable=False)
    op.drop_column("agent_scripts", "body")
    op.add_column(
        "agent_scripts",
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="nothing is said by it from then on"),
    )


def downgrade() -> None:
    op.drop_column("agent_scripts", "ended_at")
    op.add_column("agent_scripts", sa.Column("body", sa.Text(), nullable=True))
    op.execute("update agent_scripts set body = flow::text")
    op.alter_column("agent_scripts", "body", nullable=False)
    op.drop_column("agent_scripts", "flow")
    op.alter_column("agent_knowledge", "answer", new_column_name="content")
    op.alter_column("agent_knowledge", "question", new_column_name="title")
    for name in ("settings", "greeting", "prompt", "voice", "personality"):
        op.drop_column("ai_agents", name)
