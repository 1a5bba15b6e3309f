"""tariffs

What a price gives and costs, in each of its currencies, and what a usage record was billed by. Deploy: before the code;
prices are filled in when they are next fetched, the records that are open then with their subscription.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

JSONB = postgresql.JSONB(astext_type=sa.Text())
COLUMNS = {
    "stripe_prices": (
        sa.Column("currency", sa.Text(), nullable=True, comment="its own; it may have others"),
        sa.Column("billing_interval", sa.Text(), nullable=True, comment="day, week, month or year"),
        sa.Column("interval_count", sa.Integer(), nullable=True),
        sa.Column("lookup_key", sa.Text(), nullable=True),
        sa.Column(
            "tariffs",
            JSONB,
            nullable=True,
            comment="by currency: included minutes, and tiers of end, amount a unit, flat amount; null: not fetched yet",
        ),
    ),
    "subscriptions": (sa.Column("currency", sa.Text(), nullable=True),),
    "usage_records": (
        sa.Column("price_id", sa.Text(), nullable=True, comment="that bills its minutes"),
        sa.Column("currency", sa.Text(), nullable=True),
        sa.Column(
            "tiers", JSONB, nullable=True, comment="of that price in that currency; null: none bills it, or not known"
        ),
    ),
}


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    for table, columns in COLUMNS.items():
        for column in columns:
            op.add_column(table, column)


def downgrade() -> None:
    for table, columns in COLUMNS.items():
        for column in columns:
            op.drop_column(table, column.name)
