"""Posting over one kept-alive HTTP/1.1 connection.

The sandbox sends tens of thousands of webhooks in a minute, beside the programs that it tests and on the same
processors. A general client (httpx) takes 2 to 4 ms of processor time for each, this line a tenth of one.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

#: Seconds after which an idle connection is not used again: servers close theirs after five, and a request that
#: crosses such a close would look like a receiver that failed.
IDLE = 2.0


class NotConnectedError(Exception):
    """No connection could be opened: nothing listens at the target, or it does not accept in time."""


class NoAnswerError(Exception):
    """The request left and no whole answer came back in time; the receiver may have acted on it."""


class Line:
    """One connection to ``target`` (``http://host:port``), opened when it is needed. For one sender at a time."""

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        if parts.scheme not in {"http", "https"} or parts.hostname is None:
            raise ValueError(f"{target}: webhooks are sent to an address like http://127.0.0.1:8000")
        self._host = parts.hostname
        self._tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._used = 0.0

    async def post(self, path: str, headers: Mapping[str, str], body: bytes, timeout: float) -> int:  # noqa: ASYNC109 -- a time limit per request is the caller's, as Stripe's and Twilio's differ
        """Post ``body`` and return the status of the answer. ``timeout`` in seconds, for connect and answer each.

        Raises NotConnectedError and NoAnswerError.
        """
        reader, writer = await self._connected(timeout)
        lines = [f"POST {self._prefix}{path} HTTP/1.1", f"Host: {self._host}:{self._port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        try:
            async with asyncio.timeout(timeout):
                writer.write("\r\n".join(lines).encode() + body)
                return await self._answer(reader)
        except (OSError, EOFError, ValueError, TimeoutError, asyncio.LimitOverrunError) as error:
            self._drop()
            raise NoAnswerError(str(error) or type(error).__name__) from error
        except asyncio.CancelledError:
            self._drop()
            raise

    async def close(self) -> None:
        """Close the connection; the next post opens another."""
        if self._streams is not None:
            _, writer = self._streams
            self._drop()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _connected(self, timeout: float) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:  # noqa: ASYNC109 -- as in post
        if self._streams is not None:
            if time.monotonic() - self._used < IDLE and not self._streams[0].at_eof():
                return self._streams
            self._drop()
        try:
            async with asyncio.timeout(timeout):
                self._streams = await asyncio.open_connection(self._host, self._port, ssl=self._tls or None)
        except (OSError, TimeoutError) as error:
            raise NotConnectedError(str(error)) from error
        return self._streams

    async def _answer(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = int(head[9:12])
        names = dict(line.split(":", 1) for line in head.split("\r\n")[1:] if line)
        length = names.get("content-length", "0" if status == 204 else None)
        if length is None or "close" in names.get("connection", ""):
            self._drop()  # where the body ends is not said, or nothing follows: the status is all that matters
        else:
            await reader.readexactly(int(length))
            self._used = time.monotonic()
        return status
