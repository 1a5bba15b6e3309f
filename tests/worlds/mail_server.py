"""A mail server on a loopback port, which keeps what it is sent, or refuses it as it is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from typing import Any

from aiosmtpd.controller import Controller

from ops.processes.supervisor import free_port


class MailServer:
    """``mails`` in their order; ``answers``: what the next ones are answered instead, as ``451 later``."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.answers: list[str] = []
        self.loses_answers = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802 - aiosmtpd's name
        if address.startswith("nobody"):
            return "550 no such person as " + address
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - as above
        if self.answers:
            return self.answers.pop(0)
        self.mails.append(BytesParser(EmailMessage, policy=default).parsebytes(envelope.content))
        if self.loses_answers:
            self.loses_answers -= 1
            server.transport.abort()
        return "250 OK"

    def secret(self, index: int = -1) -> str:
        """The secret of the link in a mail."""
        return _secret(self.mails[index])

    def newest_secret(self, address: str | None = None) -> str:
        """That of the newest mail with a link, to this address."""
        with_links = [mail for mail in self.mails if "/link#" in str(mail.get_body(("plain",)))]
        found = [mail for mail in with_links if address in {mail["to"], None}]
        assert found, f"no link was mailed to {address}, but to {[mail['to'] for mail in with_links]}"
        return _secret(found[-1])

    @contextmanager
    def running(self) -> Iterator["MailServer"]:
        self.port = free_port()
        controller = Controller(self, hostname="127.0.0.1", port=self.port)
        controller.start()
        try:
            yield self
        finally:
            controller.stop()


def _secret(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content().partition("/link#")[2].split()[0])
