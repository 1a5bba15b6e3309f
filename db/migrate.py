"""Alembic from Python: bring a database to a revision, or print what would do it."""

from pathlib import Path
from typing import TextIO

from alembic import command
from alembic.config import Config
from alembic.util import CommandError

MIGRATIONS = Path(__file__).parent / "migrations"


class UnknownRevisionError(Exception):
    """The database is at a revision that this code does not know."""


def config(sqlalchemy_url: str = "postgresql+psycopg://", output: TextIO | None = None) -> Config:
    """Alembic's configuration for ``sqlalchemy_url``; what it prints goes to ``output``."""
    made = Config(output_buffer=output) if output is not None else Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    made.attributes["url"] = sqlalchemy_url
    return made


def upgrade(sqlalchemy_url: str, revision: str = "head") -> None:
    """Migrate forward; seeds the plans on the way, so that a migrated database is ready.

    Raises UnknownRevisionError.
    """
    try:
        command.upgrade(config(sqlalchemy_url), revision)
    except CommandError as error:
        raise UnknownRevisionError(str(error)) from error


def downgrade(sqlalchemy_url: str, revision: str = "base") -> None:
    """Migrate back."""
    command.downgrade(config(sqlalchemy_url), revision)
