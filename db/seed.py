"""The plans that are sold. Seeding again changes nothing but what the table here says differently."""

from typing import Final

from sqlalchemy import Engine
from sqlalchemy.dialects.postgresql import insert

from db.models import SubscriptionPlan

PLANS: Final[list[dict[str, object]]] = [
    {"id": 1, "code": "free", "name": "Free", "price_cents": 0, "included_minutes": 50, "agents": 1, "numbers": 1},
    {
        "id": 2,
        "code": "starter",
        "name": "Starter",
        "price_cents": 4900,
        "included_minutes": 500,
        "agents": 3,
        "numbers": 2,
    },
    {
        "id": 3,
        "code": "professional",
        "name": "Professional",
        "price_cents": 14900,
        "included_minutes": 2000,
        "agents": 10,
        "numbers": 5,
    },
    {
        "id": 4,
        "code": "enterprise",
        "name": "Enterprise",
        "price_cents": 49900,
        "included_minutes": 10000,
        "agents": 50,
        "numbers": 20,
    },
]
for _plan in PLANS:
    _plan["bills_overage"] = _plan["code"] != "free"

seed_statement = insert(SubscriptionPlan).values(PLANS)
seed_statement = seed_statement.on_conflict_do_update(
    index_elements=["id"],
    set_={
        name: seed_statement.excluded[name]
        for name in ("code", "name", "price_cents", "included_minutes", "agents", "numbers", "bills_overage")
    },
)


def seed_plans(engine: Engine) -> None:
    """Make the four plans what PLANS says."""
    with engine.begin() as connection:
        connection.execute(seed_statement)
