"""explain

An index that finds calls that no record counts, by when they ended. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "calls_uncounted_idx",
        "calls",
        ["business_id", "ended_at"],
        postgresql_where=sa.text("usage_record_id is null and ended_at is not null"),
    )


def downgrade() -> None:
    op.drop_index(
        "calls_uncounted_idx",
        table_name="calls",
        postgresql_where=sa.text("usage_record_id is null and ended_at is not null"),
    )
