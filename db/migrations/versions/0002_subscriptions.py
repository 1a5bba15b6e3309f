"""subscriptions both ways

What invoices bill by line, when a metered price came, the changes of subscriptions that Stripe is told, and whether a
business may take calls. Deploy: before the code, with workers stopped: the columns that it replaces are gone.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KINDS = (
    "cancel-at-period-end",
    "keep",
    "pause-collection",
    "resume-collection",
    "cancel-now",
    "upgrade",
    "downgrade",
    "metadata",
)

LINES_OF_INVOICES = """
insert into stripe_invoice_lines
  (invoice_id, price_id, period_start, period_end, stripe_subscription_id, minutes, amount_cents)
select i.id, coalesce(s.metered_price_id, 'unknown'), i.metered_period_start, i.metered_period_end,
       i.stripe_subscription_id, coalesce(i.metered_quantity, 0), 0
from stripe_invoices i left join subscriptions s on s.stripe_id = i.stripe_subscription_id
where i.metered_period_start is not null and i.stripe_subscription_id is not null
"""

INVOICES_OF_LINES = """
update stripe_invoices i
set metered_period_start = l.period_start, metered_period_end = l.period_end, metered_quantity = l.minutes
from (select invoice_id, min(period_start) as period_start, max(period_end) as period_end, sum(minutes)::int as minutes
      from stripe_invoice_lines group by invoice_id) l
