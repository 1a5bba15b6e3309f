"""told amount

Minutes that nobody was billed for, and that a person has carried, are worth what that person was told. Deploy: before
the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "usage_adjustments",
        sa.Column(
            "told_amount",
            sa.BigInteger(),
            nullable=True,
            comment="in the currency's smallest unit: what a person was told that it is worth, who had it carried;"
            " null: by the tiers of its own period",
        ),
    )


def downgrade() -> None:
    op.drop_column("usage_adjustments", "told_amount")
