"""terms

What a usage record was made with stays its own, whatever becomes of the plan: the increment of its calls, and what is
done with minutes that come too late. Deploy: before the code; what the code before it makes meanwhile has the defaults,
which are the seeded plans'.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_AS_THE_PLANS = """
update usage_records r
set increment_seconds = p.increment_seconds, late_policy = p.late_policy, late_limit_minutes = p.late_limit_minutes
from subscription_plans p
where p.id = r.plan_id
  and (r.increment_seconds, r.late_policy, r.late_limit_minutes)
      <> (p.increment_seconds, p.late_policy, p.late_limit_minutes)
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "usage_records",
        sa.Column(
            "increment_seconds",
            sa.Integer(),
            server_default=sa.text("60"),
            nullable=False,
            comment="of the plan when it was made: its calls are rounded up to it",
        ),
    )
    op.add_column(
        "usage_records",
        sa.Column(
            "late_policy",
            sa.Text(),
            server_default=sa.text("'carry'"),
            nullable=False,
            comment="of the plan when it was made",
        ),
    )
    op.add_column(
        "usage_records",
        sa.Column(
            "late_limit_minutes",
            sa.Integer(),
            server_default=sa.text("3000"),
            nullable=False,
            comment="of the plan when it was made",
        ),
    )
    op.create_check_constraint(
        op.f("usage_records_increment_seconds_check"), "usage_records", "increment_seconds between 1 and 3600"
    )
    op.create_check_constraint(
        op.f("usage_records_late_policy_check"), "usage_records", "late_policy in ('carry', 'write-off')"
    )
    op.execute(_AS_THE_PLANS)


def downgrade() -> None:
    for name in ("late_limit_minutes", "late_policy", "increment_seconds"):
        op.drop_column("usage_records", name)