where l.invoice_id = i.id
"""

MONTHS_OF_RECORDS = """
update usage_records r
set allowance_month = date_trunc('month', r.period_start at time zone b.time_zone)::date
from businesses b
where b.id = r.business_id and r.subscription_id is null
"""


def _kinds(table: str, kinds: tuple[str, ...]) -> None:
    name = op.f(f"{table}_kind_check")
    op.drop_constraint(name, table)
    op.create_check_constraint(name, table, f"kind in ({', '.join(repr(kind) for kind in kinds)})")


def upgrade() -> None:
    op.create_table(
        "service_transitions",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column(
            "until", sa.TIMESTAMP(timezone=True), nullable=True, comment="when grace or limit pass by themselves"
        ),
        sa.Column(
            "cause",
            sa.Text(),
            nullable=False,
            comment="what was looked at: an object of Stripe's, the minutes, the clock",
        ),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint(
            "from_status in ('active', 'grace', 'limited', 'suspended')",
            name=op.f("service_transitions_from_status_check"),
        ),
        sa.CheckConstraint(
            "to_status in ('active', 'grace', 'limited', 'suspended')", name=op.f("service_transitions_to_status_check")
        ),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("service_transitions_business_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("service_transitions_pkey")),
        comment="each change of whether a business may take calls: by which rule of pipeline/service_rules.py",
    )
    op.create_index(
        "service_transitions_business_id_at_idx", "service_transitions", ["business_id", "at"], unique=False
    )
    op.create_table(
        "stripe_invoice_lines",
        sa.Column("invoice_id", sa.Text(), nullable=False),
        sa.Column("price_id", sa.Text(), nullable=False),
        sa.Column("period_start", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("period_end", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("stripe_subscription_id", sa.Text(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("amount_cents", sa.BigInteger(), nullable=False),
        sa.Column(
            "mid_period",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="its price came inside the period, in place of another",
        ),
        sa.CheckConstraint("period_start < period_end", name=op.f("stripe_invoice_lines_period_check")),
        sa.ForeignKeyConstraint(
            ["invoice_id"],
            ["stripe_invoices.id"],
            name=op.f("stripe_invoice_lines_invoice_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "invoice_id", "price_id", "period_start", "period_end", name=op.f("stripe_invoice_lines_pkey")
        ),
        comment="minutes that an invoice bills, by price and the time that it counted for: the lines of all its tiers together; final once the invoice is no draft",
    )
    op.create_index(
        "stripe_invoice_lines_span_idx", "stripe_invoice_lines", ["stripe_subscription_id", "period_end"], unique=False
    )
    op.execute(LINES_OF_INVOICES)
    op.add_column(
        "businesses",
        sa.Column(
            "grace_until",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="a payment is overdue; the service is suspended when this has passed",
        ),
    )
    op.create_index(
        "businesses_grace_idx",
        "businesses",
        ["grace_until"],
        unique=False,
        postgresql_where=sa.text("suspended_at is null"),
    )
    op.add_column("stripe_invoices", sa.Column("finalized_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "stripe_invoices",
        sa.Column(
            "attempt_count", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="attempts to collect it"
        ),
    )
    op.drop_index(op.f("stripe_invoices_subscription_period_idx"), table_name="stripe_invoices")
    op.create_index(
        "stripe_invoices_overdue_idx",
        "stripe_invoices",
        ["business_id"],
        unique=False,
        postgresql_where=sa.text("status = 'open' and attempt_count > 0"),
    )
    op.drop_column("stripe_invoices", "metered_period_start")
    op.drop_column("stripe_invoices", "metered_quantity")
    op.drop_column("stripe_invoices", "metered_period_end")
    op.alter_column(
        "subscription_changes",
        "params",
        existing_type=postgresql.JSONB(astext_type=sa.Text()),
        comment="what is wanted, in the words of its kind",
        existing_comment="the body for Stripe",
        existing_nullable=False,
    )
    op.drop_index(
        op.f("subscription_changes_one_unsettled"),
        table_name="subscription_changes",
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.create_index(
        "subscription_changes_one_unsettled",
        "subscription_changes",
        ["subscription_id", "kind", "state"],
        unique=True,
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.add_column(
        "subscription_plans",
        sa.Column(
            "payment_grace_days",
            sa.Integer(),
            server_default=sa.text("7"),
            nullable=False,
            comment="from an invoice whose payment failed to the suspension of the service",
        ),
    )
    op.add_column(
        "subscriptions",
        sa.Column(
            "metered_since",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="when the metered price came, where that was inside the period: its included minutes count from then",
        ),
    )
    op.add_column(
        "usage_records",
        sa.Column(
            "allowance_month",
            sa.Date(),
            nullable=True,
            comment="without a subscription: the local calendar month whose included minutes its records share",
        ),
    )
    op.add_column(
        "usage_records",
        sa.Column(
            "cut",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="ended inside Stripe's period by another price: Stripe has counted, and takes nothing more for it",
        ),
    )
    op.execute(MONTHS_OF_RECORDS)
    _kinds("subscription_changes", KINDS)


def downgrade() -> None:
    op.execute("delete from subscription_changes where kind in ('cancel-now', 'upgrade', 'downgrade', 'metadata')")
    _kinds("subscription_changes", KINDS[:4])
    op.drop_column("usage_records", "cut")
    op.drop_column("usage_records", "allowance_month")
    op.drop_column("subscriptions", "metered_since")
    op.drop_column("subscription_plans", "payment_grace_days")
    op.drop_index(
        "subscription_changes_one_unsettled",
        table_name="subscription_changes",
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.create_index(
        op.f("subscription_changes_one_unsettled"),
        "subscription_changes",
        ["subscription_id"],
        unique=True,
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.alter_column(
        "subscription_changes",
        "params",
        existing_type=postgresql.JSONB(astext_type=sa.Text()),
        comment="the body for Stripe",
        existing_comment="what is wanted, in the words of its kind",
        existing_nullable=False,
    )
    op.add_column(
        "stripe_invoices",
        sa.Column("metered_period_end", postgresql.TIMESTAMP(timezone=True), autoincrement=False, nullable=True),
    )
    op.add_column(
        "stripe_invoices",
        sa.Column(
            "metered_quantity",
            sa.INTEGER(),
            autoincrement=False,
            nullable=True,
            comment="minutes on the invoice; final once it is not a draft",
        ),
    )
    op.add_column(
        "stripe_invoices",
        sa.Column("metered_period_start", postgresql.TIMESTAMP(timezone=True), autoincrement=False, nullable=True),
    )
    op.execute(INVOICES_OF_LINES)
    op.drop_index(
        "stripe_invoices_overdue_idx",
        table_name="stripe_invoices",
        postgresql_where=sa.text("status = 'open' and attempt_count > 0"),
    )
    op.create_index(
        op.f("stripe_invoices_subscription_period_idx"),
        "stripe_invoices",
        ["stripe_subscription_id", "metered_period_end"],
        unique=False,
    )
    op.drop_column("stripe_invoices", "attempt_count")
    op.drop_column("stripe_invoices", "finalized_at")
    op.drop_index("businesses_grace_idx", table_name="businesses", postgresql_where=sa.text("suspended_at is null"))
    op.drop_column("businesses", "grace_until")
    op.drop_index("stripe_invoice_lines_span_idx", table_name="stripe_invoice_lines")
    op.drop_table("stripe_invoice_lines")
    op.drop_index("service_transitions_business_id_at_idx", table_name="service_transitions")
    op.drop_table("service_transitions")
