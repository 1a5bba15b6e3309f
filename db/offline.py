"""Prints db/001_schema.sql: Alembic's own offline output, which any PostgreSQL 15 or newer takes."""

import io
import sys

from alembic import command

from db.migrate import config

HEADER = """\
-- The schema of the Altiora billing pipeline with its four plans. Written by `make schema` from db/migrations;
-- a test holds the two in step. Use:  CREATE DATABASE altiora;  \\c altiora  \\i 001_schema.sql
"""


def schema_sql() -> str:
    """All migrations as one SQL script."""
    output = io.StringIO()
    command.upgrade(config(output=output), "head", sql=True)
    return HEADER + "\n" + output.getvalue()


if __name__ == "__main__":
    sys.stdout.write(schema_sql())
