"""What a business used by day, by agent or by number: sums of the calls that are counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows

# What is counted is in a record, and ended in its period: the records around choose the calls by an index.
_BREAKDOWN = """
select {part} as part, {agent_id} as agent_id, count(*) as calls, sum(c.counted_seconds)::bigint as seconds,
       sum(c.counted_minutes)::bigint as minutes
from usage_records r join businesses b on b.id = r.business_id join calls c on c.usage_record_id = r.id
where r.business_id = %(business_id)s and r.period_start < %(until)s and r.period_end > %(since)s
  and c.counted and c.ended_at >= %(since)s and c.ended_at < %(until)s
group by 1, 2 order by {order}
"""


class By(StrEnum):
    """What usage is summed by."""

    DAY = "day"
    AGENT = "agent"
    NUMBER = "number"


#: As on its statement: a period keeps the zone that it began in.
_DAY = "to_char(c.ended_at at time zone coalesce(r.time_zone, b.time_zone), 'YYYY-MM-DD')"
_OF_AGENT = "(select name from ai_agents a where a.id = c.agent_id)"
_STATEMENTS = {
    By.DAY: _BREAKDOWN.format(part=_DAY, agent_id="null::bigint", order="1"),
    By.AGENT: _BREAKDOWN.format(part=_OF_AGENT, agent_id="c.agent_id", order="5 desc, 2 nulls last"),
    By.NUMBER: _BREAKDOWN.format(part="c.number", agent_id="null::bigint", order="5 desc, 1 nulls last"),
}


@dataclass(frozen=True, slots=True)
class UsedPart:
    """Counted calls, seconds and minutes of one ``part``: a local day, an agent by its name now, or a number.

    ``part`` None: what nobody answered, or by a number that is not known.
    """

    part: str | None
    agent_id: int | None
    calls: int
    seconds: int
    minutes: int


def read_breakdown(
    connection: Connection, business_id: int, by: By, since: datetime, until: datetime
) -> Sequence[UsedPart]:
    """The calls that ended in ``[since, until)`` (UTC): days in order, agents and numbers by their minutes."""
    about = {"business_id": business_id, "since": since, "until": until}
    return typed_rows(UsedPart, connection.exec_driver_sql(_STATEMENTS[by], about))
