"""What the broker hands over, and what of it is let in: the name of a task, and nothing else (86).

What kombu or Celery can't read made it raise in the middle of the worker's loop: the worker ended and gave the message
back on its way out, for the next one to end of, or lost a place for tasks. Nothing is lost by throwing such a message
away: it is only a nudge.
"""

import json
import uuid
from queue import Empty
from typing import Any

import structlog
from celery import Celery
from celery.app.amqp import task_message
from kombu.transport import TRANSPORT_ALIASES, redis
from redis import ConnectionError, RedisError, ResponseError  # noqa: A004 - it is what kombu waits for

from tasks.queues import QUEUES, queue_of

#: Knows what a task's message looks like, and nothing of ours: neither a broker's address nor tasks.
_CELERY = Celery("messages", set_as_current=False)

_log = structlog.get_logger(__name__)


def message_of(task_name: str) -> task_message:
    """The message that has a worker run this task: headers, properties and body as Celery's protocol wants them."""
    return _CELERY.amqp.as_task_v2(str(uuid.uuid4()), task_name, (), {})


class Channel(redis.Channel):
    """Kombu's; an item that is no JSON is as if none had come, and a key that is no queue as if there were none."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._throw_strangers_away()

    def _connparams(self, asynchronous: bool = False) -> Any:
        """Where to connect to. A channel that outlives its connection gives back what it holds, and finds none.

        Kombu let the worker end of that, now and then when the broker went away.
        """
        if self.connection.client is None:
            raise ConnectionError("the connection of this channel is closed")
        return super()._connparams(asynchronous)  # type: ignore[misc]  # kombu's types don't know it

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # kombu's types don't know it
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            self._throw_strangers_away()
            raise Empty from None
        except (ValueError, RecursionError) as error:  # by reading the item, which is out of the queue by now
            _throw_away(error)
            raise Empty from None

    def _throw_strangers_away(self) -> None:
        """Remove what stands where kombu keeps its own and is nothing that it can use: nobody could send or read."""
        kinds = dict.fromkeys(QUEUES, b"list") | {"unacked": b"hash", "unacked_index": b"zset"}
        for key, kind in kinds.items():
            found = self.client.type(key)
            if found not in {kind, b"none"}:
                self.client.delete(key)
                _log.error("malformed-key", key=key, kind=found.decode(), next="removed; the sweep finds what is due")


class Transport(redis.Transport):
    """Kombu's; what is no message for its queue goes no further."""

    Channel = Channel

    def _deliver(self, message: Any, queue: str | None) -> None:
        try:
            super()._deliver(_ours(message, queue) if queue in QUEUES else message, queue)
        except (OSError, RedisError):  # of the connection, to which kombu itself counts a KeyError
            raise
        except Exception as error:  # noqa: BLE001 - whatever a message makes Python, kombu or Celery raise
            _throw_away(error)


def _ours(message: Any, queue: str | None) -> dict[str, Any]:
    """A message as we send it, for the same task. Raises TypeError, KeyError or ValueError when it names none."""
    task_name, tag = message["headers"]["task"], message["properties"]["delivery_tag"]
    if not isinstance(task_name, str) or not isinstance(tag, str):
        raise TypeError(f"{type(task_name)} {type(tag)}")
    queue_of(task_name)
    made = message_of(task_name)
    return {
        "body": json.dumps(made.body),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": made.headers,
        "properties": {
            **made.properties,
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": queue},
        },
    }


def _throw_away(error: Exception) -> None:
    _log.error("malformed-message", error=type(error).__name__, next="thrown away; what is due is found by the sweep")


def let_in_only_ours() -> None:
    """Have every connection of this process to a broker work so."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
