"""what was said

A transcript is its messages, each in its place: the phone platform may send one again, and nothing is there twice. What
was a whole transcript is its first message. Deploy: before the code.
"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None
oldest_code = "0022"


def upgrade() -> None:
    op.add_column("call_transcripts", sa.Column("position", sa.Integer(), nullable=True, comment="0 is said first"))
    op.add_column(
        "call_transcripts", sa.Column("speaker", sa.Text(), server_default=sa.text("'agent'"), nullable=False)
    )
    op.add_column(
        "call_transcripts",
        sa.Column("said_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="by the phone platform's clock"),
    )
    op.add_column(
        "call_transcripts",
        sa.Column(
            "redacted_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="its content was taken out, for good"
        ),
    )
    op.execute("""
    update call_transcripts t set position = n.place
    from (select id, row_number() over (partition by call_sid order by id) - 1 as place from call_transcripts) n
    where n.id = t.id
    """)
    op.alter_column("call_transcripts", "position", nullable=False)
    op.alter_column("call_transcripts", "speaker", server_default=None)
    op.create_unique_constraint(
        op.f("call_transcripts_call_sid_position_key"), "call_transcripts", ["call_sid", "position"]
    )
    op.drop_index(op.f("call_transcripts_call_sid_idx"), table_name="call_transcripts")
    op.create_check_constraint(
        op.f("call_transcripts_speaker_check"), "call_transcripts", "speaker in ('agent', 'caller')"
    )
    op.create_check_constraint(op.f("call_transcripts_position_check"), "call_transcripts", "position >= 0")


def downgrade() -> None:
    op.execute("create index call_transcripts_call_sid_idx on call_transcripts (call_sid)")
    for name, kind in (
        ("call_transcripts_position_check", "check"),
        ("call_transcripts_speaker_check", "check"),
        ("call_transcripts_call_sid_position_key", "unique"),
    ):
        op.drop_constraint(op.f(name), "call_transcripts", type_=kind)
    for name in ("redacted_at", "said_at", "speaker", "position"):
        op.drop_column("call_transcripts", name)
