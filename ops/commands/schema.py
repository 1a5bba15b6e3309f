"""`altiora migrate` and `altiora seed`: the tables and the plans."""

from db import seed as seeding
from ops.commands.database import choose_settings, engine
from ops.commands.output import WrongError, say
from pipeline.shared.settings import DatabaseSettings, load


def migrate() -> None:
    """Bring the database's tables up to date, with the plans; run it before new code starts."""
    from db import migrate as migrating  # noqa: PLC0415 - alembic is slow to load

    chosen = choose_settings()
    with engine(chosen):
        try:
            migrating.upgrade(load(DatabaseSettings, chosen).sqlalchemy_url)
        except migrating.UnknownRevisionError as error:
            raise WrongError(
                "the database's tables are newer than this version, which can't migrate them: use the newer version's;"
                " `altiora doctor` says whether this one can go on meanwhile"
            ) from error
    with engine(chosen) as made:
        seeding.seed_plans(made)
    say("The database is up to date.")


def seed() -> None:
    """Add the plans that this version begins with and that are not there; changes none that is."""
    with engine(choose_settings()) as made:
        seeding.seed_plans(made)
    say(f"The plans are there: {', '.join(plan['name'] for plan in seeding.PLANS)}. Figures: altiora plans list")
