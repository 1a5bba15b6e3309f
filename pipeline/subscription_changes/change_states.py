"""The states of a subscription change, and the only code that changes one, with all that stands beside a state.

Each function is one way out of a state, for rows that are in it: whoever comes too late changes nothing. What follows
from it (fetching the subscription, drifts, the log) is the caller's.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from sqlalchemy import Connection, Row

from pipeline.providers.idempotency_key import idempotency_key
from pipeline.subscription_changes.change_requests import AFTER_LAST_PUSH, ChangeKind

if TYPE_CHECKING:  # whoever reads states does not load the stripe package
    from pipeline.providers.outbox_sender import Retry


class ChangeState(StrEnum):
    """What has become of a subscription change, and the way out of each state."""

    PLANNED = "planned"
    """To be sent when due. Then SENDING, or DONE when its webhook comes first."""
    SENDING = "sending"
    """Handed to a worker until due_at. Then DONE, FAILED, or PLANNED again."""
    DONE = "done"
    """Stripe has it, by its answer or because a look showed it. No way out."""
    FAILED = "failed"
    """Stripe refused it for good. No way out."""


@dataclass(frozen=True, slots=True)
class Change:
    """A claimed change; ``params`` is what it wants, in the words of its kind."""

    id: int
    business_id: int
    stripe_id: str
    kind: ChangeKind
    params: dict[str, Any]
    identifier: str
    attempts: int
    server_errors: int

    @property
    def idempotency_key(self) -> str:
        return idempotency_key(self.identifier, self.server_errors)


def _change_of(row: Row[tuple[object, ...]]) -> Change:
    return Change(
        id=row.id,
        business_id=row.business_id,
        stripe_id=row.stripe_id,
        kind=ChangeKind(row.kind),
        params=row.params,
        identifier=row.identifier,
        attempts=row.attempts,
        server_errors=row.server_errors,
    )


#: So long a change waits for the last push: calls may never end, or a push may be in doubt. What comes later is late.
WAITS_FOR_PUSHES_HOURS: Final = 2

# Unpushed: what Stripe does not have yet of the periods that it can still bill.
_UNPUSHED = """
(exists (select from meter_pushes p
         where p.business_id = c.business_id and p.state in ('planned', 'sending', 'unknown'))
 or exists (select from usage_records r
            where r.business_id = c.business_id and r.subscription_id = c.subscription_id and r.state <> 'closed'
              and not r.cut and greatest(r.minutes, 0) <> r.pushed_minutes))
"""

# Metadata is what it is when it is sent: a change that waits is not told twice.
_TAKE = f"""
with due as (
  select c.id from subscription_changes c
  where c.state in ('planned', 'sending') and c.due_at <= clock_timestamp()
    and not exists (
      select from subscription_changes earlier
      where earlier.subscription_id = c.subscription_id and earlier.id < c.id
        and earlier.state in ('planned', 'sending'))
    and not (c.kind = any(%(after_last_push)s::text[]) and {_UNPUSHED}
             and c.created_at > %(now)s - interval '{WAITS_FOR_PUSHES_HOURS} hours')
  order by c.due_at limit %(limit)s for update of c skip locked
)
update subscription_changes c
set state = 'sending', attempts = attempts + 1,
    due_at = clock_timestamp() + make_interval(secs => %(lease)s)
from due, subscriptions s, businesses b, subscription_plans plan
where c.id = due.id and s.id = c.subscription_id and b.id = c.business_id and plan.id = b.plan_id
returning c.id, c.business_id, s.stripe_id, c.kind,
  case when c.kind <> 'metadata' then c.params else jsonb_build_object('metadata', jsonb_build_object(
    'altiora_business', b.id::text, 'altiora_plan', plan.code,
    'altiora_service', case when b.suspended_at is not null then 'suspended'
                            when b.limited_until > %(now)s then 'limited'
                            when b.grace_until is not null then 'grace' else 'active' end)) end as params,
  c.identifier, c.attempts, c.server_errors
"""  # noqa: S608 - put together from fragments of ours

# Whoever says so: a worker that lost its lease knows no less what Stripe answered for good.
_END = """
update subscription_changes set state = %(state)s, answer = %(words)s, settled_at = clock_timestamp()
where id = %(id)s and state in ('planned', 'sending')
"""

# Only while the claim is ours. Where the same was wanted anew meanwhile, that one will do.
_AGAIN = """
update subscription_changes c
set state = case when anew then 'done' else 'planned' end,
    settled_at = case when anew then clock_timestamp() end,
    answer = case when anew then 'wanted anew meanwhile' else coalesce(nullif(%(words)s, ''), c.answer) end,
    attempts = c.attempts - %(given_back)s::int, server_errors = c.server_errors + %(server_error)s::int,
    due_at = clock_timestamp() + make_interval(secs => %(wait_seconds)s)
from (select exists (
        select from subscription_changes other join subscription_changes this on this.id = %(id)s
        where other.subscription_id = this.subscription_id and other.kind = this.kind
          and other.state = 'planned') as anew) later
where c.id = %(id)s and c.state = 'sending' and c.attempts = %(sent_as)s
"""

_RECOGNISED = """
update subscription_changes set state = 'done', settled_at = clock_timestamp(), answer = 'its webhook came first'
where identifier = any(%s::text[]) and state in ('planned', 'sending')
"""

_BEFORE_RESTORE = """
update subscription_changes set state = 'failed', settled_at = clock_timestamp(),
  answer = 'of before a restore: it may be done and undone again'
where state in ('planned', 'sending') and kind <> %(metadata)s
returning id, business_id, kind
"""


def take_due_changes(connection: Connection, now: datetime, *, limit: int, lease_seconds: float) -> list[Change]:
    """Claim due changes, of each subscription its first: PLANNED, or SENDING with a lease that ended → SENDING.

    They are the caller's for ``lease_seconds``. One of AFTER_LAST_PUSH waits until Stripe has all minutes.
    """
    about = {"after_last_push": [kind.value for kind in AFTER_LAST_PUSH], "now": now}
    rows = connection.exec_driver_sql(_TAKE, {**about, "limit": limit, "lease": lease_seconds})
    return [_change_of(row) for row in rows]


def end_change(
    connection: Connection, change_id: int, state: Literal[ChangeState.DONE, ChangeState.FAILED], words: str
) -> None:
    """PLANNED or SENDING → DONE or FAILED, by Stripe's answer; nothing where it has ended already."""
    connection.exec_driver_sql(_END, {"id": change_id, "state": state.value, "words": words})


def plan_again(connection: Connection, change: Change, retry: "Retry") -> None:
    """SENDING → PLANNED, or DONE where the same was wanted anew; nothing where the claim is lost."""
    about = {"id": change.id, "sent_as": change.attempts} | asdict(retry)
    connection.exec_driver_sql(_AGAIN, about)


def fail_before_restore(connection: Connection) -> list[Row[tuple[object, ...]]]:
    """PLANNED or SENDING → FAILED, of all businesses, but for METADATA: they may be done, and undone since.

    Returns ``id``, ``business_id`` and ``kind`` of each.
    """
    return list(connection.exec_driver_sql(_BEFORE_RESTORE, {"metadata": ChangeKind.METADATA.value}).all())


def set_recognised(connection: Connection, identifiers: Collection[str]) -> None:
    """PLANNED or SENDING → DONE: their webhooks came before the answers."""
    connection.exec_driver_sql(_RECOGNISED, (sorted(identifiers),))
