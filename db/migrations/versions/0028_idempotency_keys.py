"""idempotency keys

What the API has answered to a request that may be sent again. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("actor", sa.Text(), nullable=False, comment="user:7 or key:3"),
        sa.Column("path", sa.Text(), nullable=False, comment="of the request, with the business in it"),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answer", sa.LargeBinary(), nullable=True, comment="null where it held a secret"),
        sa.Column("location", sa.Text(), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("octet_length(body_sha256) = 32", name=op.f("idempotency_keys_body_sha256_check")),
        sa.PrimaryKeyConstraint("actor", "path", "key", name=op.f("idempotency_keys_pkey")),
        comment="requests of the API that may be sent again: what was answered, for a day",
    )
    op.create_index(op.f("idempotency_keys_created_at_idx"), "idempotency_keys", ["created_at"], unique=False)


def downgrade() -> None:
    op.drop_table("idempotency_keys")
