"""credits

What is given back at Stripe, once: an outbox beside the one of changes. The credit notes of an invoice stand with it.
Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

FREEZE_CREDITS = """
create function frozen_credit() returns trigger language plpgsql as $$
begin
  if (new.business_id, new.subject, new.invoice_id, new.amount, new.currency, new.minutes, new.identifier)
     is distinct from
     (old.business_id, old.subject, old.invoice_id, old.amount, old.currency, old.minutes, old.identifier) then
    raise exception using message = 'credit ' || old.identifier || ' is frozen: make a new one instead';
  end if;
  if new.state <> old.state and old.state in ('done', 'failed') then
    raise exception using message = 'credit ' || old.identifier || ' is ' || old.state || ' and stays so';
  end if;
  return new;
end $$;
create trigger frozen before update on credits for each row execute function frozen_credit();
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    op.create_table(
        "credits",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("business_id", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False, comment="of the difference that it settles"),
        sa.Column("invoice_id", sa.Text(), nullable=True, comment="that charged too much; null: none is known"),
        sa.Column(
            "amount",
            sa.BigInteger(),
            nullable=False,
            comment="in the currency's smallest unit, before discounts and taxes",
        ),
        sa.Column("currency", sa.Text(), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False, comment="that are given back so; 0: money alone"),
        sa.Column("identifier", sa.Text(), nullable=False, comment="begins the idempotency keys, and stands at Stripe"),
        sa.Column("state", sa.Text(), server_default=sa.text("'planned'"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="429 costs none"),
        sa.Column(
            "server_errors",
            sa.Integer(),
            server_default=sa.text("0"),
            nullable=False,
            comment="5xx answers: each makes the next idempotency key a new one",
        ),
        sa.Column(
            "due_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="not before; while sending, the end of the lease",
        ),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False, comment="what a person said who decided it"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("settled_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="machine clock"),
        sa.CheckConstraint("amount > 0", name=op.f("credits_amount_check")),
        sa.CheckConstraint("state in ('planned', 'sending', 'done', 'failed')", name=op.f("credits_state_check")),
        sa.ForeignKeyConstraint(["business_id"], ["businesses.id"], name=op.f("credits_business_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("credits_pkey")),
        sa.UniqueConstraint("identifier", name=op.f("credits_identifier_key")),
        comment="outbox: what is given back at Stripe, by a credit note or on a balance; frozen",
    )
    op.create_index(op.f("credits_business_id_idx"), "credits", ["business_id"], unique=False)
    op.create_index("credits_invoice_id_idx", "credits", ["invoice_id"], unique=False)
    op.create_index(
        "credits_due_idx",
        "credits",
        ["due_at"],
        unique=False,
        postgresql_where=sa.text("state in ('planned', 'sending')"),
    )
    op.execute(FREEZE_CREDITS)
    op.add_column(
        "stripe_invoices",
        sa.Column(
            "credit_notes",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="what was given back of it: id, number, total, the part of its minutes' lines, whose",
        ),
    )


def downgrade() -> None:
    op.drop_column("stripe_invoices", "credit_notes")
    op.drop_table("credits")
    op.execute("drop function frozen_credit")
