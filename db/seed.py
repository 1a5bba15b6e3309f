"""The plans that a new database begins with. What is there is the operators': seeding adds and never changes."""

from typing import Any, Final

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from db.models import SubscriptionPlan

#: Of each plan every column, since the database has no figures of its own.
_ALIKE: Final[dict[str, Any]] = {
    "increment_seconds": 60,
    "payment_grace_days": 7,
    "late_policy": "carry",
    "late_limit_minutes": 3000,
}

PLANS: Final[list[dict[str, Any]]] = [
    {
        "id": number,
        "code": code,
        "name": code.capitalize(),
        "price_cents": price_cents,
        "included_minutes": included_minutes,
        "agents": agents,
        "numbers": numbers,
        "bills_overage": code != "free",
        **_ALIKE,
    }
    for number, (code, price_cents, included_minutes, agents, numbers) in enumerate(
        [
            ("free", 0, 50, 1, 1),
            ("starter", 4_900, 500, 3, 2),
            ("professional", 14_900, 2_000, 10, 5),
            ("enterprise", 49_900, 10_000, 50, 20),
        ],
        start=1,
    )
]


def seed_plans(engine: Engine) -> None:
    """Add those of PLANS that are not there, by id and by code."""
    with engine.begin() as connection:
        connection.execute(insert(SubscriptionPlan).values(PLANS).on_conflict_do_nothing())
