"""billing mode

In which of Stripe's billing modes a subscription is: in the classic one a change of price gives its usage away. Those
that live are fetched once for it. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_FETCH_LIVING = """
insert into refreshes (kind, object_id, reason, due_at)
select 'subscription', stripe_id, 'billing-mode', now() from subscriptions where ended_at is null
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "subscriptions",
        sa.Column("billing_mode", sa.Text(), nullable=True, comment="classic or flexible; null: not told yet"),
    )
    op.execute(_FETCH_LIVING)


def downgrade() -> None:
    op.drop_column("subscriptions", "billing_mode")
