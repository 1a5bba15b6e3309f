"""calls name their agent

Which agent answers a number is kept like who holds it, so that a call names the one that answered when it began. Calls
of a business are listed by when they began. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None
oldest_code = "0022"

_INDEX = "calls_business_id_started_at_idx"


def upgrade() -> None:
    # First of all, so that whoever begins again begins here.
    with op.get_context().autocommit_block():
        op.drop_index(_INDEX, table_name="calls", postgresql_concurrently=True, if_exists=True)
        op.create_index(_INDEX, "calls", ["business_id", sa.text("started_at desc")], postgresql_concurrently=True)
    op.add_column("phone_numbers", sa.Column("label", sa.Text(), server_default=sa.text("''"), nullable=False))
    for table, comment in {
        "phone_number_assignments": "who answered it meanwhile",
        "calls": "who answered: the agent of the number when the call began",
    }.items():
        op.add_column(table, sa.Column("agent_id", sa.BigInteger(), nullable=True, comment=comment))
        op.execute(
            f"alter table {table} add constraint {table}_agent_id_fkey foreign key (agent_id, business_id)"
            " references ai_agents (id, business_id) not valid"
        )
    op.execute(
        "update phone_number_assignments a set agent_id = n.agent_id from phone_numbers n"
        " where n.number = a.number and n.business_id = a.business_id and upper(a.held) is null"
    )
    for table in ("phone_number_assignments", "calls"):  # it reads the rows, and stops nobody
        op.execute(f"alter table {table} validate constraint {table}_agent_id_fkey")
    op.execute(
        "alter table calls add constraint calls_agent_check"
        " check (agent_id is null or business_id is not null) not valid"
    )
    op.execute("alter table calls validate constraint calls_agent_check")


def downgrade() -> None:
    op.drop_constraint(op.f("calls_agent_check"), "calls", type_="check")
    for table in ("calls", "phone_number_assignments"):
        op.drop_constraint(op.f(f"{table}_agent_id_fkey"), table, type_="foreignkey")
        op.drop_column(table, "agent_id")
    op.drop_column("phone_numbers", "label")
    op.drop_index(_INDEX, table_name="calls")
