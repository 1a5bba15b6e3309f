"""The numbers of a business: since when it holds each, and which agent answers."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

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


def read_number(connection: Connection, number: str) -> HeldNumber | None:
    """One number, whoever holds it."""
    return typed_row(HeldNumber, connection.exec_driver_sql(_ONE, (number,)))
