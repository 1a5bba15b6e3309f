"""Crowds at the door (91): who only begins requests is closed for those who finish theirs, and memory is bounded."""

import asyncio
import math
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from receiver import server
from tests.worlds.breaking import breaks
from tests.worlds.webhooks import from_stripe, send, start_receiver, stripe_event

#: Bytes that a receiver takes at most, whatever comes: docs/operations.md tells it.
MEMORY = 480_000_000
HEAD = b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """Enough sockets for this process's crowd."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 8_192 else max(soft, 8_192), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(pid: int) -> int:
    """The most that a process has had in memory, in bytes."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@asynccontextmanager
async def crowd(port: int, size: int, first: bytes) -> AsyncIterator[list[asyncio.StreamWriter]]:
    """So many connections, each of which has sent ``first``."""
    writers = []
    for _ in range(size):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        writers.append(writer)
    try:
        yield writers
    finally:
        for writer in writers:
            writer.transport.abort()


async def honest(port: int, number: int) -> float:
    """Seconds until a signed event is answered 200; for ever, if the connection is closed."""
    began = time.monotonic()
    try:
        answer = await asyncio.to_thread(send, port, from_stripe(stripe_event(number)))
    except OSError:
        return math.inf
    assert answer.status == 200
    return time.monotonic() - began


@breaks("receiver/server.py", "            oldest.close()", "            transport.abort()")
def test_91_half_sent_heads_keep_nobody_out(environment, processes):
    port = start_receiver(processes, environment)

    async def run() -> list[float]:
        async with crowd(port, 1_500, HEAD):
            return [await honest(port, number) for number in range(20)]

    assert max(asyncio.run(run())) < 1
    log = (processes.folder / "receiver.log").read_text()
    assert '"closed-unfinished"' in log


@breaks(
    "receiver/app.py",
    "                while self._unfinished > UNFINISHED and self._readers:",
    "                while False:",
)
@pytest.mark.parametrize("signature", [b"", b"Stripe-Signature: t=1,v1=forged\r\n"], ids=["unsigned", "forged"])
def test_91_a_thousand_large_bodies_at_once_take_bounded_memory(environment, processes, signature):
    port = start_receiver(processes, environment)
    body = bytes(999_999)  # a byte of each is missing: all are held at once, if any are
    head = HEAD + signature + b"Content-Length: 1000000\r\n\r\n"

    async def run() -> list[float]:
        async with crowd(port, 950, head) as writers:
            waits = []
            for begin in range(0, len(body), 100_000):
                for writer in writers:
                    if not writer.is_closing():
                        writer.write(body[begin : begin + 100_000])
                waits.append(await honest(port, begin))
            return waits

    assert max(asyncio.run(run())) < 1
    assert memory(processes.pid("receiver")) < MEMORY


def test_91_an_endless_head_and_one_that_stands_still_are_closed(environment, processes):
    port = start_receiver(processes, environment)

    async def run() -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + b"X: " + b"x" * 2 * server._HEAD)
        still, standing = await asyncio.open_connection("127.0.0.1", port)
        standing.write(HEAD)
        ends = []
        for each in (reader, still):
            async with asyncio.timeout(server._HEAD_TIMEOUT + 5):
                try:
                    ends.append(await each.read())
                except ConnectionResetError:
                    ends.append(b"")
        for sender in (writer, standing):
            sender.transport.abort()
        return ends[0], ends[1]

    assert asyncio.run(run()) == (b"", b"")
