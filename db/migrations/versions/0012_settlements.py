"""settlements

A record knows whether it is a trial's, and by which invoice it was settled; an adjustment, by which record's settlement
it was made. New kinds of adjustments: waiting, over-billed, under-billed, credited. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_TRIALS = """
update usage_records r set trial = true
from subscriptions s where s.id = r.subscription_id and s.trial_end >= r.period_end
"""

_SETTLED_BY = """
update usage_records r set invoice_id = (
  select i.id from stripe_invoice_lines l join stripe_invoices i on i.id = l.invoice_id
  where l.stripe_subscription_id = s.stripe_id and l.period_end = r.period_end and i.status not in ('draft', 'void')
  order by i.created_at desc, i.id desc limit 1)
from subscriptions s where s.id = r.subscription_id and r.settled_at is not null
"""

_OLD = "kind in ('carried', 'written-off', 'unbillable', 'held')"
_NEW = "kind in ('carried', 'written-off', 'unbillable', 'held', 'waiting', 'over-billed', 'under-billed', 'credited')"


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.add_column(
        "usage_records",
        sa.Column(
            "trial",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="of a trial: its included minutes are free, and more are not for sale",
        ),
    )
    op.add_column(
        "usage_records", sa.Column("invoice_id", sa.Text(), nullable=True, comment="that settled it; null: none did")
    )
    op.add_column(
        "usage_adjustments",
        sa.Column(
            "settlement_record_id",
            sa.BigInteger(),
            nullable=True,
            comment="the record whose settlement made it: the difference to its invoice; null: a call did",
        ),
    )
    op.create_foreign_key(
        op.f("usage_adjustments_settlement_record_id_fkey"),
        "usage_adjustments",
        "usage_records",
        ["settlement_record_id"],
        ["id"],
    )
    op.create_index(op.f("usage_adjustments_settlement_record_id_idx"), "usage_adjustments", ["settlement_record_id"])
    op.create_index(
        "usage_adjustments_waiting_idx",
        "usage_adjustments",
        ["business_id"],
        postgresql_where=sa.text("kind = 'waiting'"),
    )
    op.create_index(
        "usage_adjustments_disputed_idx",
        "usage_adjustments",
        ["business_id"],
        postgresql_where=sa.text("kind in ('over-billed', 'under-billed')"),
    )
    op.drop_constraint(op.f("usage_adjustments_kind_check"), "usage_adjustments")
    op.create_check_constraint(op.f("usage_adjustments_kind_check"), "usage_adjustments", _NEW)
    op.execute("update usage_adjustments set settlement_record_id = origin_record_id where call_sid is null")
    op.execute(_TRIALS)
    op.execute(_SETTLED_BY)


def downgrade() -> None:
    op.execute(
        "update usage_adjustments set kind = 'unbillable'"
        " where kind not in ('carried', 'written-off', 'unbillable', 'held')"
    )
    op.drop_constraint(op.f("usage_adjustments_kind_check"), "usage_adjustments")
    op.create_check_constraint(op.f("usage_adjustments_kind_check"), "usage_adjustments", _OLD)
    op.drop_index("usage_adjustments_disputed_idx", "usage_adjustments")
    op.drop_index("usage_adjustments_waiting_idx", "usage_adjustments")
    op.drop_column("usage_adjustments", "settlement_record_id")
    op.drop_column("usage_records", "invoice_id")
    op.drop_column("usage_records", "trial")
