"""The nudge: tells the workers at once that something is due. It carries nothing and may be lost without harm.

With Celery's own publisher a broker that hangs blocked the caller for two minutes. Here the caller never waits: a
thread publishes, on a connection of its own, with short timeouts and without a second try. Whatever is lost, the
next sweep finds.
"""

import contextlib
import os
import threading
import time
from typing import Any

import structlog
from kombu import Connection, Producer

from tasks.broker_messages import message_of
from tasks.queues import queue_of

#: Seconds to connect, and for each answer of the broker.
TIMEOUT = 0.5
#: Seconds between two messages: under load one stands for all the groups that were stored meanwhile. Each takes the
#: receiver a millisecond.
PAUSE = 0.05
#: A queue that holds so many has enough to wake every worker; without a bound it grew while no worker runs.
ENOUGH = 10

_log = structlog.get_logger(__name__)


class Nudge:
    """Sends task messages to the broker at ``broker_url``. May be shared by threads, and survives a fork."""

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._pid = 0
        self._reached = True

    def send(self, task_name: str) -> None:
        """Have some worker run this task soon, or nothing. Returns at once and never raises.

        At most one message is on its way, and for each task one more waits.
        """
        if self._pid != os.getpid():
            self._begin()
        with self._changed:
            self._waiting[task_name] = None
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, as far as the broker takes it, and end the thread; takes little more than a second."""
        if self._pid != os.getpid():
            return
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(4 * TIMEOUT)
        self._pid = 0

    def _begin(self) -> None:
        """Start this process's thread. A child of a fork has none, and its parent's lock may be held for ever."""
        self._waiting: dict[str, None] = {}  # a set that keeps its order
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="nudge", daemon=True)
        self._thread.start()
        self._pid = os.getpid()

    def _work(self) -> None:
        connection: Connection | None = None
        while (task_name := self._next()) is not None:
            try:
                connection = connection or _connection(self._broker_url)
                _publish(connection, task_name)
            except Exception as error:  # noqa: BLE001 - whatever it is: the sweep finds what this would have told
                if self._reached:
                    _log.warning("broker-away", error=type(error).__name__, task=task_name)
                self._reached = False
                _release(connection)
                connection = None
            else:
                if not self._reached:
                    _log.info("broker-back")
                self._reached = True
            time.sleep(PAUSE)
        _release(connection)

    def _next(self) -> str | None:
        """The next task that is wanted, waiting for one; none when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            for task_name in self._waiting:
                del self._waiting[task_name]
                return task_name
            return None


def _connection(broker_url: str) -> Connection:
    timeouts = {"socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT}
    # Without max_retries kombu tries to connect for ever.
    return Connection(broker_url, connect_timeout=TIMEOUT, transport_options={**timeouts, "max_retries": 0})


def _release(connection: Connection | None) -> None:
    if connection is not None:
        with contextlib.suppress(Exception):  # one that never was connected raises
            connection.release()


def _publish(connection: Connection, task_name: str) -> None:
    queue = queue_of(task_name)
    channel: Any = connection.default_channel  # kombu's types know nothing of queues
    if channel.queue_declare(queue=queue).message_count >= ENOUGH:
        return
    message = message_of(task_name)
    # No exchange: the message goes straight to the queue, which needs no binding.
    Producer(channel).publish(
        message.body,
        exchange="",
        routing_key=queue,
        serializer="json",
        headers=message.headers,
        retry=False,
        **message.properties,
    )
