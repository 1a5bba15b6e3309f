"""What no login of ours may do, and some test has to: empty tables, bend one, end another's connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.pool import NullPool


@contextmanager
def superuser(engine: Engine, **options: Any) -> Iterator[Connection]:
    """A transaction of the superuser's in the database of ``engine``."""
    made = create_engine(engine.url.set(username="postgres"), poolclass=NullPool, **options)
    with made.begin() as connection:
        yield connection


def run_as_superuser(engine: Engine, *statements: str) -> None:
    with superuser(engine) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
