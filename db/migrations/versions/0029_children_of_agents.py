"""children of agents

What an agent knows and says carries its business, in one key with the agent: the checks of foreign keys pass
row-level security by. A number's agent is one of its own business. Whether somebody has a second factor is a column
of its own, so that who asks need not read the secret. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None
oldest_code = "0022"

_CHILDREN = ("agent_knowledge", "agent_scripts")


def upgrade() -> None:
    op.create_unique_constraint(op.f("ai_agents_id_business_id_key"), "ai_agents", ["id", "business_id"])
    for table in _CHILDREN:
        op.add_column(table, sa.Column("business_id", sa.BigInteger(), nullable=True))
        op.execute(f"update {table} c set business_id = a.business_id from ai_agents a where a.id = c.agent_id")  # noqa: S608 - constants
        op.alter_column(table, "business_id", nullable=False)
        op.create_index(op.f(f"{table}_business_id_idx"), table, ["business_id"], unique=False)
        _key_with_business(table)
    op.execute("update phone_numbers set agent_id = null where business_id is null")
    op.create_check_constraint(
        op.f("phone_numbers_agent_check"), "phone_numbers", "agent_id is null or business_id is not null"
    )
    _key_with_business("phone_numbers")
    op.add_column(
        "users",
        sa.Column(
            "second_factor",
            sa.Boolean(),
            sa.Computed("totp_secret is not null", persisted=True),
            nullable=False,
        ),
    )


def _key_with_business(table: str) -> None:
    name = op.f(f"{table}_agent_id_fkey")
    op.drop_constraint(name, table, type_="foreignkey")
    op.create_foreign_key(name, table, "ai_agents", ["agent_id", "business_id"], ["id", "business_id"])


def downgrade() -> None:
    op.drop_column("users", "second_factor")
    op.drop_constraint(op.f("phone_numbers_agent_check"), "phone_numbers", type_="check")
    for table in ("phone_numbers", *_CHILDREN):
        name = op.f(f"{table}_agent_id_fkey")
        op.drop_constraint(name, table, type_="foreignkey")
        op.create_foreign_key(name, table, "ai_agents", ["agent_id"], ["id"])
    for table in _CHILDREN:
        op.drop_column(table, "business_id")
    op.drop_constraint(op.f("ai_agents_id_business_id_key"), "ai_agents", type_="unique")
