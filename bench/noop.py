"""Yardstick: a Celery task that does nothing, in an application with our settings.

What is only there to be watched is taken away from it: log lines, events for Flower, and what we bind to a task.
"""

from celery import signals

from tasks.app import app

for signal in (signals.setup_logging, signals.task_prerun, signals.task_postrun):
    signal.receivers.clear()
app.conf.worker_send_task_events = False


@app.task(name="events.noop")
def noop() -> None:
    """Do nothing."""
