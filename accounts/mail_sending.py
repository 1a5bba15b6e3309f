"""Sending mails: claim what is due, make text and secret, hand it to the mail server, write down what it said.

At least once: a mail whose answer was lost is sent again, with a secret of its own, and both work. Without a mail
server mails wait, and the backlog counts them.
"""

import smtplib
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.message import EmailMessage
from email.utils import formatdate, parseaddr
from typing import Final
from urllib.parse import unquote, urlsplit

import structlog
from sqlalchemy import Connection, Engine

from accounts import links, users
from accounts.mail_texts import MailText, known_already, link_text, notice_text
from accounts.mails import ClaimedMail, MailKind, MailState, end_mail, send_mail_again, take_due_mails
from pipeline.providers.outbox_sender import backoff_seconds
from pipeline.shared.settings import MailSettings

BATCH: Final = 50
LEASE_SECONDS: Final = 120.0
SECONDS: Final = 25.0
#: Seconds that the mail server has for each answer.
TIMEOUT: Final = 10.0
#: Nobody waits for the link of a sign-up any more that is so old.
STALE: Final = timedelta(days=1)

#: The fragment of a page that a link leads to: it is sent to no server, and stands in no log.
LINK_PAGE: Final = "/link#"

_PERSON = """
select u.email, m.created_at < now() - %(stale)s::interval, (select name from businesses where id = m.business_id)
from mails m left join users u on u.id = m.user_id and u.deactivated_at is null
where m.id = %(id)s
"""

_log = structlog.get_logger(__name__)


def send_due_mails(engine: Engine, settings: MailSettings, dashboard_url: str) -> Counter[str]:
    """Send what is due until nothing is, or SECONDS have passed; counts states. Without a server nothing is claimed."""
    counts: Counter[str] = Counter()
    if settings.smtp_url is None:
        return counts
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with engine.begin() as connection:
            mails = take_due_mails(connection, limit=BATCH, lease_seconds=LEASE_SECONDS)
        for mail in mails:
            if time.monotonic() > until:
                break
            try:
                counts[_send_one(engine, settings, dashboard_url, mail)] += 1
            except Exception:  # noqa: BLE001 - whatever it is, the others are sent
                # One that can't be written stops no other; its lease ends, and the backlog shows that it waits.
                _log.exception("mail-not-written", mail=mail.id, kind=mail.kind.value)
                counts["unwritten"] += 1
        if len(mails) < BATCH:
            break
    return counts


def _send_one(engine: Engine, settings: MailSettings, dashboard_url: str, mail: ClaimedMail) -> str:
    with engine.begin() as connection:
        written = write_mail(connection, dashboard_url, mail)
        if written is None:
            end_mail(connection, mail.id, MailState.VOID, "there was nothing to tell any more")
            return MailState.VOID.value
    # The secret is stored by now: a mail that arrives is always good.
    address, text = written
    state, answer = _hand_over(settings, message_of(settings, mail, address, text))
    with engine.begin() as connection:
        if state is MailState.PLANNED:
            send_mail_again(connection, mail, answer, backoff_seconds(mail.attempts))
        else:
            end_mail(connection, mail.id, state, answer)
    if state is not MailState.SENT:
        _log.warning("mail-not-sent", mail=mail.id, kind=mail.kind.value, state=state.value, answer=answer)
    return state.value


def write_mail(connection: Connection, dashboard_url: str, mail: ClaimedMail) -> tuple[str, MailText] | None:
    """To whom, and what; None where nobody is to be told any more. Makes the secret of its link."""
    email, stale, business = connection.exec_driver_sql(_PERSON, {"id": mail.id, "stale": STALE}).one()
    if mail.link_id is None:
        return None if email is None else (email, notice_text(mail.kind, dashboard_url, business=business))
    link = links.link_with_id(connection, mail.link_id)
    if link is None or (stale and links.LASTS[link.kind] < STALE):
        return None
    if mail.kind is MailKind.ADDRESS_CHANGING:
        assert link.former_email is not None
        return link.former_email, notice_text(mail.kind, dashboard_url, business=business)
    account = users.user_with_email(connection, link.email)
    gone = account is not None and account.deactivated_at is not None
    if gone or (account is None and mail.kind is MailKind.RESET):
        return None
    # To the address that we know, and not to what somebody typed.
    address = link.email if account is None else account.email
    if account is not None and mail.kind is MailKind.SIGN_UP:
        return address, known_already(dashboard_url)
    inviter = users.user_with_id(connection, link.invited_by) if link.invited_by else None
    return address, link_text(
        mail.kind,
        link_address(dashboard_url, links.make_secret(connection, link)),
        known=account is not None,
        business=link.business,
        role=link.role,
        inviter=inviter.name if inviter else None,
    )


def link_address(dashboard_url: str, secret: str) -> str:
    """Where a link leads; of the setting, never of what a request calls us."""
    return f"{dashboard_url}{LINK_PAGE}{secret}"


def message_of(settings: MailSettings, mail: ClaimedMail, address: str, text: MailText) -> EmailMessage:
    """The mail as it goes over the wire."""
    message = EmailMessage()
    message["From"] = settings.mail_from
    message["To"] = address
    message["Subject"] = " ".join(text.subject.split())  # a name in it must begin no header
    message["Date"] = formatdate(usegmt=True)
    domain = parseaddr(settings.mail_from)[1].rpartition("@")[2] or "localhost"
    message["Message-ID"] = f"<altiora-{mail.id}-{mail.attempts}@{domain}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text.plain)
    message.add_alternative(text.html, subtype="html")
    return message


def _hand_over(settings: MailSettings, message: EmailMessage) -> tuple[MailState, str]:
    try:
        with _server(settings) as server:
            server.send_message(message)
    except smtplib.SMTPRecipientsRefused as error:
        ((number, _),) = error.recipients.values()
        return (MailState.FAILED if number >= 500 else MailState.PLANNED), str(number)
    except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as error:
        return (MailState.FAILED if error.smtp_code >= 500 else MailState.PLANNED), str(error.smtp_code)
    except smtplib.SMTPResponseException as error:  # of the server or the login, and no mail's fault
        return MailState.PLANNED, str(error.smtp_code)
    except (smtplib.SMTPException, OSError) as error:
        return MailState.PLANNED, type(error).__name__
    return MailState.SENT, "250"


@contextmanager
def _server(settings: MailSettings) -> Iterator[smtplib.SMTP]:
    assert settings.smtp_url is not None
    parts = urlsplit(settings.smtp_url.get_secret_value())
    host = parts.hostname or "localhost"
    context = ssl.create_default_context()
    if parts.scheme == "smtps":
        client: smtplib.SMTP = smtplib.SMTP_SSL(host, parts.port or 465, timeout=TIMEOUT, context=context)
    else:
        client = smtplib.SMTP(host, parts.port or 587, timeout=TIMEOUT)
    with client:
        client.ehlo()
        if parts.scheme == "smtp" and client.has_extn("starttls"):
            client.starttls(context=context)
            client.ehlo()
        if parts.username is not None:
            client.login(unquote(parts.username), unquote(parts.password or ""))
        yield client
