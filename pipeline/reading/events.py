"""The stored webhook events: what each said, how it ended, and which ended for a reason."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import parse_qsl

from sqlalchemy import Connection

from pipeline.events.outcomes import EventState
from pipeline.shared.rows import NEWEST, Json, typed_row, typed_rows

_LIST = """
select id, provider, key, type, state, reason, attempts, received_at
from webhook_events
where id < %(before)s and (%(state)s::text is null or state = %(state)s)
  and (%(reason)s::text is null or reason = %(reason)s or starts_with(reason, %(reason)s || ' '))
  and (%(call)s::text is null or provider = 'twilio' and starts_with(key, %(call)s || ':'))
  and (%(business_id)s::bigint is null or provider = 'twilio' and (
    split_part(key, ':', 1) in (select sid from calls where business_id = %(business_id)s)
    or reason in (
      select 'unknown-number ' || number from phone_number_assignments where business_id = %(business_id)s)))
order by id desc
limit %(limit)s
"""

_SHOW = """
select id, provider, key, type, state, reason, attempts, received_at, stored_at, due_at, processed_at, recovered,
       content_type, body
from webhook_events
where id = %s
"""

# A reason's first word says what, the rest which one: "unknown-number" finds "unknown-number +15550000009" too.
_ENDED = """
select id from webhook_events
where state in ('ignored', 'dead')
  and (%(state)s::text is null or state = %(state)s)
  and (%(reason)s::text is null or reason = %(reason)s or starts_with(reason, %(reason)s || ' '))
order by id
"""

# By its call; of one that is not stored, by who ever held a number that the body names; of Stripe's by the customer.
_BUSINESSES_OF = r"""
select e.id, about.business_id
from webhook_events e
cross join lateral (
  select business_id from calls
  where e.provider = 'twilio' and sid = split_part(e.key, ':', 1) and business_id is not null
  union
  select h.business_id
  from regexp_matches(
    encode(e.body, 'escape'), '(?:(?:^|&)(?:To|From)=(?:%%2B|\+)|"(?:to|from)": ?"\+)([0-9]{2,15})', 'g') as m(found)
  join phone_number_assignments h on h.number = '+' || m.found[1]
  where e.provider = 'twilio'
  union
  select b.id
  from regexp_matches(encode(e.body, 'escape'), '"customer": ?"(cus_[0-9A-Za-z_]+)"', 'g') as m(found)
  join businesses b on b.stripe_customer_id = m.found[1]
  where e.provider = 'stripe'
) about
where e.id = any(%(ids)s::bigint[])
order by 1, 2
"""

_KNOWN = "select id from webhook_events where id = any(%s::bigint[])"

# The call of a callback began before that came, and no earlier than the longest call takes.
_DEAD_CALLS = """
select count(*), min(received_at) - interval '24 hours' from webhook_events
where state = 'dead' and reason = 'unknown-number ' || %s
"""

_DEAD_FOR = "select count(*) from webhook_events where state = 'dead' and reason = %s"


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event without its body; ``received_at`` is business time."""

    id: int
    provider: str
    key: str
    type: str | None
    state: str
    reason: str | None
    attempts: int
    received_at: datetime


@dataclass(frozen=True, slots=True)
class ShownEvent(ListedEvent):
    """An event with what it said. ``stored_at``, ``due_at`` and ``processed_at`` are machine time."""

    stored_at: datetime
    due_at: datetime
    processed_at: datetime | None
    recovered: bool
    content_type: str
    body: bytes

    @property
    def said(self) -> Json:
        """The body as people read it: JSON or a form as objects, anything else as text, not UTF-8 as escapes."""
        text = self.body.decode("utf-8", "backslashreplace")
        if self.content_type.startswith("application/json"):
            try:
                read: Json = json.loads(text)
            except (ValueError, RecursionError):
                return text
            return read
        params: dict[str, list[Json]] = {}
        for name, value in parse_qsl(text, keep_blank_values=True):
            params.setdefault(name, []).append(value)
        return {name: values[0] if len(values) == 1 else values for name, values in params.items()}


def list_events(
    connection: Connection,
    state: EventState | None,
    limit: int | None,
    *,
    reason: str | None = None,
    call: str | None = None,
    business_id: int | None = None,
    before: int = NEWEST,
) -> list[ListedEvent]:
    """Events, the newest first, at most ``limit``, those with ids below ``before``.

    Only those in this state, for this reason (or its first word), of this call, or of a business's calls and numbers.
    """
    about = {
        "state": state,
        "limit": limit,
        "reason": reason,
        "call": call,
        "business_id": business_id,
        "before": before,
    }
    return typed_rows(ListedEvent, connection.exec_driver_sql(_LIST, about))


def read_event(connection: Connection, event_id: int) -> ShownEvent | None:
    """One event; None when there is none of this id."""
    return typed_row(ShownEvent, connection.exec_driver_sql(_SHOW, (event_id,)))


def businesses_of(connection: Connection, event_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Which businesses these events are about: an event and a business each. Of a number all who ever held it."""
    found = connection.exec_driver_sql(_BUSINESSES_OF, {"ids": list(event_ids)})
    return [(event_id, business_id) for event_id, business_id in found]


def known_events(connection: Connection, event_ids: Sequence[int]) -> set[int]:
    """Which of these ids are stored."""
    return set(connection.exec_driver_sql(_KNOWN, (list(event_ids),)).scalars())


def ended_events(connection: Connection, reason: str | None, state: str | None) -> list[int]:
    """The ids of the events that had no effect, for this reason (or its first word), in this state."""
    return list(connection.exec_driver_sql(_ENDED, {"reason": reason, "state": state}).scalars())


def dead_calls_of(connection: Connection, number: str) -> tuple[int, datetime | None]:
    """How many events are dead since nobody holds this number, and since when it must be held to count them all."""
    count, since = connection.exec_driver_sql(_DEAD_CALLS, (number,)).one()
    return int(count), since


def dead_for(connection: Connection, reason: str) -> int:
    """How many events are dead for exactly this reason."""
    return int(connection.exec_driver_sql(_DEAD_FOR, (reason,)).scalar_one())
