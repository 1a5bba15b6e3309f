"""What was said in a call."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from pipeline.shared.rows import typed_rows

_MESSAGES = """
select position, speaker, content, language, said_at, redacted_at from call_transcripts
where call_sid = %s order by position
"""


@dataclass(frozen=True, slots=True)
class SaidMessage:
    """A message; ``content`` is empty where it was redacted."""

    position: int
    speaker: str
    content: str
    language: str | None
    said_at: datetime | None
    redacted_at: datetime | None


def read_transcript(connection: Connection, sid: str) -> list[SaidMessage]:
    """All of a call, in order."""
    return typed_rows(SaidMessage, connection.exec_driver_sql(_MESSAGES, (sid,)))
