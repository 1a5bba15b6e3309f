"""What was said in a call, message by message: the phone platform sends them, and may send each again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection

#: Messages of one call, and of one request.
MOST_MESSAGES: Final = 5_000
MOST_AT_ONCE: Final = 500


class Speaker(StrEnum):
    """Who says something in a call."""

    AGENT = "agent"
    CALLER = "caller"


class TranscriptError(Exception):
    """Messages that can't be kept; the words say why."""


class UnknownCallError(Exception):
    """Twilio has not told us of this call yet."""


@dataclass(frozen=True, slots=True)
class Message:
    """What was said. ``position``: 0 is said first; ``said_at``: by the phone platform's clock, UTC."""

    position: int
    speaker: Speaker
    content: str
    said_at: datetime | None
    language: str | None


_CALL = "select exists (select from calls where sid = %s)"
_ADD = """
insert into call_transcripts (call_sid, position, speaker, content, said_at, language)
select %(sid)s, m.position, m.speaker, m.content, m.said_at, m.language
from unnest(%(position)s::int[], %(speaker)s::text[], %(content)s::text[], %(said_at)s::timestamptz[],
            %(language)s::text[]) as m(position, speaker, content, said_at, language)
order by m.position
on conflict (call_sid, position) do nothing
"""
# What was redacted meanwhile is not said to be another.
_OTHERS = """
select t.position
from call_transcripts t
join unnest(%(position)s::int[], %(speaker)s::text[], %(content)s::text[]) as m(position, speaker, content)
  on m.position = t.position
where t.call_sid = %(sid)s and t.redacted_at is null and (t.speaker, t.content) <> (m.speaker, m.content)
order by 1 limit 1
"""
_COUNT = "select count(*) from call_transcripts where call_sid = %s"
_REDACT = """
update call_transcripts set content = '', redacted_at = now()
where call_sid = %(sid)s and position = %(position)s and redacted_at is null
"""
# Their places stay, so that what is sent again does not bring them back.
_ERASE = "update call_transcripts set content = '', redacted_at = now() where call_sid = %s and redacted_at is null"


def append_messages(connection: Connection, sid: str, messages: Sequence[Message]) -> int:
    """Add messages to a call's transcript; returns how many were not there before.

    Raises UnknownCallError, and TranscriptError for a place in which something else was said.
    """
    if not connection.exec_driver_sql(_CALL, (sid,)).scalar_one():
        raise UnknownCallError("this call is not known yet: send it again in a moment")
    places = [each.position for each in messages]
    if len(set(places)) < len(places):
        raise TranscriptError("two of these messages have the same position")
    about = {
        "sid": sid,
        "position": places,
        "speaker": [each.speaker.value for each in messages],
        "content": [each.content for each in messages],
        "said_at": [each.said_at for each in messages],
        "language": [each.language for each in messages],
    }
    added = connection.exec_driver_sql(_ADD, about).rowcount
    other = connection.exec_driver_sql(_OTHERS, about).scalar()
    if other is not None:
        raise TranscriptError(f"message {other} of this call is another one already")
    if added and connection.exec_driver_sql(_COUNT, (sid,)).scalar_one() > MOST_MESSAGES:
        raise TranscriptError(f"a call has at most {MOST_MESSAGES:,} messages")
    return int(added)


def redact_message(connection: Connection, sid: str, position: int) -> bool:
    """Take out for good what was said in one place; False where that was so."""
    return connection.exec_driver_sql(_REDACT, {"sid": sid, "position": position}).rowcount > 0


def erase_transcript(connection: Connection, sid: str) -> int:
    """Take out for good all that was said in a call so far; returns how many messages that were."""
    return connection.exec_driver_sql(_ERASE, (sid,)).rowcount
