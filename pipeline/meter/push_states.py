"""The states of a meter push, and the only code that changes one, with all that stands beside a state.

Each function is one way out of a state, for rows that are in it: whoever comes too late changes nothing and is told so.
What follows from it (figures of the record, drifts, the log) is the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, Row

from pipeline.providers.idempotency_key import idempotency_key
from pipeline.usage.billing_window import TOO_LATE, billing_deadline
from pipeline.usage.record_invoice import INVOICE


class PushState(StrEnum):
    """What has become of a meter push, and the way out of each state."""

    PLANNED = "planned"
    """To be sent when due. Then SENDING, or VOID when its period can't be billed any more."""
    SENDING = "sending"
    """Handed to a worker until due_at. Then SENT, FAILED, PLANNED again, or UNKNOWN."""
    SENT = "sent"
    """Stripe has it. Then FAILED, when Stripe reports it invalid later."""
    FAILED = "failed"
    """Refused for good; blocks its record. Then RELEASED, by an operator."""
    RELEASED = "released"
    """Was failed; its minutes may be planned anew. No way out."""
    UNKNOWN = "unknown"
    """Sent, and without an answer until the identifier's window ended. Then SENT, VOID or FAILED: never sent again."""
    VOID = "void"
    """Too late for its period (never sent, or not on the final invoice), or of before a restore. No way out."""


class PushVerdict(StrEnum):
    """What a person or Stripe's own sum can say of an unknown push."""

    SENT = PushState.SENT.value
    """Stripe has it."""
    VOID = PushState.VOID.value
    """Stripe has it not: its minutes are planned anew."""


#: The columns of a Push, of ``meter_pushes p``.
PUSH_COLUMNS = (
    "p.id, p.business_id, p.identifier, p.event_name, p.stripe_customer_id, p.minutes, p.timestamp, p.state,"
    " p.attempts, p.server_errors, p.answer"
)


@dataclass(frozen=True, slots=True)
class Push:
    """A push as it stood when it was read or claimed."""

    id: int
    business_id: int
    identifier: str
    event_name: str
    customer: str
    minutes: int
    timestamp: datetime
    state: PushState
    attempts: int
    server_errors: int
    answer: str | None

    @property
    def subject(self) -> str:
        return f"push:{self.identifier}"

    @property
    def idempotency_key(self) -> str:
        return idempotency_key(self.identifier, self.server_errors)


def push_of(row: Row[tuple[object, ...]]) -> Push:
    """The push in a row that has PUSH_COLUMNS, among others."""
    return Push(
        id=row.id,
        business_id=row.business_id,
        identifier=row.identifier,
        event_name=row.event_name,
        customer=row.stripe_customer_id,
        minutes=row.minutes,
        timestamp=row.timestamp,
        state=PushState(row.state),
        attempts=row.attempts,
        server_errors=row.server_errors,
        answer=row.answer,
    )


# What is due, judged. Its period can't be billed any more: void if it was never sent, else unknown. The record is
# looked up by timestamp, since a cut may have moved the bounds. An hour less than Stripe's 24.
_TAKE = f"""
with due as (
  select p.id, p.business_id, p.timestamp, p.first_sent_at
  from meter_pushes p
  where p.state in ('planned', 'sending') and p.due_at <= clock_timestamp()
  order by p.due_at limit %(limit)s
  for update skip locked
), judged as (
  select due.id,
    case when late.late and due.first_sent_at is null then 'void'
         when late.late or due.first_sent_at < clock_timestamp() - interval '23 hours' then 'unknown'
         else 'sending' end as verdict,
    case when late.late then 'its period can not be billed any more'
         else 'no answer for 23 hours after it was first sent' end as words
  from due
  left join usage_records r
    on r.business_id = due.business_id and r.period_start <= due.timestamp and due.timestamp < r.period_end
  left join subscriptions s on s.id = r.subscription_id
  {INVOICE}
  cross join lateral (
    select s.id is null or {TOO_LATE} or due.timestamp < %(now)s - interval '35 days' as late
  ) late
)
update meter_pushes p set
  state = judged.verdict,
  answer = case when judged.verdict = 'sending' then p.answer else coalesce(p.answer || '; ', '') || judged.words end,
  settled_at = case when judged.verdict = 'void' then clock_timestamp() end,
  attempts = p.attempts + case when judged.verdict = 'sending' then 1 else 0 end,
  first_sent_at = case when judged.verdict = 'sending' then coalesce(p.first_sent_at, clock_timestamp())
                       else p.first_sent_at end,
  last_sent_at = case when judged.verdict = 'sending' then clock_timestamp() else p.last_sent_at end,
  due_at = case when judged.verdict = 'sending' then clock_timestamp() + make_interval(secs => %(lease)s)
                else p.due_at end
from judged where judged.id = p.id
returning {PUSH_COLUMNS}
"""  # noqa: S608 - put together from fragments of ours

