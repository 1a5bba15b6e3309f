"""invoice money

What an invoice charges, line by line, beside its minutes: number, total, tax, discount. Invoices are fetched with their
subscriptions; those of living ones once more. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_FETCH_ALL = """
insert into refreshes (kind, object_id, reason, due_at)
select 'invoice', id, 'invoice-money', now() from stripe_invoices where status <> 'void'
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    for name, comment in (
        ("total_cents", "of its lines, less discounts, with taxes; null: not told yet"),
        ("tax_cents", "that is added to its lines; what they include already is not in it"),
        ("discount_cents", "that is taken from its lines"),
    ):
        op.add_column("stripe_invoices", sa.Column(name, sa.BigInteger(), nullable=True, comment=comment))
    op.add_column("stripe_invoices", sa.Column("number", sa.Text(), nullable=True, comment="as customers know it"))
    op.add_column(
        "stripe_invoices",
        sa.Column(
            "charges",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="its lines: for what, price, quantity, amount, whether a proration; the first 250",
        ),
    )
    op.execute(_FETCH_ALL)


def downgrade() -> None:
    for name in ("charges", "number", "discount_cents", "tax_cents", "total_cents"):
        op.drop_column("stripe_invoices", name)
