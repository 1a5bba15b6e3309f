"""Mails as rows: which are planned, and the only code that changes one's state.

A row holds a kind and ids. Texts and secrets are made when it is sent, so that nobody who reads the table gets in.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection


class MailKind(StrEnum):
    """What a mail tells. The first six hold the link of the kind of the same name (``links``)."""

    SIGN_UP = "sign-up"
    INVITATION = "invitation"
    STAFF = "staff"
    RESET = "reset"
    ADDRESS = "address"
    OWNERSHIP = "ownership"
    ADDRESS_CHANGING = "address-changing"
    """To the address before: somebody wants to change it."""
    PASSWORD_CHANGED = "password-changed"  # noqa: S105 - a kind of mail
    SECOND_FACTOR_ON = "second-factor-on"
    SECOND_FACTOR_OFF = "second-factor-off"
    SESSION_COPIED = "session-copied"
    """An old refresh token was shown, and the session has ended."""
    ROLE_CHANGED = "role-changed"
    KEYS_SHRUNK = "keys-shrunk"
    """Keys whose maker lost rights end in seven days."""


class MailState(StrEnum):
    """What has become of a mail, and the way out of each state."""

    PLANNED = "planned"
    """To be sent when due. Then SENDING."""
    SENDING = "sending"
    """Handed to a worker until due_at. Then SENT, FAILED, VOID, or PLANNED again."""
    SENT = "sent"
    """The mail server took it. No way out."""
    FAILED = "failed"
    """Refused for good. No way out."""
    VOID = "void"
    """There was nothing to tell anybody any more. No way out."""


@dataclass(frozen=True, slots=True)
class ClaimedMail:
    """A mail that is ours to send."""

    id: int
    kind: MailKind
    link_id: int | None
    user_id: int | None
    business_id: int | None
    attempts: int


_PLAN = """
insert into mails (kind, link_id, user_id, business_id)
values (%(kind)s, %(link_id)s, %(user_id)s, %(business_id)s) returning id
"""

_TAKE = """
with due as (
  select id from mails where state in ('planned', 'sending') and due_at <= clock_timestamp()
  order by due_at limit %(limit)s for update skip locked
)
update mails m
set state = 'sending', attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => %(lease)s)
from due where m.id = due.id
returning m.id, m.kind, m.link_id, m.user_id, m.business_id, m.attempts
"""

_END = """
update mails set state = %(state)s, answer = %(answer)s, settled_at = clock_timestamp()
where id = %(id)s and state in ('planned', 'sending')
"""

_AGAIN = """
update mails set state = 'planned', answer = %(answer)s, due_at = clock_timestamp() + make_interval(secs => %(wait)s)
where id = %(id)s and state = 'sending' and attempts = %(attempts)s
"""


def plan_mail(
    connection: Connection,
    kind: MailKind,
    *,
    link_id: int | None = None,
    user_id: int | None = None,
    business_id: int | None = None,
) -> int:
    """A mail to the address of the link, or of the user; in the transaction of what it tells of."""
    about = {"kind": kind.value, "link_id": link_id, "user_id": user_id, "business_id": business_id}
    return int(connection.exec_driver_sql(_PLAN, about).scalar_one())


def take_due_mails(connection: Connection, *, limit: int, lease_seconds: float) -> list[ClaimedMail]:
    """Claim due mails: PLANNED, or SENDING with a lease that ended → SENDING, the caller's for ``lease_seconds``."""
    rows = connection.exec_driver_sql(_TAKE, {"limit": limit, "lease": lease_seconds})
    return [ClaimedMail(row.id, MailKind(row.kind), *row[2:]) for row in rows]


def end_mail(connection: Connection, mail_id: int, state: MailState, answer: str) -> None:
    """PLANNED or SENDING → SENT, FAILED or VOID."""
    assert state in {MailState.SENT, MailState.FAILED, MailState.VOID}
    connection.exec_driver_sql(_END, {"id": mail_id, "state": state.value, "answer": answer})


def send_mail_again(connection: Connection, mail: ClaimedMail, answer: str, wait_seconds: float) -> None:
    """SENDING → PLANNED; nothing where the claim is lost."""
    about = {"id": mail.id, "attempts": mail.attempts, "answer": answer, "wait": wait_seconds}
    connection.exec_driver_sql(_AGAIN, about)