# Sent, whoever says so: a worker that lost its lease knows no less that Stripe has it.
_SENT = """
update meter_pushes set state = 'sent', answer = %(words)s, settled_at = clock_timestamp(), accepted_at = %(now)s
where id = %(id)s and state in ('planned', 'sending', 'unknown')
"""

# The other outcomes of an attempt count only while the claim is ours.
_REFUSED = """
update meter_pushes set state = %(state)s, answer = %(words)s,
  settled_at = case when %(state)s = 'failed' then clock_timestamp() end
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

# Never done: as if the attempt had not been, so that it still counts as never sent if it was the first.
_GIVE_BACK = """
update meter_pushes set state = 'planned', attempts = attempts - 1, answer = coalesce(nullif(%(words)s, ''), answer),
  first_sent_at = case when attempts > 1 then first_sent_at end,
  due_at = clock_timestamp() + make_interval(secs => %(wait)s)
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

_AGAIN = """
update meter_pushes set state = 'planned', answer = %(words)s, server_errors = server_errors + %(server_error)s,
  due_at = clock_timestamp() + make_interval(secs => %(wait)s)
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""

_NOT_COUNTED = """
update meter_pushes set state = 'void', settled_at = clock_timestamp(),
  answer = coalesce(answer || '; ', '') || %(words)s
where id = %(id)s and state = 'unknown'
"""

_BY_A_PERSON = """
update meter_pushes
set state = %(verdict)s, doubt = null, settled_at = clock_timestamp(),
  answer = coalesce(answer || '; ', '') || 'by a person'
where id = %(id)s and state = 'unknown'
returning identifier
"""

# Planned for a closed period and never sent: what it held is carried when the invoice is final.
_PERIOD_CLOSED = """
update meter_pushes p
set state = 'void', settled_at = clock_timestamp(), answer = 'its period was closed before it was sent'
from usage_records r
where r.id = any(%s::bigint[]) and p.business_id = r.business_id
  and p.timestamp >= r.period_start and p.timestamp < r.period_end
  and p.state = 'planned' and p.first_sent_at is null
"""

# Whether they were sent after the backup nobody knows: what Stripe has of them is in its sums.
_BEFORE_RESTORE = """
update meter_pushes set state = 'void', settled_at = clock_timestamp(), doubt = null,
  answer = coalesce(answer || '; ', '') || 'of before a restore: what Stripe has of it was taken over by its sum'
where state in ('planned', 'sending', 'unknown')
returning identifier
"""

_FAILED = f"""
update meter_pushes p set state = 'failed', answer = %(words)s, settled_at = clock_timestamp()
where identifier = %(identifier)s and state in ('sent', 'unknown')
returning {PUSH_COLUMNS}
"""  # noqa: S608 - names of columns

_RELEASED = """
update meter_pushes set state = 'released', settled_at = clock_timestamp() where id = %s and state = 'failed'
returning identifier
"""

# What may have been sent in the window. Its bounds are Stripe's clock, which is both of ours in real life and the
# business clock in a simulation; a push too many is verified for nothing, one too few is never billed.
_DOUBT = """
update meter_pushes set doubt = %(doubt)s
where id in (
  select id from meter_pushes
  where created_at >= %(start)s - interval '24 hours' and created_at <= %(end)s
    and (created_at >= %(start)s - interval '1 hour'
         or settled_at between %(start)s and %(end)s or last_sent_at between %(start)s and %(end)s)
    and (state = 'sent' or (state in ('planned', 'sending') and first_sent_at is not null))
    and not identifier = any(%(sure)s::text[])
  order by id for update)
