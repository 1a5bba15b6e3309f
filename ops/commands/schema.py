"""`altiora migrate` and `altiora seed`: the tables, the plans, and the logins."""

from typing import Annotated

import psycopg
import typer

from db import roles as logins
from db import seed as seeding
from ops.commands.database import choose_settings, engine
from ops.commands.output import WrongError, say
from pipeline.shared.settings import DatabaseSettings, RoleSettings, load


def migrate(
    roles: Annotated[
        bool,
        typer.Option("--roles", help="Also make the six logins, or set their passwords (ALTIORA_…_PASSWORD)."),
    ] = False,
) -> None:
    """Bring the database's tables up to date, with the plans; run it before new code starts."""
    from db import migrate as migrating  # noqa: PLC0415 - alembic is slow to load

    chosen = choose_settings()
    passwords = load(RoleSettings, chosen).passwords if roles else {}
    settings = load(DatabaseSettings, chosen)
    with engine(chosen):
        try:
            migrating.upgrade(settings.sqlalchemy_url)
        except migrating.UnknownRevisionError as error:
            raise WrongError(
                "the database's tables are newer than this version, which can't migrate them: use the newer version's;"
                " `altiora doctor` says whether this one can go on meanwhile"
            ) from error
    with engine(chosen) as made:
        seeding.seed_plans(made)
    try:
        with psycopg.connect(settings.libpq_url) as connection:
            if passwords:
                logins.make_logins(connection, {login: word.get_secret_value() for login, word in passwords.items()})
            elif logins.existing(connection):
                logins.give_rights(connection)
            there = logins.existing(connection)
    except psycopg.errors.InsufficientPrivilege as error:
        raise WrongError(
            "this login may not make or change the others: run it once as the database's superuser, and after that as"
            f" {logins.OWNER}"
        ) from error
    say("The database is up to date." + (f" Logins: {', '.join(sorted(there))}." if there else ""))


def seed() -> None:
    """Add the plans that this version begins with and that are not there; changes none that is."""
    with engine(choose_settings()) as made:
        seeding.seed_plans(made)
    say(f"The plans are there: {', '.join(plan['name'] for plan in seeding.PLANS)}. Figures: altiora plans list")
