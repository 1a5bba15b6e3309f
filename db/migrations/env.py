"""Alembic's entry: one transaction for each migration, online or as SQL."""

from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import Script
from sqlalchemy import Text, column, create_engine, pool, table, update

from db.models import User

metadata = User.metadata

#: Milliseconds that a migration waits for a table that somebody works with: behind it all others would wait.
LOCK_TIMEOUT_MS = 5_000


def note_oldest_code(ctx: MigrationContext, step: MigrationInfo, **_: Any) -> None:
    """Write which code the tables serve now, in the transaction of the step (db/schema_version.py)."""
    for script in step.destination_revisions:
        oldest_code = getattr(script.module, "oldest_code", None) if isinstance(script, Script) else None
        if oldest_code is not None:
            ctx.execute(update(table("schema_serves", column("oldest_code", Text))).values(oldest_code=oldest_code))


settings: dict[str, Any] = {
    "target_metadata": metadata,
    "transaction_per_migration": True,
    "on_version_apply": note_oldest_code,
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **settings)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"set lock_timeout = {LOCK_TIMEOUT_MS}")
        connection.commit()
        context.configure(connection=connection, **settings)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
