"""audit entries

Who decided what, when and why, added only. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None
oldest_code = "0022"

_STAYS = """
create function audit_entry_stays() returns trigger language plpgsql as $$
begin
  raise exception 'an audit entry stays as it is: add another one';
end
$$
"""


def upgrade() -> None:
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False, comment="user@host of a command, or pipeline, or stripe"),
        sa.Column("what", sa.Text(), nullable=False, comment="the command, or the decision in a few words"),
        sa.Column(
            "subject", sa.Text(), nullable=False, comment="what it is about, as business:12, plan:starter, record:7"
        ),
        sa.Column(
            "business_id",
            sa.BigInteger(),
            nullable=True,
            comment="whose it is; no foreign key, since an entry outlives everything",
        ),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "fields",
            postgresql.ARRAY(sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="names of what was changed, without values",
        ),
        sa.Column(
            "detail",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'"),
            nullable=False,
            comment="ids and figures, nothing personal",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("audit_entries_pkey")),
        comment="who decided what, when and why; rows are added and never changed, a trigger sees to it",
    )
    op.create_index("audit_entries_business_id_idx", "audit_entries", ["business_id", "id"])
    op.execute(_STAYS)
    op.execute(
        "create trigger audit_entry_stays before update or delete on audit_entries"
        " for each row execute function audit_entry_stays()"
    )


def downgrade() -> None:
    op.drop_table("audit_entries")
    op.execute("drop function audit_entry_stays()")
