"""accepted at

When Stripe took a push, by the business clock: what it took in the last moment of a draft may be on no invoice. Deploy:
before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "meter_pushes",
        sa.Column(
            "accepted_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="business clock: Stripe's answer came then; in a draft's last moment it may be on no invoice",
        ),
    )


def downgrade() -> None:
    op.drop_column("meter_pushes", "accepted_at")
