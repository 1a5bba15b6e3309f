"""plans as data

Plans can be retired, and a record keeps how many minutes its plan included when it was made: new figures hold from the
next period. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_AS_THE_PLANS = """
update usage_records r set plan_minutes = p.included_minutes from subscription_plans p where p.id = r.plan_id
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "subscription_plans",
        sa.Column(
            "retired_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="not for sale since; who has it keeps it",
        ),
    )
    op.add_column(
        "usage_records",
        sa.Column("plan_minutes", sa.Integer(), nullable=True, comment="that its plan included when it was made"),
    )
    op.execute(_AS_THE_PLANS)


def downgrade() -> None:
    op.drop_column("usage_records", "plan_minutes")
    op.drop_column("subscription_plans", "retired_at")
