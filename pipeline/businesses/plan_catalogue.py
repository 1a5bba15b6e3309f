"""Which plans are sold, and their figures: adding, changing and retiring them.

A record keeps the included minutes, the increment and the rules for late minutes that its plan had when it was made, so
that new ones hold from each business's next period. Agents, numbers and days of grace are looked at when they matter.
What Stripe charges is the price's: a changed figure changes no price, and `altiora doctor` says where they differ.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from pipeline.events import fetch_requests

#: As it stands in lookup keys and metadata at Stripe.
_CODE = re.compile(r"[a-z]{2,30}")

_ADD = """
insert into subscription_plans
  (id, code, name, price_cents, included_minutes, agents, numbers, increment_seconds, payment_grace_days,
   bills_overage, late_policy, late_limit_minutes)
select coalesce(max(id), 0) + 1, %(code)s, %(name)s, %(price_cents)s, %(included_minutes)s, %(agents)s, %(numbers)s,
       %(increment_seconds)s, %(payment_grace_days)s, true, %(late_policy)s, %(late_limit_minutes)s
from subscription_plans
"""

_SET = """
update subscription_plans
set name = coalesce(%(name)s, name), price_cents = coalesce(%(price_cents)s, price_cents),
    included_minutes = coalesce(%(included_minutes)s, included_minutes), agents = coalesce(%(agents)s, agents),
    numbers = coalesce(%(numbers)s, numbers), increment_seconds = coalesce(%(increment_seconds)s, increment_seconds),
    payment_grace_days = coalesce(%(payment_grace_days)s, payment_grace_days),
    late_policy = coalesce(%(late_policy)s, late_policy),
    late_limit_minutes = coalesce(%(late_limit_minutes)s, late_limit_minutes)
where code = %(code)s
"""

_RETIRE = "update subscription_plans set retired_at = coalesce(retired_at, %(now)s) where code = %(code)s returning id"

# Prices that no plan claimed may name the new one.
_UNMAPPED = "select id from stripe_prices where plan_id is null"

_LOCK = "lock table subscription_plans in share row exclusive mode"


class PlanError(Exception):
    """The change is refused; the message says why, and what can be done."""


@dataclass(frozen=True, slots=True)
class PlanFigures:
    """What a plan gives and costs: cents a month, minutes a period, seconds, days. None: as it is."""

    name: str | None = None
    price_cents: int | None = None
    included_minutes: int | None = None
    agents: int | None = None
    numbers: int | None = None
    increment_seconds: int | None = None
    payment_grace_days: int | None = None
    late_policy: str | None = None
    late_limit_minutes: int | None = None


def add_plan(connection: Connection, code: str, figures: PlanFigures) -> None:
    """Sell another plan, whose figures must all be given. Raises PlanError."""
    if not _CODE.fullmatch(code):
        raise PlanError(
            f"{code} is no code of a plan: write 2 to 30 letters a to z, as they stand in Stripe's metadata"
        )
    about = _checked(code, figures)
    missing = [name for name, value in about.items() if value is None]
    if missing:
        raise PlanError(f"a new plan needs {', '.join(missing)}")
    connection.exec_driver_sql(_LOCK)
    if _known(connection, code):
        raise PlanError(f"there is a plan {code} already: `altiora plans set {code}` changes its figures")
    connection.exec_driver_sql(_ADD, about)
    for price_id in connection.exec_driver_sql(_UNMAPPED).scalars().all():
        fetch_requests.request_fetch(connection, "price", price_id, "plan-added")


def set_plan(connection: Connection, code: str, figures: PlanFigures) -> None:
    """Change a plan's figures. Raises PlanError."""
    about = _checked(code, figures)
    if all(value is None for name, value in about.items() if name != "code"):
        raise PlanError("say which figure, as --included-minutes 600")
    if code == "free" and figures.price_cents:
        raise PlanError("Free is what a business has that pays nothing: it has no price")
    if not _known(connection, code):
        raise PlanError(f"there is no plan {code}; `altiora plans list` shows them")
    connection.exec_driver_sql(_SET, about)


def retire_plan(connection: Connection, code: str, now: datetime) -> None:
    """Sell a plan no longer: who has it keeps it. Raises PlanError."""
    if code == "free":
        raise PlanError("Free can't be retired: who pays nothing is on it")
    if connection.exec_driver_sql(_RETIRE, {"code": code, "now": now}).first() is None:
        raise PlanError(f"there is no plan {code}; `altiora plans list` shows them")


def _known(connection: Connection, code: str) -> bool:
    found = connection.exec_driver_sql("select 1 from subscription_plans where code = %s", (code,)).first()
    return found is not None


def _checked(code: str, figures: PlanFigures) -> Mapping[str, Any]:
    for name in ("price_cents", "included_minutes", "agents", "numbers", "payment_grace_days", "late_limit_minutes"):
        value = getattr(figures, name)
        if value is not None and not 0 <= value <= 1_000_000_000:
            raise PlanError(f"{name} is a whole number from 0 on")
    if figures.increment_seconds is not None and not 1 <= figures.increment_seconds <= 3600:
        raise PlanError("increment_seconds is from 1 to 3,600")
    if figures.late_policy not in {None, "carry", "write-off"}:
        raise PlanError("late_policy is carry or write-off")
    if figures.name is not None and not (1 <= len(figures.name) <= 100 and figures.name.isprintable()):
        raise PlanError("a plan's name has 1 to 100 characters, without line breaks")
    return {"code": code} | {field: getattr(figures, field) for field in PlanFigures.__slots__}
