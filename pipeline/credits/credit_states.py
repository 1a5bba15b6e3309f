"""The states of a credit, and the only code that changes one, with all that stands beside a state.

Each function is one way out of a state, for rows that are in it: whoever comes too late changes nothing.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from sqlalchemy import Connection

from pipeline.providers.idempotency_key import idempotency_key

if TYPE_CHECKING:  # whoever reads states does not load the stripe package
    from pipeline.providers.outbox_sender import Retry


class CreditState(StrEnum):
    """What has become of a credit, and the way out of each state."""

    PLANNED = "planned"
    """To be sent when due. Then SENDING."""
    SENDING = "sending"
    """Handed to a worker until due_at. Then DONE, FAILED, or PLANNED again."""
    DONE = "done"
    """Stripe has it, by its answer or because a look showed it. No way out."""
    FAILED = "failed"
    """Stripe refused it for good: a person gives it back. No way out."""


@dataclass(frozen=True, slots=True)
class Credit:
    """A claimed credit: ``amount`` in the currency's smallest unit, before discounts and taxes."""

    id: int
    business_id: int
    customer_id: str | None
    """Who got the invoice; without one, whom the business is linked to."""
    invoice_id: str | None
    amount: int
    currency: str
    minutes: int
    identifier: str
    attempts: int
    server_errors: int

    def key_for(self, what: str) -> str:
        """The idempotency key of one of its requests: one key for two bodies would be refused."""
        return idempotency_key(f"{self.identifier}:{what}", self.server_errors)


_TAKE = """
with due as (
  select id from credits
  where state in ('planned', 'sending') and due_at <= clock_timestamp()
  order by due_at limit %(limit)s for update skip locked
)
update credits c
set state = 'sending', attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => %(lease)s)
from due, businesses b
where c.id = due.id and b.id = c.business_id
returning c.id, c.business_id,
  coalesce((select s.stripe_customer_id from stripe_invoices i
            join subscriptions s on s.stripe_id = i.stripe_subscription_id where i.id = c.invoice_id),
           b.stripe_customer_id) as customer_id, c.invoice_id, c.amount, c.currency, c.minutes,
          c.identifier, c.attempts, c.server_errors
"""

# Whoever says so: a worker that lost its lease knows no less what Stripe answered for good.
_END = """
update credits set state = %(state)s, answer = %(words)s, settled_at = clock_timestamp()
where id = %(id)s and state in ('planned', 'sending')
"""

_AGAIN = """
update credits
set state = 'planned', answer = coalesce(nullif(%(words)s, ''), answer), attempts = attempts - %(given_back)s::int,
    server_errors = server_errors + %(server_error)s::int,
    due_at = clock_timestamp() + make_interval(secs => %(wait_seconds)s)
where id = %(id)s and state = 'sending' and attempts = %(sent_as)s
"""


def take_due_credits(connection: Connection, *, limit: int, lease_seconds: float) -> list[Credit]:
    """Claim due credits: PLANNED, or SENDING with a lease that ended → SENDING, the caller's for ``lease_seconds``."""
    rows = connection.exec_driver_sql(_TAKE, {"limit": limit, "lease": lease_seconds}).mappings()
    return [Credit(**row) for row in rows]


def end_credit(
    connection: Connection, credit_id: int, state: Literal[CreditState.DONE, CreditState.FAILED], words: str
) -> bool:
    """PLANNED or SENDING → DONE or FAILED, by Stripe's answer; False where it has ended already."""
    about = {"id": credit_id, "state": state.value, "words": words}
    return connection.exec_driver_sql(_END, about).rowcount > 0


def send_again(connection: Connection, credit: Credit, retry: "Retry") -> None:
    """SENDING → PLANNED; nothing where the claim is lost."""
    about = {"id": credit.id, "sent_as": credit.attempts} | asdict(retry)
    connection.exec_driver_sql(_AGAIN, about)
