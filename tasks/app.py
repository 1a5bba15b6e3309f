"""The Celery app ``tasks.app:app``: its settings, each with its reason, and the worker's life cycle.

The broker holds nudges, the database holds the work: a lost message costs at most the time until the next sweep.
"""

import gc
from typing import Any, ClassVar

import structlog
from celery import Celery, Task, signals
from kombu import Queue

from pipeline.shared import logs
from pipeline.shared.settings import BrokerSettings, load
from schedules.table import beat_schedule
from tasks import broker_messages, engine
from tasks.queues import QUEUES, route


class Configuration:
    """Celery's settings, asked for when it needs them: whoever only imports this module needs none of ours."""

    # Redis' transport passes these to every connection. Without timeouts a broker that hangs holds us for ever.
    broker_transport_options: ClassVar = {
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        # Longer than any task's hard limit, or a message would be handed out twice while it is worked on.
        "visibility_timeout": 600,
        # Look for abandoned messages every 10 s times 3.
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 3,
    }
    broker_connection_timeout = 5
    # A broker that is away comes back: a worker waits for it, at its start too.
    broker_connection_retry_on_startup = True
    broker_connection_max_retries = None
    # Direct queues: publishing to them needs no binding in the broker. With a topic exchange, FLUSHALL deletes the
    # bindings, and the next message was lost without a word.
    task_queues = tuple(Queue(name, routing_key=name) for name in QUEUES)
    task_default_queue = "maintenance"
    task_default_exchange = "altiora"
    task_default_exchange_type = "direct"
    task_default_routing_key = "maintenance"
    task_routes = (route,)
    # A misspelt queue stops the worker, instead of being one that nobody fills.
    task_create_missing_queues = False
    imports = (
        "tasks.events",
        "tasks.usage",
        "tasks.periods",
        "tasks.stripe",
        "tasks.twilio",
        "tasks.mail",
        "tasks.maintenance",
    )
    # Nothing that a broker sends us is unpickled.
    task_serializer = "json"
    event_serializer = "json"
    result_serializer = "json"
    accept_content = ("json",)
    enable_utc = True
    timezone = "UTC"
    # Outcomes are rows; nobody reads results.
    result_backend = None
    task_ignore_result = True
    # Acknowledged after the work: a worker that is stopped in an orderly way gives its message back.
    task_acks_late = True
    # Not given back when a child is killed, or a task that kills its worker would loop: the sweep is the one retry.
    task_reject_on_worker_lost = False
    # A task goes on when the broker is away for a moment; if its message comes again, it finds nothing due.
    worker_cancel_long_running_tasks_on_connection_loss = False
    # One message each: a long task must not sit on messages that an idle worker could take.
    worker_prefetch_multiplier = 1
    worker_pool = "prefork"
    # A drain works for 20 s; database timeouts (db/engine.py) end before the soft limit.
    task_soft_time_limit = 60
    task_time_limit = 90
    # Flower shows what workers do by their events.
    worker_send_task_events = True

    @property
    def broker_url(self) -> str:
        return load(BrokerSettings).broker_url.get_secret_value()

    @property
    def beat_schedule(self) -> dict[str, dict[str, Any]]:
        return beat_schedule(load(BrokerSettings).beat_pace)


broker_messages.let_in_only_ours()
app = Celery("altiora")
app.config_from_object(Configuration())


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    """JSON lines; connecting to this signal also keeps Celery from setting up its own."""
    logs.configure()


@signals.worker_process_init.connect
def _begin_child(**_: Any) -> None:
    engine.engine()
    # What was loaded before the fork lives as long as the child, and a batch's rows are freed by their references:
    # looking for cycles among them after every 700 objects took 8 % of a drain.
    gc.freeze()
    gc.set_threshold(50_000)


@signals.worker_process_shutdown.connect
def _dispose_engine(**_: Any) -> None:
    engine.dispose()


@signals.task_prerun.connect
def _bind(task_id: str, task: Task[..., Any], **_: Any) -> None:
    """Every line that a task logs names it."""
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@signals.task_postrun.connect
def _unbind(**_: Any) -> None:
    structlog.contextvars.clear_contextvars()
