"""The numbers of a business: since when it holds each, and which agent answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.businesses.free_numbers import FREE
from pipeline.shared.rows import typed_row, typed_rows

_FIELDS = """
n.number, n.business_id, n.label, n.agent_id, (select name from ai_agents a where a.id = n.agent_id) as agent,
(select lower(held) from phone_number_assignments h where h.number = n.number and upper(held) is null) as since
"""
_LIST = f"""
select {_FIELDS} from phone_numbers n
where business_id = %(business_id)s and (%(q)s = '' or strpos(number || ' ' || lower(label), lower(%(q)s)) > 0)
order by number
"""  # noqa: S608 - a constant
_ONE = f"select {_FIELDS} from phone_numbers n where number = %s"  # noqa: S608 - as above


_FREE = f"""
select number from phone_numbers n
where {FREE} and (%(q)s = '' or strpos(number, %(q)s) > 0)
order by number limit %(limit)s
"""  # noqa: S608 - as above
_KNOWN = "select number, business_id, twilio_sid, free_from from phone_numbers where number = %s"
_HOLDINGS = """
select business_id, agent_id, lower(held) as since, upper(held) as until from phone_number_assignments
where number = %s order by held desc
"""


@dataclass(frozen=True, slots=True)
class FreeNumber:
    """A number that can be had, in E.164."""

    number: str


@dataclass(frozen=True, slots=True)
class HeldNumber:
    """A number. ``since`` when the present agent, or none, answers it; None: ever since."""

    number: str
    business_id: int | None
    label: str
    agent_id: int | None
    agent: str | None
    since: datetime | None


def list_numbers(connection: Connection, business_id: int, q: str = "") -> list[HeldNumber]:
    """Those of a business, with ``q`` in number or label, in order."""
    return typed_rows(HeldNumber, connection.exec_driver_sql(_LIST, {"business_id": business_id, "q": q}))


@dataclass(frozen=True, slots=True)
class Holding:
    """Who held a number in ``[since, until)`` (None: without bound), and which agent answered meanwhile."""

    business_id: int
    agent_id: int | None
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class KnownNumber:
    """A number, for Altiora's own: ``twilio_sid`` None: our Twilio account has it not (any more)."""

    number: str
    business_id: int | None
    twilio_sid: str | None
    free_from: datetime | None
    holdings: Sequence[Holding]


def free_numbers_like(connection: Connection, q: str, now: datetime, limit: int) -> list[FreeNumber]:
    """Those that a business can have at ``now`` (business time), with ``q`` in them, in order."""
    return typed_rows(FreeNumber, connection.exec_driver_sql(_FREE, {"q": q, "now": now, "limit": limit}))


def know_number(connection: Connection, number: str) -> KnownNumber | None:
    """One number with all who ever held it, the latest first."""
    row = connection.exec_driver_sql(_KNOWN, (number,)).one_or_none()
    if row is None:
        return None
    return KnownNumber(**row._asdict(), holdings=typed_rows(Holding, connection.exec_driver_sql(_HOLDINGS, (number,))))


def read_number(connection: Connection, number: str) -> HeldNumber | None:
    """One number, whoever holds it."""
    return typed_row(HeldNumber, connection.exec_driver_sql(_ONE, (number,)))
