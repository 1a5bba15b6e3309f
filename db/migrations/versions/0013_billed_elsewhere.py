"""billed elsewhere

Businesses that are invoiced by hand, until when and why; when a subscription's minutes item was removed. Deploy: before
the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "businesses",
        sa.Column(
            "billed_elsewhere_until",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="until then it is invoiced by hand, and keeps plan and service without a subscription",
        ),
    )
    op.add_column(
        "businesses",
        sa.Column("billed_elsewhere_reason", sa.Text(), nullable=True, comment="who has agreed to what with it"),
    )
    op.add_column(
        "subscriptions",
        sa.Column(
            "minutes_ended_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="when its minutes item was removed, while it lives on",
        ),
    )


def downgrade() -> None:
    op.drop_column("subscriptions", "minutes_ended_at")
    op.drop_column("businesses", "billed_elsewhere_reason")
    op.drop_column("businesses", "billed_elsewhere_until")
