"""default price

Which price its product shows first, by which one of several of a plan's is chosen. Every mirrored price is fetched once
more, for what the columns of 0009 and this one lack. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_FETCH_ALL = """
insert into refreshes (kind, object_id, reason, due_at)
select 'price', id, 'product-changed', now() from stripe_prices
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "stripe_prices",
        sa.Column(
            "product_default",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="its product's default price",
        ),
    )
    op.execute(_FETCH_ALL)


def downgrade() -> None:
    op.drop_column("stripe_prices", "product_default")
