"""items

Meters, and the items of subscriptions with what each is to us: minutes, a plan's fee, or an add-on. ``price_ids`` of
subscriptions is written no longer. Deploy: before the code; the nightly look fills in the items of those that live.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

INSTANT = sa.TIMESTAMP(timezone=True)
KINDS = "kind in ('call', 'customer', 'subscription', 'invoice', 'price'%s, 'event')"

_KNOWN_ITEMS = """
insert into subscription_items (id, subscription_id, price_id, role)
select metered_item_id, id, metered_price_id, 'minutes' from subscriptions
where metered_item_id is not null and metered_price_id is not null
on conflict do nothing
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.create_table(
        "stripe_meters",
        sa.Column("id", sa.Text(), nullable=False, comment="mtr_…"),
        sa.Column("event_name", sa.Text(), nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column(
            "sums_by_our_keys",
            sa.Boolean(),
            nullable=False,
            comment="it adds up the value of each stripe_customer_id",
        ),
        sa.Column("snapshot_at", INSTANT, nullable=False, comment="when Stripe said so"),
        sa.PrimaryKeyConstraint("id", name=op.f("stripe_meters_pkey")),
        comment="mirror of the meters that prices name: one of them counts minutes",
    )
    op.create_table(
        "subscription_items",
        sa.Column("subscription_id", sa.BigInteger(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False, comment="si_…"),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False, comment="what its price is to us"),
        sa.Column("quantity", sa.BigInteger(), nullable=True, comment="null: metered"),
        sa.CheckConstraint("role in ('minutes', 'fee', 'add-on')", name=op.f("subscription_items_role_check")),
        sa.ForeignKeyConstraint(
            ["subscription_id"],
            ["subscriptions.id"],
            name=op.f("subscription_items_subscription_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("subscription_id", "id", name=op.f("subscription_items_pkey")),
        comment="mirror of the items that subscriptions have: minutes and fee are the plan's, the rest add-ons",
    )
    op.create_index("subscription_items_price_id_idx", "subscription_items", ["price_id"])
    op.execute(_KNOWN_ITEMS)
    op.drop_constraint(op.f("refreshes_kind_check"), "refreshes")
    op.create_check_constraint(op.f("refreshes_kind_check"), "refreshes", KINDS % ", 'meter'")
    op.alter_column("subscriptions", "price_ids", server_default=sa.text("'[]'"), comment="written no longer")


def downgrade() -> None:
    op.alter_column("subscriptions", "price_ids", server_default=None, comment="of all items")
    op.drop_constraint(op.f("refreshes_kind_check"), "refreshes")
    op.execute("delete from refreshes where kind = 'meter'")
    op.create_check_constraint(op.f("refreshes_kind_check"), "refreshes", KINDS % "")
    op.drop_table("subscription_items")
    op.drop_table("stripe_meters")
