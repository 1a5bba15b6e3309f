"""schema serves

Tables say which code they serve, and code looks at it before it works. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    made = op.create_table(
        "schema_serves",
        sa.Column("one", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column(
            "oldest_code",
            sa.Text(),
            nullable=False,
            comment="the newest migration that the oldest such code comes with",
        ),
        sa.CheckConstraint("one", name=op.f("schema_serves_one_check")),
        sa.PrimaryKeyConstraint("one", name=op.f("schema_serves_pkey")),
        comment="one row: which code these tables serve; written by each migration (db/schema_version.py)",
    )
    op.bulk_insert(made, [{"oldest_code": oldest_code}])


def downgrade() -> None:
    op.drop_table("schema_serves")