"""

_CLEAR = "update meter_pushes set doubt = null where id = %s"


def take_due_pushes(connection: Connection, now: datetime, *, limit: int, lease_seconds: float) -> list[Push]:
    """Claim due pushes: PLANNED, or SENDING with a lease that ended. Each is now SENDING, VOID or UNKNOWN.

    Those SENDING are the caller's for ``lease_seconds``; the others came too late, and their ``answer`` says why.
    """
    about = {"now": now, "deadline": billing_deadline(now), "limit": limit, "lease": lease_seconds}
    return [push_of(row) for row in connection.exec_driver_sql(_TAKE, about)]


def set_sent(connection: Connection, push_id: int, words: str, now: datetime) -> bool:
    """PLANNED, SENDING or UNKNOWN → SENT; whether it was one of these. Its minutes are to be counted then."""
    return connection.exec_driver_sql(_SENT, {"id": push_id, "words": words, "now": now}).rowcount == 1


def set_refused(connection: Connection, push: Push, words: str) -> PushState | None:
    """SENDING → FAILED; → UNKNOWN where an earlier attempt had no answer, since Stripe may have it all the same.

    Returns the new state, None where the claim is lost.
    """
    state = PushState.FAILED if push.attempts == 1 else PushState.UNKNOWN
    about = {"id": push.id, "attempts": push.attempts, "words": words, "state": state.value}
    return state if connection.exec_driver_sql(_REFUSED, about).rowcount else None


def give_back(connection: Connection, push: Push, words: str, wait_seconds: float) -> None:
    """SENDING → PLANNED as if this attempt had not been; nothing where the claim is lost. Empty words say nothing."""
    about = {"id": push.id, "attempts": push.attempts, "words": words, "wait": wait_seconds}
    connection.exec_driver_sql(_GIVE_BACK, about)


def set_planned_again(
    connection: Connection, push: Push, words: str, wait_seconds: float, *, server_error: bool
) -> None:
    """SENDING → PLANNED after an attempt of unknown outcome; nothing where the claim is lost.

    ``server_error``: a 5xx, after which Stripe works on a new idempotency key only.
    """
    about = {"id": push.id, "attempts": push.attempts, "words": words, "wait": wait_seconds}
    connection.exec_driver_sql(_AGAIN, {**about, "server_error": int(server_error)})


def set_not_counted(connection: Connection, push_id: int, words: str) -> None:
    """UNKNOWN → VOID: Stripe has it not, says its sum or the final invoice."""
    connection.exec_driver_sql(_NOT_COUNTED, {"id": push_id, "words": words})


def set_by_a_person(connection: Connection, push_id: int, verdict: PushVerdict) -> str | None:
    """UNKNOWN → SENT or VOID; returns the identifier, None where it is not unknown."""
    about = {"id": push_id, "verdict": verdict.value}
    identifier: str | None = connection.exec_driver_sql(_BY_A_PERSON, about).scalar()
    return identifier


def set_period_closed(connection: Connection, record_ids: Sequence[int]) -> None:
    """PLANNED and never sent → VOID, of the periods of these records."""
    connection.exec_driver_sql(_PERIOD_CLOSED, (list(record_ids),))


def void_before_restore(connection: Connection) -> list[str]:
    """PLANNED, SENDING or UNKNOWN → VOID, of all businesses; returns their identifiers."""
    return list(connection.exec_driver_sql(_BEFORE_RESTORE).scalars())


def set_failed(connection: Connection, identifier: str, words: str) -> Push | None:
    """SENT or UNKNOWN → FAILED: Stripe does not count it after all. Returns it, None where it is neither."""
    row = connection.exec_driver_sql(_FAILED, {"identifier": identifier, "words": words}).first()
    return None if row is None else push_of(row)


def set_released(connection: Connection, push_id: int) -> str | None:
    """FAILED → RELEASED; returns the identifier, None where it has not failed."""
    identifier: str | None = connection.exec_driver_sql(_RELEASED, (push_id,)).scalar()
    return identifier


def put_in_doubt(connection: Connection, doubt: str, start: datetime, end: datetime, sure: Sequence[str]) -> int:
    """Doubt what Stripe may have got in ``[start, end]``, but for the ``sure`` identifiers; returns how many.

    ``doubt`` is the event of Stripe's that raises it. The state stays: SENT, or sent once and still under way.
    """
    about = {"doubt": doubt, "start": start, "end": end, "sure": list(sure)}
    return connection.exec_driver_sql(_DOUBT, about).rowcount


def clear_doubt(connection: Connection, push_id: int) -> None:
    """It is known now what became of this push."""
    connection.exec_driver_sql(_CLEAR, (push_id,))
