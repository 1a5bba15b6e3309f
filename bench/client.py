"""The load generator, a process of its own: sends prepared requests over keep-alive connections.

``python -m bench.client REQUESTS ANSWERS PORT CONNECTIONS [RATE]``: REQUESTS is a pickled list of whole HTTP requests;
what came of them is written to ANSWERS. Without a rate each connection sends its next request as soon as it has its
answer. With one, requests are due at random moments, so many a second on average, and the time of an answer runs from
the moment its request was due: a server that stalls is charged with everybody whom it kept waiting.

Lean on purpose, sockets and epoll: it shares two cores with what it measures.
"""

import json
import pickle
import random
import select
import socket
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

#: Seconds without any answer, after which a load is given up.
_SILENCE = 30.0


@dataclass(frozen=True)
class Answers:
    """What a load came to. Instants are seconds since the epoch, by the machine's clock."""

    first_sent_at: float
    due_at: list[float]
    """When each request was to be sent, in their order."""
    answered_at: list[float]


class _Connection:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = 0
        self._received = b""

    def send(self, request: int, content: bytes) -> None:
        self.request = request
        self.socket.sendall(content)

    def status(self) -> int | None:
        """The status of the answer, once all of it is here."""
        part = self.socket.recv(65_536)
        if not part:
            raise ConnectionError("the server hung up")
        self._received += part
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length):
            return None
        self._received = b""
        return int(head[9:12])


def send(requests: list[bytes], port: int, connections: int, rate: float | None) -> Answers:
    """Send all requests and wait for all answers. Raises an error when one is not 200, or none comes any more."""
    poll = select.epoll()
    by_file = {}
    idle: deque[_Connection] = deque()
    for _ in range(connections):
        connection = _Connection(port)
        by_file[connection.socket.fileno()] = connection
        poll.register(connection.socket, select.EPOLLIN)
        idle.append(connection)
    chance = random.Random(len(requests))
    due_at, answered_at = [0.0] * len(requests), [0.0] * len(requests)
    start = moment = time.time()
    for number in range(len(requests)):
        due_at[number] = moment
        moment += chance.expovariate(rate) if rate else 0.0
    sent = answered = 0
    heard = start
    while answered < len(requests):
        now = time.time()
        while idle and sent < len(requests) and due_at[sent] <= now:
            if not rate:
                due_at[sent] = now
            idle.popleft().send(sent, requests[sent])
            sent += 1
        waits = 1.0 if not idle or sent == len(requests) else max(0.0, due_at[sent] - time.time())
        for file, _ in poll.poll(min(waits, 1.0)):
            connection = by_file[file]
            status = connection.status()
            if status is not None:
                if status != 200:
                    raise RuntimeError(f"request {connection.request} was answered {status}")
                heard = answered_at[connection.request] = time.time()
                idle.append(connection)
                answered += 1
        if answered < sent and time.time() - heard > _SILENCE:
            raise TimeoutError(f"no answer for {_SILENCE:.0f} s, after {answered} of {len(requests)}")
    for connection in by_file.values():
        connection.socket.close()
    return Answers(start, due_at, answered_at)


def main() -> None:
    requests_file, answers_file, port, connections, *rate = sys.argv[1:]
    requests = pickle.loads(Path(requests_file).read_bytes())
    answers = send(requests, int(port), int(connections), float(rate[0]) if rate else None)
    Path(answers_file).write_text(json.dumps(asdict(answers)))


if __name__ == "__main__":
    main()
