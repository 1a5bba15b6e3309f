"""How a command reaches the database: which settings it takes, and what it says when there is no way."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from db.engine import make_engine
from db.schema_version import SchemaError
from ops.commands.output import WrongError, warn
from ops.processes import environment
from pipeline.shared.settings import DatabaseSettings, SettingsError, load

#: Settings by their names, to be handed to ``load`` and ``business_clock``; None: this process's own.
Chosen = Mapping[str, str] | None


def choose_settings(*kinds: type[Any]) -> Chosen:
    """See that the settings of these kinds (without any: the database's) are there, or take those of what runs here.

    That is the demo or `altiora up` of this clone, and only where no database is named. All of its settings or none:
    a command must not talk to a real Stripe account about a throwaway database. Raises SettingsError.
    """
    try:
        for kind in kinds or (DatabaseSettings,):
            load(kind)
    except SettingsError:
        running = environment.read()
        if "ALTIORA_DATABASE_URL" not in running or _database_is_named():
            raise
        warn("using .altiora/env of the running demo")
        return running
    return None


def _database_is_named() -> bool:
    try:
        load(DatabaseSettings)
    except SettingsError as error:
        return "ALTIORA_DATABASE_URL is missing" not in str(error)
    return True


@contextlib.contextmanager
def engine(chosen: Chosen) -> Iterator[Engine]:
    """An engine for one command; what PostgreSQL refuses becomes a WrongError that says what to do.

    So does a database whose tables this code does not fit.
    """
    settings = load(DatabaseSettings, chosen)
    made = make_engine(settings.sqlalchemy_url, pooler=settings.database_pooler)
    try:
        yield made
    except DBAPIError as error:
        raise WrongError(_explained(error)) from error
    except SchemaError as error:
        raise WrongError(str(error)) from error
    finally:
        made.dispose()


@contextlib.contextmanager
def transaction(chosen: Chosen) -> Iterator[Connection]:
    """One transaction, committed when the block ends in order."""
    with engine(chosen) as made, made.begin() as connection:
        yield connection


@contextlib.contextmanager
def reading(chosen: Chosen) -> Iterator[Connection]:
    """One transaction that sees one moment and can write nothing."""
    with engine(chosen) as made, made.connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        with connection.begin():
            yield connection


def _explained(error: DBAPIError) -> str:
    state = getattr(error.orig, "sqlstate", None)
    words = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if isinstance(error, OperationalError) and state is None:
        return f"PostgreSQL can't be reached: {words}; see that it runs and that ALTIORA_DATABASE_URL is right"
    if state == "55P03":
        return "another process holds what is needed here; try again"
    return f"PostgreSQL refused: {words}"
