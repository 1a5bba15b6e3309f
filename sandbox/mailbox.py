"""A stand-in for a mail server and everybody's mailbox: what is sent to anybody is shown on one page, on loopback."""

import asyncio
import html
import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from string import Template
from typing import Any

import orjson
from aiosmtpd.smtp import SMTP
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

#: The newest mails are kept, so many.
KEPT = 200

_LINK = re.compile(r"https?://[^\s<>\"']+")

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>Mailbox</title><style>
body{margin:0;font:16px/1.5 system-ui,sans-serif;background:#f4f6fa;color:#1a2233}
header{background:#0f2747;color:#fff;padding:16px 24px;font-weight:600}
main{max-width:760px;margin:0 auto;padding:16px}
article{background:#fff;border-radius:8px;padding:16px 20px;margin:0 0 16px}
h2{font-size:18px;margin:0}p.about{color:#556074;font-size:14px;margin:4px 0 12px}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:inherit;margin:0}a{color:#1d5fd1}
@media(prefers-color-scheme:dark){body{background:#0c1626;color:#e6ebf5}article{background:#152238}
p.about{color:#a9b5c9}a{color:#8ab4ff}}
</style></head><body><header>Mailbox of the stand-in: no mail leaves this machine</header>
<main>$mails</main></body></html>
""")


@dataclass(frozen=True, slots=True)
class StoredMail:
    """A mail that somebody was sent."""

    to: str
    subject: str
    at: datetime
    text: str

    @classmethod
    def of(cls, content: bytes) -> "StoredMail":
        """From its bytes."""
        message = BytesParser(EmailMessage, policy=default).parsebytes(content)
        body = message.get_body(("plain", "html"))
        text = body.get_content() if body is not None else ""
        return cls(str(message["to"] or ""), str(message["subject"] or ""), datetime.now(UTC), text)


class Mailbox:
    """Takes mails by SMTP and shows them at ``/_sandbox/mail``; as JSON at ``/_sandbox/mails``."""

    def __init__(self) -> None:
        self._mails: deque[StoredMail] = deque(maxlen=KEPT)
        self.routes = [Route("/_sandbox/mail", self._page), Route("/_sandbox/mails", self._json)]

    async def listen(self, host: str, port: int) -> asyncio.Server:
        """Take mails until the server is closed. Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: SMTP(self, hostname="sandbox", loop=loop), host, port)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """One mail has come."""
        self._mails.appendleft(StoredMail.of(envelope.content))
        return "250 OK"

    async def _page(self, _: Request) -> Response:
        shown = "".join(map(_article, self._mails)) or "<p>Nothing has come yet.</p>"
        policy = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return HTMLResponse(_PAGE.substitute(mails=shown), headers=policy)

    async def _json(self, _: Request) -> Response:
        return Response(orjson.dumps(list(self._mails)), media_type="application/json")


def _article(mail: StoredMail) -> str:
    text = _LINK.sub(lambda found: f'<a href="{found[0]}">{found[0]}</a>', html.escape(mail.text, quote=False))
    about = f"to {html.escape(mail.to)}, {mail.at:%H:%M:%S} UTC"
    return f'<article><h2>{html.escape(mail.subject)}</h2><p class="about">{about}</p><pre>{text}</pre></article>'
