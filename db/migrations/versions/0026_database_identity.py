"""database identity

Which database this is, so that one that was restored from a dump is known for it. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    op.create_table(
        "database_identity",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "identity",
            sa.Text(),
            nullable=False,
            comment="PostgreSQL's own number of its cluster, and of meter_pushes in it: a restored dump has others",
        ),
        sa.CheckConstraint("one", name=op.f("database_identity_one_check")),
        sa.PrimaryKeyConstraint("one", name=op.f("database_identity_pkey")),
        comment="one row: which database these rows were written in (pipeline/shared/restores.py)",
    )
    op.execute(
        "insert into database_identity (identity)"
        " select system_identifier || ':' || 'meter_pushes'::regclass::oid from pg_control_system()"
    )
    op.alter_column(
        "halts",
        "work",
        existing_type=sa.Text(),
        comment="drain, close, close-looks, pushes, service, plans; restored: all but the drain, and sending",
    )


def downgrade() -> None:
    op.drop_table("database_identity")
