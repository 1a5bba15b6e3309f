"""numbers that can be had, the zone of a period, and whom a business is reached by

A number that its holder lets go rests for thirty days before somebody else can have it. A period keeps the time zone that
its business had when it began. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    op.add_column(
        "phone_numbers",
        sa.Column(
            "free_from",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="business clock: its last holder let it go thirty days before; null: nobody did",
        ),
    )
    op.execute("""
    update phone_numbers n set free_from = last.until + interval '30 days'
    from (select number, max(upper(held)) as until from phone_number_assignments group by number) last
    where last.number = n.number and n.business_id is null
    """)
    op.add_column(
        "businesses",
        sa.Column("contact_email", sa.Text(), nullable=True, comment="whom we write to about it, beside its owner"),
    )
    op.add_column(
        "usage_records",
        sa.Column(
            "time_zone", sa.Text(), nullable=True, comment="its days are local to it; null: to its business's, as ever"
        ),
    )


def downgrade() -> None:
    op.drop_column("usage_records", "time_zone")
    op.drop_column("businesses", "contact_email")
    op.drop_column("phone_numbers", "free_from")
