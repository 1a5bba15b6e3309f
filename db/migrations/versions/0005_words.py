"""words

A comment that named a file says what it means instead. Deploy: before or after the code.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BEFORE = "each change of whether a business may take calls: by which rule of pipeline/service_rules.py"
_AFTER = "each change of whether a business may take calls: by which of the service rules"


def upgrade() -> None:
    op.create_table_comment("service_transitions", _AFTER, existing_comment=_BEFORE)


def downgrade() -> None:
    op.create_table_comment("service_transitions", _BEFORE, existing_comment=_AFTER)
