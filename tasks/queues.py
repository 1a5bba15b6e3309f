"""The queues, and which one a task goes to: the word its name begins with decides."""

from typing import Any

#: Queue of the tasks whose names begin so; priorities are made of queues, since a long close must not delay a drain.
QUEUE_OF_PREFIX = {
    "events": "events",
    "usage": "usage",
    "periods": "usage",
    "stripe": "stripe",
    "twilio": "maintenance",
    "mail": "maintenance",
    "maintenance": "maintenance",
}

QUEUES = tuple(dict.fromkeys(QUEUE_OF_PREFIX.values()))


def queue_of(task_name: str) -> str:
    """The queue of a task. Raises ValueError for a name whose first word has none."""
    prefix = task_name.split(".", 1)[0]
    if prefix not in QUEUE_OF_PREFIX:
        raise ValueError(f"no queue is set for tasks named {prefix}.…; add it to tasks/queues.py")
    return QUEUE_OF_PREFIX[prefix]


def route(task_name: str, *_: Any, **__: Any) -> dict[str, str] | None:
    """Celery's router. Celery's own tasks (``celery.…``) have no route: they run where they are called."""
    return None if task_name.startswith("celery.") else {"queue": queue_of(task_name)}
