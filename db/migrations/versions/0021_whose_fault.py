"""whose fault

A worker's death is told apart from a restart of the server, and counted where an event was alone; a drain that
everything fails in stops until one event passes. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "claims",
        sa.Column(
            "server_started_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("pg_postmaster_start_time()"),
            nullable=False,
            comment="by which server it was written: one that has restarted since took the worker's locks itself",
        ),
    )
    op.add_column(
        "webhook_events",
        sa.Column(
            "lone_deaths",
            sa.SmallInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="of workers that had nothing but this row",
        ),
    )
    op.create_table(
        "halts",
        sa.Column(
            "work",
            sa.Text(),
            nullable=False,
            comment="that has stopped: drain, close, close-looks, pushes, service, plans",
        ),
        sa.Column("error", sa.Text(), nullable=False, comment="in which everything failed, without its values"),
        sa.Column("since", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "next_try_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="when one more is tried: if it passes, the row goes",
        ),
        sa.PrimaryKeyConstraint("work", name=op.f("halts_pkey")),
        comment="work that has stopped since everything failed alike; it goes on by itself",
    )


def downgrade() -> None:
    op.drop_table("halts")
    op.drop_column("webhook_events", "lone_deaths")
    op.drop_column("claims", "server_started_at")
