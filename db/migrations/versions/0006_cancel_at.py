"""cancel_at

When a subscription ends, where somebody has said so: Stripe's customer portal sets an instant, and not
``cancel_at_period_end``. Deploy: before the code; it is filled by the nightly look at all subscriptions.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "subscriptions",
        sa.Column(
            "cancel_at",
            sa.TIMESTAMP(timezone=True),
            comment="when it ends, where somebody has said so: at its period's end, or at an instant (the portal's way)",
        ),
    )


def downgrade() -> None:
    op.drop_column("subscriptions", "cancel_at")
