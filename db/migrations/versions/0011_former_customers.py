"""former customers

Which customers of Stripe's a business had before its present one: who comes back with a new customer keeps the old one's
events. The prices that subscriptions have are fetched once more, for what fixed ones cost. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_FETCH_FIXED = """
insert into refreshes (kind, object_id, reason, due_at)
select 'price', id, 'tiers-unknown', now() from stripe_prices where tariffs is null
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.create_table(
        "former_customers",
        sa.Column("stripe_customer_id", sa.Text(), nullable=False, comment="cus_…"),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False, comment="when another one took its place"),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name="former_customers_business_id_fkey"),
        sa.PrimaryKeyConstraint("stripe_customer_id", name="former_customers_pkey"),
        comment="customers that businesses had before the present one: what Stripe tells of them is still theirs",
    )
    op.create_index("former_customers_business_id_idx", "former_customers", ["business_id"])
    op.add_column(
        "stripe_customers",
        sa.Column(
            "balance",
            sa.BigInteger(),
            server_default=sa.text("0"),
            nullable=False,
            comment="in its currency's smallest unit; negative: a credit, which lowers its next invoice",
        ),
    )
    op.add_column("stripe_customers", sa.Column("currency", sa.Text(), nullable=True))
    op.execute(_FETCH_FIXED)


def downgrade() -> None:
    op.drop_column("stripe_customers", "currency")
    op.drop_column("stripe_customers", "balance")
    op.drop_table("former_customers")
