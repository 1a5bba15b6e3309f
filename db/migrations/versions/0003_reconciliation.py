"""reconciliation

Heartbeats of sources, pushes under verification, Stripe's sums, held late minutes, repairs of differences.
Deploy: before the code; the code before it lives with these tables.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT = sa.TIMESTAMP(timezone=True)
KINDS = "kind in ('carried', 'written-off', 'unbillable'%s)"


def upgrade() -> None:
    sources = op.create_table(
        "sources",
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("heard_at", INSTANT, nullable=True, comment="business clock; null: never yet"),
        sa.Column("heard_machine_at", INSTANT, nullable=True, comment="machine clock"),
        sa.Column(
            "longest_gap",
            sa.Interval(),
            server_default=sa.text("'24 hours'"),
            nullable=False,
            comment="the longest silence of late; an old one counts ever less",
        ),
        sa.CheckConstraint("source in ('twilio-callbacks', 'stripe-events')", name=op.f("sources_source_check")),
        sa.PrimaryKeyConstraint("source", name=op.f("sources_pkey")),
        comment="heartbeats: when something last came from a source, and for how long it usually does not",
    )
    op.bulk_insert(sources, [{"source": "twilio-callbacks"}, {"source": "stripe-events"}])
    op.create_table_comment("listings", "up to when a source has been listed in full, or its days compared")

    op.add_column(
        "meter_pushes",
        sa.Column(
            "last_sent_at", INSTANT, nullable=True, comment="machine clock; Stripe's sum can tell of it some time later"
        ),
    )
    op.add_column(
        "meter_pushes",
        sa.Column(
            "doubt",
            sa.Text(),
            nullable=True,
            comment="under verification: the event of Stripe's that says some of its time were invalid, not which",
        ),
    )
    op.add_column(
        "meter_pushes",
        sa.Column("looked_at", INSTANT, nullable=True, comment="machine clock: Stripe's sum was last asked for then"),
    )
    op.create_index("meter_pushes_doubt_idx", "meter_pushes", ["id"], postgresql_where=sa.text("doubt is not null"))
    op.create_index("meter_pushes_created_at_idx", "meter_pushes", ["created_at"], postgresql_using="brin")
    op.create_index("calls_started_at_idx", "calls", ["started_at"], postgresql_using="brin")
    op.create_table(
        "stripe_sums",
        sa.Column("usage_record_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "until", INSTANT, nullable=False, comment="minutes from here on were not settled yet, and are left out"
        ),
        sa.Column("sent", sa.Integer(), nullable=False, comment="minutes of the pushes that Stripe took"),
        sa.Column("summed", sa.Numeric(), nullable=False, comment="minutes by Stripe's summary"),
        sa.Column("compared_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["usage_record_id"],
            ["usage_records.id"],
            name=op.f("stripe_sums_usage_record_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("usage_record_id", name=op.f("stripe_sums_pkey")),
        comment="Stripe's own sum of a record's minutes beside what it was sent, as last compared",
    )

    op.add_column("drifts", sa.Column("repair", sa.Text(), nullable=True, comment="what is proposed to be done"))
    op.add_column(
        "drifts",
        sa.Column("note", sa.Text(), nullable=True, comment="how a person resolved it; null: it ended by itself"),
    )

    op.add_column(
        "subscription_plans",
        sa.Column(
            "late_policy",
            sa.Text(),
            server_default=sa.text("'carry'"),
            nullable=False,
            comment="what becomes of minutes that come too late for a paid period",
        ),
    )
    op.add_column(
        "subscription_plans",
        sa.Column(
            "late_limit_minutes",
            sa.Integer(),
            server_default=sa.text("3000"),
            nullable=False,
            comment="late minutes of one period beyond this are held, for a person to decide",
        ),
    )
    op.create_check_constraint(
        op.f("subscription_plans_late_policy_check"), "subscription_plans", "late_policy in ('carry', 'write-off')"
    )
    op.create_check_constraint(
        op.f("subscription_plans_late_limit_minutes_check"), "subscription_plans", "late_limit_minutes >= 0"
    )
    _set_kinds(KINDS % ", 'held'")
    op.create_index(
        "usage_adjustments_held_idx",
        "usage_adjustments",
        ["origin_record_id"],
        postgresql_where=sa.text("kind = 'held'"),
    )


def downgrade() -> None:
    op.drop_index("usage_adjustments_held_idx", table_name="usage_adjustments")
    _set_kinds(KINDS % "")
    op.drop_column("subscription_plans", "late_limit_minutes")
    op.drop_column("subscription_plans", "late_policy")
    op.drop_column("drifts", "note")
    op.drop_column("drifts", "repair")
    op.drop_table("stripe_sums")
    op.drop_index("calls_started_at_idx", table_name="calls")
    op.drop_index("meter_pushes_created_at_idx", table_name="meter_pushes")
    op.drop_index("meter_pushes_doubt_idx", table_name="meter_pushes")
    op.drop_column("meter_pushes", "looked_at")
    op.drop_column("meter_pushes", "doubt")
    op.drop_column("meter_pushes", "last_sent_at")
    op.create_table_comment("listings", "up to when a source has been listed in full")
    op.drop_table("sources")


def _set_kinds(check: str) -> None:
    op.drop_constraint(op.f("usage_adjustments_kind_check"), "usage_adjustments")
    op.create_check_constraint(op.f("usage_adjustments_kind_check"), "usage_adjustments", check)
