"""paid back

Refunds and disputes of an invoice's payments stand with it, beside its credit notes. Paid invoices with an open
difference that can be credited are fetched once more. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_FETCH = """
insert into refreshes (kind, object_id, reason, due_at)
select distinct 'invoice', i.id, 'paid-back', now()
from stripe_invoices i
join drifts d on d.evidence ->> 'invoice' = i.id and d.resolved_at is null and d.kind in ('credit-due', 'over-billed')
on conflict (kind, object_id) do update
set mark = nextval('refresh_marks'), reason = excluded.reason, due_at = excluded.due_at
"""

_KINDS = "kind in ('call', 'customer', 'subscription', 'invoice'%s, 'price', 'meter', 'event')"


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.drop_constraint(op.f("refreshes_kind_check"), "refreshes")
    op.create_check_constraint(op.f("refreshes_kind_check"), "refreshes", _KINDS % ", 'payment'")
    op.add_column(
        "stripe_invoices",
        sa.Column(
            "paid_back",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="refunds that no credit note tells, and what banks hold in disputes: id, what, amount, status",
        ),
    )
    op.execute(_FETCH)


def downgrade() -> None:
    op.drop_constraint(op.f("refreshes_kind_check"), "refreshes")
    op.execute("delete from refreshes where kind = 'payment'")
    op.create_check_constraint(op.f("refreshes_kind_check"), "refreshes", _KINDS % "")
    op.drop_column("stripe_invoices", "paid_back")
