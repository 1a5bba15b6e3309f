"""keyed by call

Callbacks that came as JSON are found by their call, as all others. Those that are stored already have their body's
digest for a key, which rebuilding a call does not find. Deploy: after the code, which keys the new ones so.
"""

import json

import sqlalchemy as sa
from alembic import context, op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_STORED = """
select id, key, body from webhook_events
where provider = 'twilio' and key >= 'body:' collate "C" and key < 'body;' collate "C"
  and starts_with(content_type, 'application/json') and state <> 'dead'
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '5s'")
    if context.is_offline_mode():  # a new database has none
        return
    connection = op.get_bind()
    for row in connection.execute(sa.text(_STORED)).all():
        document = json.loads(row.body)
        sid = document.get("CallSid") if isinstance(document, dict) else None
        if not isinstance(sid, str) or not sid.isalnum() or not sid.startswith("CA"):
            continue
        key = f"{sid}:::{row.key.removeprefix('body:')[:16]}"
        connection.execute(
            sa.text(
                "update webhook_events set key = :key where id = :id and not exists ("
                " select from webhook_events where provider = 'twilio' and key = :key)"
            ),
            {"key": key, "id": row.id},
        )


def downgrade() -> None:
    """Both kinds of keys are read by the code before."""
