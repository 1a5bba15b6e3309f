"""What of accounts nobody needs any more: ended sessions and their tokens, links and mails of long ago, limits."""

from sqlalchemy import Engine

# An ended session's tokens prove nothing any more: any of them is refused.
_PRUNE = (
    """
    delete from refresh_tokens t using sessions s
    where s.id = t.session_id and (s.ended_at < now() - interval '1 day' or s.ends_at < now() - interval '1 day')
    """,
    """
    delete from sessions s
    where (ended_at < now() - interval '90 days' or ends_at < now() - interval '90 days')
      and not exists (select from refresh_tokens where session_id = s.id)
    """,
    "delete from mails where settled_at < now() - interval '90 days'",
    "delete from link_tokens where expires_at < now() - interval '1 day'",
    """
    delete from account_links l
    where created_at < now() - interval '90 days'
      and not exists (select from mails where link_id = l.id)
      and not exists (select from link_tokens where link_id = l.id)
    """,
    "delete from attempt_limits where full_at < now()",
    "delete from idempotency_keys where created_at < now() - interval '1 day'",
)


def prune_accounts(engine: Engine) -> int:
    """Delete it, each kind in a transaction of its own; returns how many rows. By the machine clock."""
    deleted = 0
    for statement in _PRUNE:
        with engine.begin() as connection:
            deleted += connection.exec_driver_sql(statement).rowcount
    return deleted
