"""what was secured

When somebody secured their account, what was asked for before is good no more. Addresses are compared without the
database's own idea of letters: in some locales another letter's small form is an i. A link that is about a business
says so. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None
oldest_code = "0022"

_NEW_KEY = "users_address_key"
_SMALL = sa.text('lower(email collate "C")')
_ENDED_BY = "sign-out, reuse, password, address, second-factor, deactivated, staff"
_ENDED_BY_BEFORE = "sign-out, reuse, password, address, deactivated, staff"


def upgrade() -> None:
    # Who signs in meanwhile is found by the old one. First of all, so that whoever begins again begins here.
    with op.get_context().autocommit_block():
        op.drop_index(_NEW_KEY, table_name="users", postgresql_concurrently=True, if_exists=True)
        op.create_index(_NEW_KEY, "users", [_SMALL], unique=True, postgresql_concurrently=True)
    op.add_column(
        "users",
        sa.Column(
            "secured_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="password, address or second factor changed: links that were asked for before are good no more",
        ),
    )
    op.drop_index(op.f("users_email_key"), table_name="users")
    op.execute(f"alter index {_NEW_KEY} rename to users_email_key")
    op.alter_column("sessions", "ended_by", comment=_ENDED_BY, existing_comment=_ENDED_BY_BEFORE)
    op.create_check_constraint(
        op.f("account_links_business_check"),
        "account_links",
        "(kind in ('invitation', 'ownership')) = (business_id is not null)",
    )


def downgrade() -> None:
    op.alter_column("sessions", "ended_by", comment=_ENDED_BY_BEFORE, existing_comment=_ENDED_BY)
    op.drop_constraint(op.f("account_links_business_check"), "account_links", type_="check")
    op.drop_index(op.f("users_email_key"), table_name="users")
    op.create_index(op.f("users_email_key"), "users", [sa.text("lower(email)")], unique=True)
    op.drop_column("users", "secured_at")
