"""resent events

The receiver notes that a dead event was sent again; a worker has it applied again. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "resent_events",
        sa.Column(
            "event_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="no foreign key: its check would wait for who works on the event",
        ),
        sa.Column("resent_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("resent_events_pkey")),
        comment="dead events that their sender has sent again since: a wish to have them applied, until one looks",
    )


def downgrade() -> None:
    op.drop_table("resent_events")
